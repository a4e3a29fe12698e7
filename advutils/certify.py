"""Bounds that no attack can break: which logits any image of a box can have, and a training that keeps them apart.

An attack shows that a network can be fooled; a bound shows that it cannot. The box around an image, x - eps to x + eps,
goes through the network layer by layer: after each layer stands a box that holds everything the layer can give. The
proof is one-sided. Where the last box leaves another class a chance, nothing is known.

The boxes hold what the network computes, not only what it would give in exact arithmetic: each is a little wider, by
the most that rounding can do (`_rounding`).
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from advutils.evaluation import Accuracy, per_image, wilson
from advutils.models import Contrast, Normalize, PadTo
from advutils.objectives import OBJECTIVES
from advutils.utils import validation
from advutils.utils.contracts import Loader
from advutils.utils.hooks import count_pass, unhooked
from advutils.utils.inference import eval_mode, precision_of, unwrap_model

MISSED = 2e-6  # by which an image may miss its ball, and [0, 1], for all that the package checks; and a rounding

Statistics = dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]  # of batch norm layers: (variance, mean)


def interval_bounds(
    model: nn.Module, lower: torch.Tensor, upper: torch.Tensor, statistics: Statistics | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper ends of what `model` gives for any input between `lower` and `upper`, entry by entry.

    The ledger counts two passes for each image, since two ends go through the network.

    Args:
        model: nn.Sequential of the layers that `RULES` lists; its eval mode is meant, whatever mode it is in.
        lower, upper: tensors of one shape, (N, C, H, W) for images, in the precision of the weights.
        statistics: None, or {batch norm layer: (variance, mean)} to use instead of its running ones.

    Returns:
        (lower, upper), each of the shape of the model's output.

    Raises:
        TypeError: a layer without a rule, or with hooks; the message names it.

    Gowal et al., 2019, arXiv:1810.12715. Taught in 12_certificates.ipynb.
    """
    lower, upper = _through(layers_of(model), lower, upper, statistics or {})
    count_pass(unwrap_model(model), lower, upper)
    return lower, upper


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a Sequential in their order, also of Sequentials within it; TypeError for one without a rule."""
    model, layers = unwrap_model(model), []
    if type(model) is not nn.Sequential or not len(model) or not unhooked(model):
        raise TypeError(f"model: got {type(model).__name__}; accepts an nn.Sequential of layers, without hooks")
    for name, layer in model._modules.items():  # `named_children` leaves out a layer that comes twice
        if type(layer) is nn.Sequential:
            layers += layers_of(layer)
        elif type(layer) in RULES and unhooked(layer) and not _odd(layer):
            layers.append(layer)
        else:
            known = ", ".join(sorted(kind.__name__ for kind in RULES))
            raise TypeError(f"model: got {layer} as layer {name}; accepts {known}, without hooks")
    return layers


def _odd(layer):
    """Whether a layer gives indices beside its output, or reads the other images of the batch."""
    return getattr(layer, "return_indices", False) or not getattr(layer, "track_running_stats", True)


def _through(layers, lower, upper, statistics):
    for layer in layers:
        lower, upper = RULES[type(layer)](layer, lower, upper, statistics)
    return lower, upper


def _rounding(n, like):
    """Twice the most, relative to the sizes of the terms, by which a sum of n products can be off, added in any order.

    Twice, as the bound is rounded too. Higham, 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    tf32 = like.is_cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return (n + 8) * torch.finfo(like.dtype).eps + tf32 * 2**-9


def _widened(lower, upper, n):
    """Room for the rounding of a sum of n terms, or of a few operations where n is 1."""
    with torch.no_grad():  # a training need not follow a rounding
        room = _rounding(n, lower) * torch.maximum(lower.abs(), upper.abs())
    return lower - room, upper + room


def _affine(apply, lower, upper, weight, *offsets):
    """W c + b and |W| r, of the centre c and the radius r: the exact box of one such layer."""
    lower, upper = _widened(lower, upper, weight[0].numel())
    centre, radius = (upper + lower) / 2, (upper - lower) / 2
    offsets = [weight.new_zeros(len(weight)) if offset is None else offset for offset in offsets]
    room = _rounding(weight[0].numel(), lower) * sum(offset.abs() for offset in offsets)
    centre, radius = apply(centre, weight, sum(offsets)), apply(radius, weight.abs(), room)
    return centre - radius, centre + radius


def _linear(layer, lower, upper, _):
    return _affine(F.linear, lower, upper, layer.weight, layer.bias)


def _convolution(layer, lower, upper, _):
    return _affine(layer._conv_forward, lower, upper, layer.weight, layer.bias)


def _batch_norm(layer, lower, upper, statistics):
    variance, mean = statistics.get(layer, (layer.running_var, layer.running_mean))
    scale = (variance + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
    each = (-1,) + (1,) * (lower.ndim - 2)  # one number for each channel
    return _affine(lambda x, w, b: x * w.view(each) + b.view(each), lower, upper, scale, -mean * scale, layer.bias)


def _monotone(layer, lower, upper, _):
    ends = layer(lower), layer(upper)
    return torch.minimum(*ends), torch.maximum(*ends)  # a negative slope or deviation turns the box round


def _rounded(layer, lower, upper, statistics):
    return _widened(*_monotone(layer, lower, upper, statistics), 1)


def _average(layer, lower, upper, statistics):
    return _monotone(layer, *_widened(lower, upper, lower[0, 0].numel()), statistics)


def _relu(layer, lower, upper, _):
    return lower.relu(), upper.relu()  # the layer itself may work in place


def _unchanged(layer, lower, upper, _):
    return lower, upper


RULES: dict[type[nn.Module], Callable] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.ReLU: _relu,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    **dict.fromkeys((nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, PadTo), _monotone),
    **dict.fromkeys((nn.AvgPool2d, nn.AdaptiveAvgPool2d), _average),
    **dict.fromkeys((Normalize, Contrast), _rounded),
    **dict.fromkeys((nn.Dropout, nn.Identity), _unchanged),
}


def ball(x, eps):
    """The ends of the box of images within eps of x, a few millionths wider, as images may be rounded."""
    return (x - eps - MISSED).clamp_min(-MISSED), (x + eps + MISSED).clamp_max(1 + MISSED)


def margin_bounds(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float | torch.Tensor,
    statistics: Statistics | None = None,
) -> torch.Tensor:
    """Lower bounds of the true logit minus each logit, over every image within eps of x: (N, K), 0 at the true class.

    The last linear layer is folded into the differences: a feature that raises both logits cancels before the bound is
    taken, not after it. The ledger counts two passes, as for `interval_bounds`.

    Args:
        model: as for `interval_bounds`.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the l_inf ball in pixel units, 0 to 1, or a tensor (N, 1, 1, 1) of them; the box is cut off at 0
            and 1, and a few millionths wider, as images may be rounded.
        statistics: as for `interval_bounds`.

    Returns:
        Tensor (N, K). Where all entries of other classes are above 0, no image of the ball is misread.

    Raises:
        TypeError, ValueError: images, labels or a radius that are not as above, a layer without a rule, or a last
            layer that is no nn.Linear with an output for each of at least two classes.

    Taught in 12_certificates.ipynb.
    """
    validation.images(x)
    validation.labels(y, x)
    validation.model(model, x)
    eps = eps if isinstance(eps, torch.Tensor) else validation.eps(eps)
    *front, last = layers_of(model)
    lower, upper = (end.to(precision_of(model, x)) for end in ball(x, eps))
    lower, upper = _through(front, lower, upper, statistics or {})
    if type(last) is not nn.Linear or lower.ndim != 2 or len(lower) != len(x) or last.out_features < 2:
        got = f"{last} after features {tuple(lower.shape)}"
        raise ValueError(f"model: got {got}; accepts nn.Linear as its last layer, for logits ({len(x)}, K) with K >= 2")
    validation.classes(y, last.out_features)
    rows, weight, bias = torch.arange(len(x), device=x.device), last.weight, last.bias
    logits = F.linear((upper + lower) / 2, weight, bias)
    sizes = F.linear(torch.maximum(lower.abs(), upper.abs()), weight.abs(), None if bias is None else bias.abs())
    room = _rounding(last.in_features, lower) * sizes
    difference = (weight[:, None] - weight).abs()  # (K, K, D)
    spread = torch.einsum("nd,jkd->njk", (upper - lower) / 2, difference)[rows, y]
    bounds = (logits - room)[rows, y][:, None] - (logits + room) - spread
    bounds = bounds.scatter(1, y[:, None], 0.0)
    count_pass(unwrap_model(model), bounds, bounds)
    return bounds


def proven(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float | torch.Tensor,
    bounds: Callable[..., torch.Tensor] = margin_bounds,
) -> torch.Tensor:
    """Which images are read as y whatever an attacker does within eps: bool (N,). False says that nothing is known.

    Takes and raises what `margin_bounds` does; `model` in any mode, and `bounds` as `certified` does.
    """
    if not callable(bounds):
        raise TypeError(f"bounds: got {bounds!r}; accepts a function (model, x, y, *, eps) such as margin_bounds")
    layers_of(model)
    with eval_mode(model) as network, torch.no_grad():
        least = bounds(network, x, y, eps=eps)
    return ((least > 0) | F.one_hot(y, least.shape[1]).bool()).all(1)


def certified(
    model: nn.Module, loader: Loader, *, eps: float, bounds: Callable[..., torch.Tensor] = margin_bounds
) -> Accuracy:
    """The share of images for which it is proved that no image within eps in l_inf is misread: a lower bound.

    Args:
        model: as for `interval_bounds`, in any mode.
        loader: batches (x, y) of images in [0, 1] and labels; moved to the model's device.
        eps: radius in pixel units, 0 to 1.
        bounds: `margin_bounds`, `crown_bounds`, or a function of one's own that gives what they give.

    Returns:
        Accuracy(value, low, high, n), never above the accuracy that any attack leaves at this eps.

    Raises:
        TypeError, ValueError: an empty loader, a layer without a rule, images that the model was trained on, or what
            `margin_bounds` refuses.

    Taught in 12_certificates.ipynb.
    """
    layers_of(model)
    eps = validation.eps(eps)
    _, proofs = per_image(model, loader, lambda x, y, _: [proven(model, x, y, eps=eps, bounds=bounds)])
    return wilson(proofs)


def certified_radius(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, steps: int = 12) -> torch.Tensor:
    """The largest radius up to which each image is proved to be read as y, by bisection: (N,), 0 to 1.

    Args:
        model: as for `interval_bounds`, in any mode.
        x: images (N, C, H, W), float32 in [0, 1], any N: large sets go through in batches.
        y: true labels (N,), int64.
        steps: halvings; the result is at most 2^-steps below the largest radius that the bounds can prove.

    Returns:
        Tensor (N,) of radii that are proved; 0 where the image itself is misread or nothing can be proved.

    Raises:
        TypeError, ValueError: steps below 1, or what `margin_bounds` refuses.

    Taught in 12_certificates.ipynb.
    """
    steps = validation.count(steps, "steps")
    validation.images(x)
    validation.labels(y, x)
    if len(x) > 500:
        parts = zip(x.split(500), y.split(500))
        return torch.cat([certified_radius(model, *part, steps=steps) for part in parts])
    radius = torch.zeros(len(x), device=x.device)
    for step in range(1, steps + 1):
        tried = radius + 0.5**step
        radius = torch.where(proven(model, x, y, eps=tried.view(-1, 1, 1, 1)), tried, radius)
    return radius


def ibp(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float, kappa: float = 0.5, full_eps: float | None = None
) -> torch.Tensor:
    """Clean loss and the loss at the worst logits that the bounds allow: w CE(z, y) + (1 - w) CE(worst z, y).

    Batch norm takes its statistics from the clean images alone, for the bounds as well; dropout is in the clean loss
    alone. Begin with the weights of `tighten`. The ledger counts three passes for each image: its own and two ends.

    Args:
        model: as for `interval_bounds`, in the mode in which it is to be trained.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius in pixel units, 0 to 1.
        kappa: the weight w of the clean loss, 0 to 1.
        full_eps: None, or the radius at which w arrives at kappa, from 1 at eps = 0: for a training whose eps grows.

    Returns:
        The loss, a scalar tensor to call backward on.

    Raises:
        TypeError, ValueError: a kappa or full_eps that is not as above, one batch norm in train mode at two places, or
            what `margin_bounds` refuses.

    Gowal et al., 2019, arXiv:1810.12715. Taught in 12_certificates.ipynb.
    """
    eps, weight = validation.eps(eps), validation.share(kappa, "kappa")
    if full_eps is not None:
        weight = 1 - (1 - weight) * min(1.0, eps / validation.positive(full_eps, "full_eps"))
    with batch_statistics(unwrap_model(model)) as statistics:
        z = model(x)
    bounds = margin_bounds(unwrap_model(model), x, y, eps=eps, statistics=statistics)
    return weight * F.cross_entropy(z, y) + (1 - weight) * F.cross_entropy(-bounds, y)


OBJECTIVES["ibp"] = ibp  # beside those of objectives.py, which lies below this module


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[Statistics]:
    """{batch norm layer in train mode: (variance, mean)} of what passes through them in the block, with gradients."""
    found = {}

    def measure(layer, inputs):
        if layer in found:
            raise TypeError(f"model: got {layer} at two places; accepts a batch norm of its own for each in train mode")
        if layer.training:
            found[layer] = torch.var_mean(inputs[0], (0, *range(2, inputs[0].ndim)), correction=0)

    with contextlib.ExitStack() as hooks:
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                hooks.enter_context(layer.register_forward_pre_hook(measure))
        yield found


def tighten(model: nn.Module) -> nn.Module:
    """Draw the weights anew so that intervals neither explode nor vanish with depth: N(0, sqrt(2 pi) / fan_in).

    Batch norm in train mode undoes it: it divides the small activations by their small deviations, layer by layer.

    Args:
        model: an nn.Module; its convolutions and linear layers are changed in place, their biases set to 0.

    Returns:
        The same model.

    Raises:
        TypeError: what is no nn.Module.

    Shi et al., 2021, arXiv:2103.17268. Taught in 12_certificates.ipynb.
    """
    validation.module(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=(2 * torch.pi) ** 0.5 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
