"""The models of the series, by name: published with the package, else from the cache, else trained on the spot."""

import json
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advutils.attacks.gradient import fgsm, pgd
from advutils.certify import tighten
from advutils.data import DATASETS, device, load_data, make_loader, shift, split
from advutils.models import small_cnn, strided_cnn, vgg
from advutils.objectives import OBJECTIVES
from advutils.training import History, fit
from advutils.utils import distributed, validation
from advutils.utils.contracts import Objective
from advutils.utils.storage import cache_dir, writable
from advutils.utils.weights import load_weights, save_weights

PUBLISHED = Path(__file__).with_name("published")  # made by `make weights ARGS=--write`
CERTIFIED: dict[str, Any] = dict(
    epochs=30, lr=5e-3, batch_size=100, seed=0, eps_warmup=15, kappa=0.5, channels=8, batch_norm=False, shifted=False
)
WIDE = CERTIFIED | dict(kappa=0.0, contrast=20.0, channels=48, batch_norm=True)
RECIPES: dict[str, dict[str, Any]] = {  # chosen on validation images
    "clean": dict(epochs=8, lr=3e-3, batch_size=32, seed=0),
    "clean-small-cnn": dict(epochs=6, lr=1e-3, batch_size=32, seed=0),
    "outsider-small-cnn": dict(epochs=12, lr=1e-3, batch_size=32, seed=2),
    "mixed-fgsm": dict(epochs=5, lr=3e-3, batch_size=32, seed=0),
    "fgsm": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, eps_warmup=1, ema_decay=None),
    "fgsm-last": dict(epochs=6, lr=3e-3, batch_size=32, seed=0),
    "random-fgsm": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, eps_warmup=1, ema_decay=None),
    "n-fgsm": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, eps_warmup=1, ema_decay=None),
    "pgd": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, eps_warmup=1, ema_decay=None, steps=5),
    "trades": dict(epochs=6, lr=3e-3, batch_size=32, seed=0, eps_warmup=1, ema_decay=None, steps=5, beta=6.0),
    "certified-0.1": CERTIFIED | dict(eps=0.13, contrast=None),
    "certified-0.3": CERTIFIED | dict(eps=0.39, contrast=20.0),
    "certified-wide-0.1": WIDE | dict(epochs=45, eps=0.11, eps_warmup=16, shifted=True),
    "certified-wide-0.3": WIDE | dict(epochs=50, eps=0.33, eps_warmup=18),
}
VERSIONS = dict.fromkeys(RECIPES, 1)  # raise a recipe's when the weights that it gives change: test_golden.py
TRAINED_BY = {  # the objective of a recipe, where it does not bear its name
    "clean-small-cnn": "clean",
    "outsider-small-cnn": "clean",
    "mixed-fgsm": "mixed",
    **dict.fromkeys(("fgsm", "fgsm-last", "pgd"), "adversarial"),
    **{kind: "ibp" for kind in RECIPES if kind.startswith("certified")},
}
EVAL_ATTACKS = {"FGSM": fgsm, "PGD": partial(pgd, steps=20)}


def trained(
    name: str,
    *,
    dataset: str = "mnist-5k",
    depth: int = 16,
    width: float = 0.25,
    contrast: float | None = None,
    retrain: bool = False,
    progress: bool = True,
    **recipe: Any,
) -> nn.Module:
    """A model of the series: published with the package, else from the cache, else trained with a progress bar.

    Args:
        name: "clean" (the VGG), "clean-small-cnn" (the weaker network), "outsider-small-cnn" (the same, trained on the
            validation images, which none of the others was trained on), "certified-0.1" and "certified-0.3" (the
            strided network, trained on its bounds at a radius `eps` a little beyond), "certified-wide-0.1" and
            "certified-wide-0.3" (a wider one, published for `dataset="mnist"`), or a defence with its radius E in pixel
            units, as in "mixed-fgsm-0.1": "mixed-fgsm-E" (each batch mixed with its FGSM images), "fgsm-E" (these
            alone), "fgsm-last-E" (the same, where no epoch is picked), "random-fgsm-E", "n-fgsm-E", "pgd-E",
            "trades-E".
        dataset: a name that `load_data` knows; the model is trained on 90% of its training part, validated on the rest.
        depth, width, contrast: of the VGG; a contrast also of a certified network, in place of its recipe's (0: none).
        retrain: train on this machine, whatever is published or cached. Rounding differs from processor to processor,
            so these weights differ from the published ones, and they are not kept.
        progress: show the bar.
        **recipe: an entry of `RECIPES[kind]`, where other than there: epochs, lr, batch_size, seed and, of the defences
            other than the mixed one, eps_warmup, ema_decay (see `fit`), steps and beta of their objectives, and of
            the certified ones eps, kappa (see `ibp`), channels, batch_norm (see `strided_cnn`), and shifted, whether
            the images are (see `shift`).

    Returns:
        The model, in eval mode, on `device()`, with its `History` as `model.history` and the settings that made it as
        `model.recipe`. Defences are attacked by FGSM and PGD after each epoch, and the epoch that PGD leaves most is
        kept; with "mixed-fgsm-E", "fgsm-last-E" and the certified ones it is the last one.

    Raises:
        ValueError: a name or a recipe entry that is not among these, or a file of other settings under its name.

    A file is found by its settings and by the version of its recipe (`VERSIONS`), which is raised by hand when the
    numbers change. A training that was broken off goes on where its last epoch ended. Taught in 01_train_vgg.ipynb.
    """
    kind, eps = _parse(name)
    for key in recipe:
        validation.one_of(key, "recipe", RECIPES[kind])
    if kind.startswith("certified") and contrast is not None:
        recipe["contrast"] = validation.positive(contrast, "contrast", zero=True) or None
    recipe = RECIPES[kind] | recipe
    channels = 3 if validation.one_of(dataset, "dataset", DATASETS) == "cifar10" else 1
    slim = partial(vgg, depth, width=width, in_channels=channels, contrast=contrast)
    build: Callable[[], nn.Module] = slim
    if kind.startswith("certified"):
        options = {key: recipe[key] for key in ("contrast", "channels", "batch_norm")}
        build = partial(_tight, in_channels=channels, **options)
    elif kind.endswith("small-cnn"):
        build = partial(small_cnn, in_channels=channels)
    model: Any = initialised(build, seed=recipe["seed"]).to(device())
    model.recipe = dict(name=name, dataset=dataset, version=VERSIONS[kind], config=model.config, **recipe)
    if distributed.world_size() > 1:  # other statistics in batch norm, so other weights
        model.recipe["processes"] = distributed.world_size()
    path = cache_dir() / "models" / file_name(model.recipe)
    published = PUBLISHED / path.name
    for known in () if retrain else (published, path):
        if distributed.broadcast(known.exists()):
            return _saved(model, known)
    writable(path.parent, way_out=" (set ADVUTILS_CACHE to one)")
    unfinished = path.with_suffix(".checkpoint.pt")
    model.history = _train(model, kind, recipe.get("eps", eps), unfinished, progress)
    if distributed.is_main_process():
        if not retrain:
            save_weights(model, path, recipe=model.recipe, history=vars(model.history), machine=machine())
        unfinished.unlink(missing_ok=True)  # another program that trained the same may have been first
    return model


def _tight(**options):
    return tighten(strided_cnn(**options))


def _saved(model, path):
    """The model with the weights and history of a file; raises for a file of other settings.

    Of an entry that a file does not name, as the recipe got it later, the usual value is meant.
    """
    saved = load_weights(model, path)
    if RECIPES[_parse(model.recipe["name"])[0]] | saved["recipe"] != json.loads(json.dumps(model.recipe)):
        raise ValueError(f"{path}: got a file of other settings under this name; delete it and call again")
    model.history = History(**saved["history"])
    return model.eval()


def _train(model, kind, eps, checkpoint, progress):
    """Train the model by its recipe; the `History`."""
    recipe = model.recipe
    train, val = split(load_data(recipe["dataset"], train=True), 0.1, seed=0)
    if kind.startswith("outsider"):
        train = val
    return fit(
        model,
        make_loader(train, batch_size=recipe["batch_size"], shuffle=True, seed=recipe["seed"]),
        make_loader(val, batch_size=500),
        epochs=recipe["epochs"],
        lr=recipe["lr"],
        objective=objective_of(kind, recipe),
        eps=eps,
        eps_warmup=recipe.get("eps_warmup", 0),
        ema_decay=recipe.get("ema_decay"),
        eval_attacks=EVAL_ATTACKS if "ema_decay" in recipe else None,
        checkpoint=checkpoint,
        augment=shift if recipe.get("shifted", True) else None,
        seed=recipe["seed"],
        accelerator=distributed.accelerator(),
        progress=progress,
    )


def file_name(settings):
    """The file of a model: its name, data and version, and what differs from the recipe and from the usual network."""
    usual = dict(depth=16, width=0.25, contrast=None) | RECIPES[_parse(settings["name"])[0]]
    chosen = {key: value for key, value in {**settings["config"], **settings}.items() if key in (*usual, "processes")}
    differing = "".join(f"-{key}={value}" for key, value in sorted(chosen.items()) if value != usual.get(key))
    return f"{settings['name']}-{settings['dataset']}-v{settings['version']}{differing}.safetensors"


def machine():
    """The processor, what it computes with, the number of threads and PyTorch's version, for one of the processes."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    known = (names or [platform.machine()])[0]  # a virtual machine may leave the model out, so its instructions tell
    where = f"{known} ({torch.backends.cpu.get_cpu_capability()})"
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{where}, {threads} thread{'s' * (threads > 1)}, PyTorch {torch.__version__.split('+')[0]}"


def initialised(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A fresh network with the initial weights of that seed; the caller's random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _parse(name):
    """The entry of `RECIPES` that a model's name refers to, and its radius."""
    match = re.fullmatch(r"(mixed-fgsm|fgsm-last|fgsm|random-fgsm|n-fgsm|pgd|trades)-(\d\.?\d*)", str(name))
    if match:
        return match[1], validation.eps(float(match[2]), "name")
    known = [kind for kind in RECIPES if kind.endswith(("clean", "small-cnn")) or kind.startswith("certified")]
    defences = ", ".join(f"{kind}-E" for kind in RECIPES if kind not in known)
    validation.one_of(name, "name", (*known, f"{defences} (E a radius, as in mixed-fgsm-0.1)"))
    return name, None


def objective_of(kind: str, recipe: dict[str, Any]) -> Objective:
    """The training objective of an entry of `RECIPES`, with what the recipe names of it."""
    bound: dict[str, Any] = {key: recipe[key] for key in ("steps", "beta") if key in recipe}
    if kind == "pgd":
        bound = dict(attack=partial(pgd, **bound))
    elif kind in ("fgsm", "fgsm-last"):
        bound = dict(attack=fgsm)
    elif kind.startswith("certified"):
        bound = dict(kappa=recipe["kappa"], full_eps=recipe["eps"])
    objective = OBJECTIVES[TRAINED_BY.get(kind, kind)]
    return partial(objective, **bound) if bound else objective
