"""What the notebooks of the series share: data, three networks, attacks, training, evaluation, figures and a slider.

`advutils.plots` and `advutils.widgets` are imported when first used, so that `import advutils` needs neither matplotlib
nor ipywidgets.
"""

import importlib

from advutils.attacks.auto import autoattack
from advutils.attacks.base import attack
from advutils.attacks.black_box import grey, random_noise, square
from advutils.attacks.gradient import fgsm, fgsm_step, input_gradient, pgd, project, targeted
from advutils.attacks.losses import cross_entropy, cw, dlr, margin
from advutils.budgets.labels_only import rays
from advutils.budgets.minimum_norm import Radii, deepfool, fmn, minimum_norm
from advutils.budgets.patch import corners, sticker, train_patch
from advutils.budgets.sparse import few_pixels
from advutils.certify import certified, certified_radius, ibp, interval_bounds, margin_bounds, tighten
from advutils.credibility import Checklist, checklist
from advutils.data import device, load_data, make_loader, shift, split
from advutils.evaluation import (
    Accuracy,
    WorstCase,
    accuracy,
    accuracy_vs_eps,
    mcnemar,
    predict,
    survivors,
    wilson,
    worst_case,
)
from advutils.exercises.predictions import guess, guess_score
from advutils.linear_bounds import crown_bounds
from advutils.models import Contrast, Normalize, small_cnn, strided_cnn, vgg
from advutils.objectives import adversarial, clean, mixed, n_fgsm, random_fgsm, trades
from advutils.pretrained import initialised, trained
from advutils.training import History, fit
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.hooks import ledger
from advutils.utils.images import read_digit
from advutils.utils.inference import eval_mode
from advutils.utils.measurements import load_measurement
from advutils.utils.parameters import check_parameters
from advutils.utils.storage import cache_dir
from advutils.utils.traits import describe
from advutils.utils.weights import load_weights, save_weights

__all__ = [
    "Accuracy", "Checklist", "Contrast", "History", "Normalize", "Radii", "WorstCase", "accuracy",
    "accuracy_vs_eps", "adversarial", "attack", "autoattack", "cache_dir", "certified", "certified_radius",
    "check_parameters", "checklist", "clean", "corners", "cross_entropy", "crown_bounds", "cw", "deepfool",
    "describe", "device", "dlr", "eval_mode", "few_pixels", "fgsm", "fgsm_step", "fit", "fmn", "fuse_batch_norm",
    "grey", "guess", "guess_score", "ibp", "initialised", "input_gradient", "interval_bounds", "ledger",
    "load_data", "load_measurement", "load_weights", "make_loader", "margin", "margin_bounds", "mcnemar",
    "minimum_norm", "mixed", "n_fgsm", "pgd", "predict", "project", "random_fgsm", "random_noise", "rays",
    "read_digit", "save_weights", "shift", "small_cnn", "split", "square", "sticker", "strided_cnn", "survivors",
    "targeted", "tighten", "trades", "train_patch", "trained", "vgg", "wilson", "worst_case",
]  # fmt: skip


def __getattr__(name):
    if name in ("plots", "widgets"):
        return importlib.import_module(f"advutils.{name}")
    raise AttributeError(f"module 'advutils' has no attribute {name!r}")
