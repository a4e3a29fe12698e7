"""CROWN: bounds made of lines instead of numbers, carried backward from the margins to the pixels.

Intervals forget that two features belong together. Here a margin is followed backward through the layers as a linear
function of the features, `constant + rows . z`, that is never above it. An affine layer changes nothing about that. A
ReLU is held between two lines, the sides of a triangle, and each entry of `rows` takes the line that keeps the function
below. At every layer the least value over its box is a bound; the largest of these is kept.
"""

import copy

import torch
from torch import nn

from advutils.certify import RULES, ball, layers_of, margin_bounds
from advutils.models import Normalize, PadTo
from advutils.utils.inference import precision_of

AFFINE = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
          nn.Dropout, nn.Identity, PadTo, Normalize)  # fmt: skip
WIDEST = 1024  # neurons of a ReLU whose box is bounded by lines as well; a wider one keeps its intervals


def crown_bounds(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float | torch.Tensor) -> torch.Tensor:
    """Lower bounds as `margin_bounds` gives them, never lower than those: (N, K), 0 at the true class.

    The ReLU lies above slope * z, with slope 1 where its box reaches further up than down and else 0, and below the
    chord. The box of each ReLU but the first is bounded in the same way before. Max pooling and contrast end the way
    backward: what lies in front of them is bounded by its box. An image of `strided_cnn` takes tenths of a second, and
    one of a VGG seconds. The ledger counts the two passes of the intervals.

    Args:
        model: as for `interval_bounds`, with weights in float32. Lines are in float64; each layer gets room for the
            rounding of the network twice over.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the l_inf ball in pixel units, as for `margin_bounds`.

    Returns:
        Tensor (N, K), without gradients. Where all entries of other classes are above 0, no image of the ball is
        misread.

    Raises:
        TypeError, ValueError: weights of another precision, or what `margin_bounds` refuses.

    Zhang et al., 2018, arXiv:1811.00866. Taught in 12_certificates.ipynb.
    """
    with torch.no_grad():
        intervals = margin_bounds(model, x, y, eps=eps)
        if precision_of(model, x) != torch.float32:
            raise ValueError(f"model: got weights in {precision_of(model, x)}; accepts float32")
        layers = [(layer, copy.deepcopy(layer).double().eval()) for layer in layers_of(model)]
        classes = torch.eye(intervals.shape[1], device=x.device, dtype=torch.float64)
        boxes = zip(*(end.split(1) for end in ball(x, eps)))
        lines = [_least(_passed(layers, *box), classes[label] - classes) for box, label in zip(boxes, y)]
        return torch.maximum(intervals, torch.stack(lines))


def _passed(layers, lower, upper):
    """Of each layer: itself in float64, the box of what it gets for one image, and the room for its rounding."""
    passed = []
    for layer, exact in layers:
        relaxed = any(type(before) is nn.ReLU for before, *_ in passed)  # in front of the first, intervals lose little
        both = (lower < 0) & (upper > 0)  # where a ReLU needs the triangle, and so a box as tight as can be
        if type(layer) is nn.ReLU and relaxed and both.any() and lower.numel() <= WIDEST:
            rows = torch.eye(lower.numel(), device=lower.device, dtype=torch.float64)[both.flatten()]
            rows = rows.view(-1, *lower.shape[1:])
            lower[both] = torch.maximum(lower[both], _least(passed, rows))
            upper[both] = torch.minimum(upper[both], -_least(passed, -rows))
        box, ends = (lower, upper), (lower.double(), upper.double())
        lower, upper = RULES[type(layer)](layer, *box, {})
        truth = RULES[type(layer)](exact, *ends, {})
        room = 2 * torch.maximum((truth[0] - lower).abs(), (truth[1] - upper).abs())
        passed.append((exact, *ends, room))
    return passed


def _least(passed, rows):
    """The largest lower bound of rows . z that is found on the way backward, z what the layers give: float32 (K,)."""
    constant, least = 0, rows.new_full((len(rows),), -torch.inf)
    for layer, lower, upper, room in reversed(passed):
        if type(layer) is nn.ReLU:
            rows, bias = _through_relu(rows, lower, upper)
        elif type(layer) in AFFINE or type(layer) is nn.AdaptiveMaxPool2d and rows.shape[1:] == lower.shape[1:]:
            offset, transposed = torch.func.vjp(layer, torch.zeros_like(lower).expand(len(rows), *lower.shape[1:]))
            bias = (rows * offset - rows.abs() * room).flatten(1).sum(1)  # rows . (W z + b) = (W^T rows) . z + rows . b
            (rows,) = transposed(rows)
        else:
            break
        constant = constant + bias
        here = constant + (rows.clamp_min(0) * lower + rows.clamp_max(0) * upper).flatten(1).sum(1)
        least = torch.maximum(least, here)
    return least.float().nextafter(torch.tensor(-torch.inf, device=rows.device))


def _through_relu(rows, lower, upper):
    """slope * z <= relu(z) <= chord * (z - lower), with chord = upper / (upper - lower) where a box has both signs."""
    lower, upper = lower.clamp_max(0), upper.clamp_min(0)
    slope, chord = (upper > -lower).double(), upper / (upper - lower).clamp_min(1e-300)
    above, below = rows.clamp_max(0) * chord, rows.clamp_min(0) * slope
    return above + below, -(above * lower).flatten(1).sum(1)
