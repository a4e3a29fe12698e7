"""The models of the series, by name: from the cache while their fingerprint holds, else trained on the spot."""

import ast
import hashlib
import json
import re
from functools import partial
from pathlib import Path

import torch

from advutils import checks, processes
from advutils.attacks import fgsm, pgd
from advutils.data import cache_dir, device, load_data, make_loader, shift, split, writable
from advutils.models import load_weights, save_weights, small_cnn, vgg
from advutils.objectives import adversarial, clean, joined, n_fgsm, random_fgsm, trades
from advutils.training import History, fit

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
NUMERIC = ("data", "models", "attacks", "objectives", "evaluation", "training", "trained", "processes")
RECIPES = {  # chosen on validation images
    "clean": dict(epochs=8, lr=3e-3, batch_size=32, seed=0),
    "clean-small-cnn": dict(epochs=6, lr=1e-3, batch_size=32, seed=0),
    "joined-fgsm": dict(epochs=5, lr=3e-3, batch_size=32, seed=0),
    "fgsm": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, ramp=1, average=None),
    "random-fgsm": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, ramp=1, average=None),
    "n-fgsm": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, ramp=1, average=None),
    "pgd": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, ramp=1, average=None, steps=5),
    "trades": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, ramp=1, average=None, steps=5, beta=6.0),
}
OBJECTIVES = {
    "clean": clean,
    "clean-small-cnn": clean,
    "joined-fgsm": joined,
    "fgsm": partial(adversarial, attack=fgsm),
    "random-fgsm": random_fgsm,
    "n-fgsm": n_fgsm,
    "trades": trades,
}
WATCH = {"FGSM": fgsm, "PGD": partial(pgd, steps=20)}


def trained(name, *, dataset="mnist-5k", depth=16, width=0.25, contrast=None, progress=True, **recipe):
    """A model of the series, trained: loaded when the cache has it, else trained with a progress bar and cached.

    Args:
        name: "clean" (the VGG), "clean-small-cnn" (the weaker network), or a defence with its radius E in pixel units,
            as in "joined-fgsm-0.1": "joined-fgsm-E" (each batch joined with its FGSM images), "fgsm-E" (these alone),
            "random-fgsm-E", "n-fgsm-E", "pgd-E", "trades-E".
        dataset: a name that `load_data` knows; the model is trained on 90% of its training part, validated on the rest.
        depth, width, contrast: of the VGG.
        progress: show the bar.
        **recipe: an entry of `RECIPES[kind]`, where other than there: epochs, lr, batch_size, seed and, of the defences
            other than the joined one, ramp, average (see `fit`), and steps and beta of their objectives.

    Returns:
        The model, in eval mode, on `device()`, with its `History` as `model.history`. Defences other than the joined
        one are watched under FGSM and PGD; the epoch that PGD leaves most is the one that is kept.

    Raises:
        ValueError: a name or a recipe entry that is not among these.

    The fingerprint hashes the recipe and the package's numeric code without comments and docstrings, so a model is
    trained anew when either has changed. (Not when PyTorch, the processor or its threads have.) A training that was
    broken off goes on where its last epoch ended. Taught in 01_train_vgg.ipynb.
    """
    kind, eps = _parse(name)
    for key in recipe:
        checks.one_of(key, "recipe", RECIPES[kind])
    recipe = RECIPES[kind] | recipe
    images = load_data(dataset, train=True)
    channels = images.tensors[0].shape[1]
    slim = partial(vgg, depth, width=width, in_channels=channels, contrast=contrast)
    build = partial(small_cnn, in_channels=channels) if kind == "clean-small-cnn" else slim
    model = initialised(build, seed=recipe["seed"]).to(device())
    several = {} if processes.count() == 1 else dict(processes=processes.count())  # other batch norm, so other weights
    stamp = fingerprint(dict(name=name, dataset=dataset, config=model.config, **recipe, **several))
    path = cache_dir() / "models" / f"{name}-{dataset}-{stamp[:16]}.safetensors"
    if processes.agreed(path.exists()):
        saved = load_weights(model, path)
        if saved["fingerprint"] != stamp:
            raise ValueError(
                f"{path}: got a file of another recipe or version under this name; delete it and call again"
            )
        model.history = History(**saved["history"])
        return model.eval()
    writable(path.parent)
    train, val = split(images, 0.1, seed=0)
    state = path.with_suffix(".state.safetensors")
    model.history = fit(
        model,
        make_loader(train, batch_size=recipe["batch_size"], shuffle=True, seed=recipe["seed"]),
        make_loader(val, batch_size=500),
        epochs=recipe["epochs"],
        lr=recipe["lr"],
        objective=_objective(kind, recipe),
        eps=eps,
        ramp=recipe.get("ramp", 0),
        average=recipe.get("average"),
        watch=WATCH if "ramp" in recipe else None,
        state=state,
        augment=shift,
        seed=recipe["seed"],
        engine=processes.engine(),
        progress=progress,
    )
    if processes.first():
        about = dict(name=name, dataset=dataset, config=model.config, **recipe)
        save_weights(model, path, recipe=about, fingerprint=stamp, history=vars(model.history))
        state.unlink(missing_ok=True)  # another program that trained the same may have been first
    return model


def initialised(build, *, seed):
    """A fresh network with the initial weights of that seed; the caller's random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def fingerprint(*ingredients):
    """A hash of the ingredients (what JSON can hold) and of the package's numeric code, comments left out."""
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode())
    for module in NUMERIC:
        digest.update(code_of(Path(__file__).with_name(f"{module}.py")).encode())
    return digest.hexdigest()


def code_of(path):
    """The code of a Python file as text, without comments, docstrings and layout; the same in every Python."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return json.dumps(_spelled(tree))


def _spelled(node):
    if isinstance(node, ast.AST):  # empty fields are left out, as newer versions have more of them
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return [type(node).__name__, *([name, _spelled(value)] for name, value in fields)]
    return [_spelled(part) for part in node] if isinstance(node, list) else repr(node)


def _parse(name):
    """The entry of `RECIPES` that a model's name refers to, and its radius."""
    match = re.fullmatch(r"(joined-fgsm|fgsm|random-fgsm|n-fgsm|pgd|trades)-(\d\.?\d*)", str(name))
    if match:
        return match[1], checks.eps(float(match[2]), "name")
    defences = ", ".join(f"{kind}-E" for kind in RECIPES if not kind.startswith("clean"))
    checks.one_of(name, "name", ("clean", "clean-small-cnn", f"{defences} (E a radius, as in joined-fgsm-0.1)"))
    return name, None


def _objective(kind, recipe):
    if kind == "pgd":
        return partial(adversarial, attack=partial(pgd, steps=recipe["steps"]))
    chosen = {key: recipe[key] for key in ("steps", "beta") if key in recipe}
    return partial(OBJECTIVES[kind], **chosen) if chosen else OBJECTIVES[kind]
