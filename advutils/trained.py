"""The models of the series, by name: from the cache while their fingerprint holds, else trained on the spot."""

import ast
import hashlib
import json
import re
from functools import partial
from pathlib import Path

import torch

from advutils import checks
from advutils.data import cache_dir, device, load_data, make_loader, shift, split
from advutils.models import load_weights, save_weights, small_cnn, vgg
from advutils.objectives import clean, joined
from advutils.training import History, fit

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
NUMERIC = ("data", "models", "attacks", "objectives", "evaluation", "training", "trained")
RECIPES = {  # chosen on validation images
    "clean": dict(epochs=8, lr=3e-3, batch_size=32, seed=0),
    "clean-small-cnn": dict(epochs=6, lr=1e-3, batch_size=32, seed=0),
    "joined-fgsm": dict(epochs=5, lr=3e-3, batch_size=32, seed=0),
}


def trained(name, *, dataset="mnist-5k", depth=16, width=0.25, progress=True, **recipe):
    """A model of the series, trained: loaded when the cache has it, else trained with a progress bar and cached.

    Args:
        name: "clean" (the VGG), "clean-small-cnn" (the weaker network), or "joined-fgsm-E" with E a radius in pixel
            units, as in "joined-fgsm-0.1" (the VGG on each batch joined with its FGSM images).
        dataset: a name that `load_data` knows; the model is trained on 90% of its training part, validated on the rest.
        depth, width: of the VGG.
        progress: show the bar.
        **recipe: epochs, lr, batch_size or seed, where other than in `RECIPES`.

    Returns:
        The model, in eval mode, on `device()`, with its `History` as `model.history`.

    Raises:
        ValueError: a name or a recipe entry that is not among these.

    The fingerprint hashes the recipe and the package's numeric code without comments and docstrings, so a model is
    trained anew exactly when it could come out different. Taught in 01_train_vgg.ipynb.
    """
    kind, objective = _parse(name)
    for key in recipe:
        checks.one_of(key, "recipe", RECIPES[kind])
    recipe = RECIPES[kind] | recipe
    images = load_data(dataset, train=True)
    channels = images.tensors[0].shape[1]
    slim = partial(vgg, depth, width=width, in_channels=channels)
    build = partial(small_cnn, in_channels=channels) if kind == "clean-small-cnn" else slim
    model = initialised(build, seed=recipe["seed"]).to(device())
    recipe = dict(name=name, dataset=dataset, config=model.config, **recipe)
    stamp = fingerprint(recipe)
    path = cache_dir() / "models" / f"{name}-{dataset}-{stamp[:16]}.safetensors"
    if path.exists():
        model.history = History(**load_weights(model, path)["history"])
        return model.eval()
    train, val = split(images, 0.1, seed=0)
    model.history = fit(
        model,
        make_loader(train, batch_size=recipe["batch_size"], shuffle=True, seed=recipe["seed"]),
        make_loader(val, batch_size=500),
        epochs=recipe["epochs"],
        lr=recipe["lr"],
        objective=objective,
        augment=shift,
        seed=recipe["seed"],
        progress=progress,
    )
    save_weights(model, path, recipe=recipe, fingerprint=stamp, history=vars(model.history))
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
        tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _parse(name):
    """The entry of `RECIPES` that a model's name refers to, and its objective."""
    match = re.fullmatch(r"joined-fgsm-(\d\.?\d*)", str(name))
    if match:
        return "joined-fgsm", partial(joined, eps=checks.eps(float(match[1]), "name"))
    checks.one_of(name, "name", ("clean", "clean-small-cnn", "joined-fgsm-E (E a radius, as in joined-fgsm-0.1)"))
    return name, clean
