"""What every attack shares: the gradient for the pixels, and the checks of what an attack is given."""

import warnings

import torch

from advutils.attacks.losses import cw
from advutils.utils import validation
from advutils.utils.inference import answer, evaluating

BLIND = (
    "the gradient is exactly zero for most of the images that are not fooled: attacks that follow it leave them as "
    "they are, so the model looks more robust than it is (another loss, BPDA or `square` may help: "
    "06_strong_attacks.ipynb)"
)
WARNED = {}  # emptied when a measurement begins, so that each one warns once


def climb(model, x, y, loss, *, away=True):
    """The direction in which to move each x, and the logits there: (grad_x loss(model(x), y), model(x)).

    The one place where the package differentiates for pixels. Checks logits and gradient, not x: a caller may stand
    outside [0, 1]. With `away=False` the loss is descended: the direction leads towards y.
    """
    with evaluating(model) as model, torch.inference_mode(False):  # which also records gradients, under no_grad too
        validation.differentiable(model)
        x, y = x.detach().clone().requires_grad_(), y.clone()  # copies are free of a caller's inference mode
        z = answer(model, x)
        validation.logits(z, len(x))
        validation.classes(y, z.shape[1], "y" if away else "target")
        logits = z.detach().requires_grad_()
        losses = loss(logits, y)
        validation.path(losses.requires_grad, "loss")
        slope = torch.autograd.grad(losses, logits, torch.ones_like(losses))[0]  # of each image's own loss
        exponent = slope.abs().amax(1).frexp().exponent.clamp(-99, 99)  # a power of two is exact, and
        scaled = slope.ldexp(-exponent[:, None])  # keeps a small gradient from vanishing in half precision
        gradient = torch.autograd.grad(z, x, scaled, allow_unused=True)[0] if z.requires_grad else None
        validation.path(gradient is not None, "model")
        validation.gradient(gradient)
        unfooled = (cw(logits, y) if away else -cw(logits, y)).detach() <= 0
        if unfooled.any() and gradient[unfooled].flatten(1).any(1).float().mean() < 0.5:
            warnings.warn_explicit(BLIND, UserWarning, __file__, 1, "advutils", WARNED)
        gradient = gradient.ldexp(exponent.view(-1, 1, 1, 1))
    return (gradient if away else -gradient), logits.detach()


def _answer(model, x, y):
    z = answer(model, x)
    validation.logits(z, len(x))
    validation.classes(y, z.shape[1])
    return z


def _uniform(x, generator):
    """Uniform draws from [0, 1), shaped like x."""
    device = x.device if generator is None else generator.device
    return torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def _check(model, x, y):
    validation.images(x)
    validation.labels(y, x)
    validation.model(model, x)
