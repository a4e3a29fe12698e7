"""What an attack climbs: callables `(logits (N, K), y (N,)) -> (N,)`, one number for each image."""

import torch
from torch.nn import functional as F


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Each image's own cross-entropy, (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How far the true class is ahead of the best wrong one, (N,): positive where the image is read correctly."""
    return -cw(logits, y)


def cw(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The margin with its sign turned, (N,): a loss that is positive exactly where the image is misclassified.

    Carlini and Wagner, 2017, arXiv:1608.04644, their f_6 without its clamp. Taught in 06_strong_attacks.ipynb.
    """
    true = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def dlr(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`cw` over the distance from first to third logit, (N,): unlike cross-entropy, blind to the logits' scale.

    Difference of logits ratio: Croce and Hein, 2020, arXiv:2003.01690. Needs at least three classes. Taught in
    06_strong_attacks.ipynb.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"logits: got {logits.shape[1]} classes; accepts at least 3, as dlr divides by first - third")
    first, _, third = logits.topk(3).values.unbind(1)
    return cw(logits, y) / (first - third).clamp_min(1e-12)
