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
RECIPE = dict(epochs=8, lr=2e-3, batch_size=64, seed=0)


def trained(name, *, dataset="mnist-5k", depth=16, width=0.25, progress=True, **recipe):
    """A model of the series, trained: loaded when the cache has it, else trained with a progress bar and cached.

    Args:
        name: "clean" (the VGG), "clean-small-cnn" (the weaker network), or "joined-fgsm-E" with E a radius in pixel
            units, as in "joined-fgsm-0.1" (the VGG on each batch joined with its FGSM images).
        dataset: a name that `load_data` knows; the model is trained on 90% of its training part and validated on the rest.
        depth, width: of the VGG.
        progress: show the bar.
        **recipe: epochs, lr, batch_size or seed, where other than in `RECIPE`.

    Returns:
        The model, in eval mode, on `device()`, with its `History` as `model.history`.

    Raises:
        ValueError: a name or a recipe entry that is not among these.

    The fingerprint hashes the recipe and the package's numeric code without comments and docstrings, so a model is trained
    anew exactly when it could come out different. Taught in 01_train_vgg.ipynb.
    """
    for key in recipe:
        checks.one_of(key, "recipe", RECIPE)
    recipe = RECIPE | recipe
    images = load_data(dataset, train=True)
    channels = images.tensors[0].shape[1]
    if name == "clean-small-cnn":
        build, objective = partial(small_cnn, in_channels=channels), clean
    else:
        build, objective = partial(vgg, depth, width=width, in_channels=channels), _objective(name)
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
    """A hash of the ingredients (what JSON can hold) and of the package's numeric code; comments and docstrings are free."""
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode())
    for module in NUMERIC:
        tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _objective(name):
    if name == "clean":
        return clean
    match = re.fullmatch(r"joined-fgsm-(0\.\d+)", name)
    if match is None:
        raise ValueError(f"name: got {name!r}; accepts 'clean', 'clean-small-cnn' or 'joined-fgsm-E', E from 0 to 1")
    return partial(joined, eps=float(match[1]))
