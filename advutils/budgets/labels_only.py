"""An attacker who is told the label and nothing else: no logits, no gradient."""

import torch
from torch import nn

from advutils.attacks.base import attack
from advutils.utils.inference import predict_logits

TOLERANCE = 1e-3  # to which a radius is found by halving


@attack()
def rays(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, n_queries: int = 1000) -> torch.Tensor:
    """RayS: of the directions with a sign for each pixel, search the one in which a wrong label is nearest.

    It begins with all signs at +1 and turns the signs of one block of pixels: all, a half, the other half, a quarter
    and so on down to single pixels. One question, "is the image at the same distance misread in this direction
    too?", says whether the turn is at least as good; if so, the new distance is found by halving.

    Args:
        model: nn.Module that maps images to logits (N, K); only their argmax is looked at.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        n_queries: labels that an image may cost, at least 1. An image that has begun to halve may end the halving:
            at most 10 more.

    Returns:
        Adversarial images, shaped like x, close in l_inf; x itself where no misread image was found, or where x is
        misread already.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an eps; the message names it.

    Chen and Gu, 2020, arXiv:2006.12792. Taught in 15_other_budgets.ipynb.
    """
    misread = predict_logits(model, x, y).argmax(1) != y
    signs = torch.ones_like(x, memory_format=torch.contiguous_format)  # its views of all pixels are written to
    radius = torch.ones_like(x[:, :1, :1, :1])
    found, left = torch.zeros_like(misread), torch.where(misread, 0, n_queries - 1)

    def fooled(i, signs, radius):
        left[i] -= 1
        return predict_logits(model, (x[i] + radius * signs).clamp(0, 1)).argmax(1) != y[i]

    for block in blocks(x[0].numel()):
        i = (left > 0).nonzero().flatten()
        if len(i) == 0:
            break
        tried = signs[i]
        tried.view(len(i), -1)[:, block] *= -1
        hit = fooled(i, tried, radius[i])
        i, tried = i[hit], tried[hit]
        signs[i], found[i] = tried, True
        low, high = torch.zeros_like(radius[i]), radius[i]
        while len(i) and (high - low).max() > TOLERANCE:
            middle = (low + high) / 2
            nearer = fooled(i, tried, middle).view(-1, 1, 1, 1)
            low, high = torch.where(nearer, low, middle), torch.where(nearer, middle, high)
        radius[i] = high
    return torch.where(found.view(-1, 1, 1, 1), (x + radius * signs).clamp(0, 1), x)


def blocks(n):
    """Slices of n pixels, without end: none of them, all, each half, each quarter, ... each pixel, again each pixel."""
    yield slice(0, 0)
    parts = 1
    while True:
        size = -(-n // parts)
        yield from (slice(start, start + size) for start in range(0, n, size))
        parts = min(2 * parts, n)
