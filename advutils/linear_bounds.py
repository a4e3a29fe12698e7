"""CROWN: bounds made of lines instead of numbers, carried backward from the margins to the pixels.

Intervals forget that two features belong together. Here a margin is followed backward through the layers as a linear
function of the features, `constant + rows . z`, that is never above it. An affine layer changes nothing about that. A
ReLU is held between two lines, the sides of a triangle, and each entry of `rows` takes the line that keeps the function
below. At every layer the least value over its box is a bound; the largest of these is kept.

Which of the two lines is better, or one between, only the bound can say: `steps` follows its gradient (alpha-CROWN).
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from advutils.certify import RULES, ball, layers_of, margin_bounds
from advutils.models import Normalize, PadTo
from advutils.utils import validation
from advutils.utils.inference import precision_of

AFFINE = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
          nn.Dropout, nn.Identity, PadTo, Normalize)  # fmt: skip
MOST = 1024  # neurons of both signs that a ReLU may have to be bounded by lines as well; else it keeps its intervals


def crown_bounds(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float | torch.Tensor, steps: int = 0
) -> torch.Tensor:
    """Lower bounds as `margin_bounds` gives them, never lower than those: (N, K), 0 at the true class.

    The ReLU lies above slope * z for every slope from 0 to 1, and below the chord. The slope begins as 1 where its box
    reaches further up than down and else as 0; `steps` makes it better for each class, in the way backward from the
    margins. The box of each ReLU but the first is bounded in the same way before. Max pooling and contrast end the way
    backward: what lies in front of them is bounded by its box. An image of `strided_cnn` takes tenths of a second, and
    one of a VGG seconds. The ledger counts the two passes of the intervals.

    Args:
        model: as for `interval_bounds`, with weights in float32. Lines are in float64; each layer gets room for the
            rounding of the network twice over.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the l_inf ball in pixel units, as for `margin_bounds`.
        steps: steps of gradient ascent on the slopes, 0 or more. 20 prove some images more, in 10 to 20 times the time.

    Returns:
        Tensor (N, K), without gradients. Where all entries of other classes are above 0, no image of the ball is
        misread.

    Raises:
        TypeError, ValueError: weights of another precision, steps below 0, or what `margin_bounds` refuses.

    Zhang et al., 2018, arXiv:1811.00866; steps: Xu et al., 2021, arXiv:2011.13824. Taught in 12_certificates.ipynb.
    """
    steps = validation.count(steps, "steps", least=0)
    with torch.no_grad():
        intervals = margin_bounds(model, x, y, eps=eps)
        if precision_of(model, x) != torch.float32:
            raise ValueError(f"model: got weights in {precision_of(model, x)}; accepts float32")
        layers = [(layer, copy.deepcopy(layer).double().eval().requires_grad_(False)) for layer in layers_of(model)]
        classes = torch.eye(intervals.shape[1], device=x.device, dtype=torch.float64)
        boxes = zip(*(end.split(1) for end in ball(x, eps)))
        lines = [_climbed(_passed(layers, *box), classes[label] - classes, steps) for box, label in zip(boxes, y)]
        return torch.maximum(intervals, torch.stack(lines))


def _passed(layers, lower, upper):
    """Of each layer: itself in float64, the box of what it gets for one image, and the room for its rounding."""
    passed = []
    for layer, exact in layers:
        relaxed = any(type(before) is nn.ReLU for before, *_ in passed)  # in front of the first, intervals lose little
        both = (lower < 0) & (upper > 0)  # where a ReLU needs the triangle, and so a box as tight as can be
        if type(layer) is nn.ReLU and relaxed and 0 < both.sum() <= MOST:
            rows = F.one_hot(both.flatten().nonzero()[:, 0], lower.numel()).double().view(-1, *lower.shape[1:])
            lower[both] = torch.maximum(lower[both], _least(passed, rows))
            upper[both] = torch.minimum(upper[both], -_least(passed, -rows))
        box, ends = (lower, upper), (lower.double(), upper.double())
        lower, upper = RULES[type(layer)](layer, *box, {})
        truth = RULES[type(layer)](exact, *ends, {})
        room = 2 * torch.maximum((truth[0] - lower).abs(), (truth[1] - upper).abs())
        passed.append((exact, *ends, room))
    return passed


def _climbed(passed, rows, steps):
    """The largest of the bounds that `_least` gives on the way of the slopes, which are those of each row alone.

    The way is PGD's: the sign of the gradient, and back into the box, here from 0 to 1, with a step that shrinks. The
    bound at the pixels is climbed, as the boxes further on know nothing of the slopes before them.
    """
    ends = [ends for layer, *ends, _ in reversed(passed) if type(layer) is nn.ReLU]
    slopes = [torch.stack([_slope(*pair)[0]] * len(rows)) for pair in ends]
    best = _least(passed, rows, slopes)
    for step in range(steps if slopes else 0):
        with torch.enable_grad():
            *_, last = _backward(passed, rows, [slope.requires_grad_() for slope in slopes])
            uphill = torch.autograd.grad(last.sum(), slopes, materialize_grads=True)
        slopes = [(slope + 0.3 * 0.85**step * way.sign()).clamp(0, 1) for slope, way in zip(slopes, uphill)]
        best = torch.maximum(best, _least(passed, rows, slopes))
    return best


def _least(passed, rows, slopes=()):
    """The largest lower bound of rows . z that is found on the way backward, z what the layers give: float32 (K,)."""
    nothing = rows.new_full((len(rows),), -torch.inf)  # as where max pooling stands at once in the way
    least = torch.stack([nothing, *_backward(passed, rows, slopes)]).amax(0)
    return least.float().nextafter(torch.tensor(-torch.inf, device=rows.device))


def _backward(passed, rows, slopes):
    """Layer by layer from the last to the first, a lower bound of rows . z for each row: float64 (K,).

    `slopes` are those of the ReLUs in the same order; CROWN's where they are left out.
    """
    constant, slopes = 0, iter(slopes)
    for layer, lower, upper, room in reversed(passed):
        if type(layer) is nn.ReLU:
            rows, bias = _through_relu(rows, lower, upper, next(slopes, _slope(lower, upper)))
        elif type(layer) in AFFINE or type(layer) is nn.AdaptiveMaxPool2d and rows.shape[1:] == lower.shape[1:]:
            offset, transposed = torch.func.vjp(layer, torch.zeros_like(lower).expand(len(rows), *lower.shape[1:]))
            bias = (rows * offset - rows.abs() * room).flatten(1).sum(1)  # rows . (W z + b) = (W^T rows) . z + rows . b
            (rows,) = transposed(rows)
        else:
            break
        constant = constant + bias
        yield constant + (rows.clamp_min(0) * lower + rows.clamp_max(0) * upper).flatten(1).sum(1)


def _slope(lower, upper):
    """Of the line below a ReLU, as CROWN takes it: 1 or 0, whichever leaves the smaller triangle."""
    return (upper > -lower).double()


def _through_relu(rows, lower, upper, slope):
    """slope * z <= relu(z) <= chord * (z - lower), with chord = upper / (upper - lower) where a box has both signs."""
    lower, upper = lower.clamp_max(0), upper.clamp_min(0)
    chord = upper / (upper - lower).clamp_min(1e-300)
    above, below = rows.clamp_max(0) * chord, rows.clamp_min(0) * slope
    return above + below, -(above * lower).flatten(1).sum(1)
