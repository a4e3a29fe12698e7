"""Attacks that need no gradient: noise, the grey image, and Square, which only asks for logits."""

import math

import torch
from torch import nn

from advutils.attacks.base import Criterion, attack, uniform
from advutils.attacks.gradient import fgsm_step, project
from advutils.utils.inference import eval_mode, predict_logits


@attack(reads_model=False, draws=True)
def random_noise(
    model: nn.Module | None,
    x: torch.Tensor,
    y: torch.Tensor | None,
    *,
    eps: float,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Noise as large as FGSM's and blind to the model: x_adv = clip(x + eps s), each s a fair coin's -1 or +1.

    Args:
        model: ignored; it is there because an attack takes one.
        x: images (N, C, H, W), float32 in [0, 1].
        y: ignored, likewise.
        eps: radius of the l_inf ball in pixel units, 0 to 1.
        generator: torch.Generator to draw from; the global one if None.

    Returns:
        Noisy images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 03_visualize.ipynb.
    """
    return fgsm_step(x, uniform(x, generator).sub(0.5), eps)


@attack(reads_model=False)
def grey(
    model: nn.Module | None, x: torch.Tensor, y: torch.Tensor | None, *, eps: float, norm: str = "linf"
) -> torch.Tensor:
    """The constant grey image, or as near to it as the ball allows: x_adv = project(0.5).

    At eps = 0.5 (l_inf) it is grey for *every* image, so no classifier keeps more than the share of the class that it
    gives to grey. `model` and `y` are ignored; the other arguments are those of `pgd`.

    Returns:
        Images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 05_reattack.ipynb.
    """
    return project(torch.full_like(x, 0.5), x, eps, norm)


@attack(draws=True, early_exit=True)
def square(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    n_queries: int = 1000,
    p_init: float = 0.8,
    early_exit: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """The Square attack, a random search that asks the model for its answers and for no gradient (l_inf).

    It begins with vertical stripes of +-eps; then, once a query, it repaints a random square of each image with +-eps
    and keeps the change where the margin fell. The squares shrink as the queries are used up.

    Args:
        model, x, y: as for `pgd`; the model is only ever asked for its logits.
        eps: radius of the l_inf ball in pixel units, 0 to 1.
        n_queries: forward passes an image may cost, at least 1; the first paints the stripes.
        p_init: share of the image that the first squares cover, 0 to 1.
        early_exit: leave an image as soon as it is misclassified; it takes nothing from the attack.
        generator: torch.Generator to draw from; the global one if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Andriushchenko et al., 2020, arXiv:1912.00049. Taught in 09_transfer_and_black_box.ipynb.
    """
    criterion, (n, channels, height, width) = Criterion(y), x.shape
    with eval_mode(model) as model:
        x_adv = fgsm_step(x, _coins(x, (n, channels, 1, width), generator), eps)
        best = criterion.lead(predict_logits(model, x_adv, y))
        for query in range(1, n_queries):
            i = (best <= 0).nonzero().flatten() if early_exit else torch.arange(n, device=x.device)
            if len(i) == 0:
                break
            side = max(1, min(round(math.sqrt(p_init * _shrunk(query / n_queries) * height * width)), height, width))
            corner = uniform(x.new_empty(2, n, 1), generator)
            rows = _within((corner[0] * (height - side + 1)).floor(), side, height)[:, None, :, None]  # (N, 1, H, 1)
            cols = _within((corner[1] * (width - side + 1)).floor(), side, width)[:, None, None, :]  # (N, 1, 1, W)
            painted = fgsm_step(x, _coins(x, (n, channels, 1, 1), generator).expand_as(x), eps)
            tried = torch.where(rows & cols, painted, x_adv)[i]
            leads = criterion.of(i).lead(predict_logits(model, tried, y[i]))
            better = leads > best[i]
            x_adv[i[better]], best[i[better]] = tried[better], leads[better]
    return x_adv


def _coins(x, shape, generator):
    """A fair coin's -1 or +1 for each entry of that shape."""
    return uniform(x.new_empty(shape), generator).sub(0.5).sign()


def _shrunk(spent):
    """The size of Square's squares beside the first, by the share of queries that are spent: halved nine times."""
    milestones = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    return 0.5 ** sum(spent > milestone for milestone in milestones)


def _within(start, size, total):
    """Which of `total` positions lie in [start, start + size): bool (N, total) for start (N, 1)."""
    at = torch.arange(total, device=start.device)
    return (at >= start) & (at < start + size)
