"""AutoAttack, in the implementation of the package pyautoattack."""

import contextlib
import logging
import sys
import warnings

import torch
from torch import nn

from advutils.attacks.base import attack, loss_gradient
from advutils.attacks.gradient import project
from advutils.attacks.losses import cross_entropy
from advutils.utils import validation
from advutils.utils.inference import eval_mode, logits_of, predict_logits


@attack()
def autoattack(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    norm: str = "linf",
    attacks_to_run: list[str] | None = None,
    batch_size: int = 250,
    seed: int = 0,
    flags: list[str] | None = None,
) -> torch.Tensor:
    """AutoAttack, the judge whose settings nobody chooses: APGD-CE, APGD-T, FAB-T and Square, each on what is left.

    The implementation is that of the package pyautoattack, an optional extra.

    Args:
        model, x, y, eps, norm: as for `pgd`; for "l2" Square needs images at least 5 pixels high.
        attacks_to_run: None for the complete standard version, or a list of some of "apgd-ce", "apgd-dlr", "apgd-t",
            "fab-t" and "square".
        batch_size: images that are attacked together.
        seed: of its random starts; the caller's own random state is left alone.
        flags: a list to which its warnings are added: that the evaluation may be unreliable, and why. Without one, they
            become Python warnings.

    Returns:
        Adversarial images, shaped like x; x itself where it found none.

    Raises:
        ImportError: pyautoattack is not installed.
        TypeError, ValueError: an argument that is not as above; the message names it.

    Croce and Hein, 2020, arXiv:2003.01690. Taught in 06_strong_attacks.ipynb.
    """
    for name in [] if attacks_to_run is None else attacks_to_run or [""]:
        validation.one_of(name, "attacks_to_run", ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"))
    tall = 5 if norm == "l2" and "square" in (attacks_to_run or ["square"]) else 1  # Square divides by a fifth
    validation.count(x.shape[2], "x's height", least=tall)
    logits = torch.cat([predict_logits(model, *part) for part in zip(x.split(batch_size), y.split(batch_size))])
    if logits.shape[1] < 4:
        raise ValueError(f"model: got {logits.shape[1]} classes; accepts at least 4, as AutoAttack's losses need them")
    try:
        import pyautoattack
    except ImportError as error:
        raise ImportError("autoattack needs the package pyautoattack: pip install 'advutils[autoattack]'") from error
    if set(attacks_to_run or ["apgd-ce"]) != {"square"}:
        loss_gradient(model, x[:1], y[:1], cross_entropy)  # it raises where there is none
    heard, tracer = _Heard(), sys.gettrace()  # its check for dynamic defences replaces the caller's tracer, and counts
    pyautoattack.checks.funcs.update(dict.fromkeys(pyautoattack.checks.funcs, 0))  # on from one model to the next
    log = logging.getLogger("auto-attack")
    log.addHandler(heard)
    try:
        with torch.random.fork_rng(), torch.inference_mode(False), _unmoved(model), eval_mode(model) as model:
            x, y = x.detach().clone(), y.clone()
            version = "custom" if attacks_to_run else "standard"
            options = dict(eps=eps, norm={"linf": "Linf", "l2": "L2"}[norm], seed=seed, version=version)
            judge = pyautoattack.AutoAttack(_Asked(model), attacks=attacks_to_run, device=x.device, **options)
            judge.apgd.n_restarts = judge.fab.n_restarts = 1  # as in the standard version
            judge.apgd_targeted.n_target_classes = judge.fab.n_target_classes = min(9, logits.shape[1] - 1)
            x_adv, _ = judge.run_standard_evaluation(x, y, batch_size=batch_size)
    finally:
        log.removeHandler(heard)
        sys.settrace(tracer)
    for flag in dict.fromkeys(heard.flags):
        if flags is None:
            warnings.warn(f"AutoAttack: {flag}", stacklevel=2)
        else:
            flags.append(flag)
    return project(x_adv, x, eps, norm)  # it stays inside but for rounding


class _Asked(torch.nn.Module):
    """The model as another library may call it: with images that it may change, and answers in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return logits_of(self.model, x).float()


@contextlib.contextmanager
def _unmoved(model):
    """No weight of the model gathers a gradient inside the block; their own are left alone (FAB would add to them)."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class _Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.flags = []

    def emit(self, record):
        self.flags.append(record.getMessage().split(" See ")[0])
