"""What the notebooks of the series share: data, two networks, attacks, training, evaluation, figures and a slider.

`advutils.plots` and `advutils.widgets` are imported when first used, so that `import advutils` needs neither matplotlib
nor ipywidgets.
"""

import importlib

from advutils.attacks import fgsm, fgsm_step, input_gradient, margin, pgd, project, random_noise
from advutils.data import cache_dir, device, load_data, make_loader, read_digit, shift, split
from advutils.evaluation import Accuracy, accuracy, accuracy_vs_eps, predict, survivors, wilson
from advutils.models import Normalize, evaluating, load_weights, save_weights, small_cnn, vgg
from advutils.objectives import clean, joined
from advutils.trained import fingerprint, initialised, trained
from advutils.training import History, fit, ledger

__all__ = [
    "Accuracy", "History", "Normalize", "accuracy", "accuracy_vs_eps", "cache_dir", "clean", "device", "evaluating",
    "fgsm", "fgsm_step", "fingerprint", "fit", "initialised", "input_gradient", "joined", "ledger", "load_data",
    "load_weights", "make_loader", "margin", "pgd", "predict", "project", "random_noise", "read_digit",
    "save_weights", "shift", "small_cnn", "split", "survivors", "trained", "vgg", "wilson",
]  # fmt: skip


def __getattr__(name):
    if name in ("plots", "widgets"):
        return importlib.import_module(f"advutils.{name}")
    raise AttributeError(f"module 'advutils' has no attribute {name!r}")
