"""What every attack shares: what it wants, and the gradient for the pixels. Its contract is in `utils.traits`."""

from typing import NamedTuple

import torch

from advutils.attacks.losses import cw
from advutils.utils import validation
from advutils.utils.inference import eval_mode, logits_of, predict_logits
from advutils.utils.traits import attack as attack  # the contract in code: its arguments are checked by it


class Criterion(NamedTuple):
    """What an attack wants of each image: its label y (N,) beaten, or its target (N,) reached where there is one."""

    y: torch.Tensor
    target: torch.Tensor | None = None

    def of(self, rows):
        """The criterion of some of the images."""
        return Criterion(self.y[rows], None if self.target is None else self.target[rows])

    def lead(self, logits):
        """Above 0 where the attack has what it wants, (N,)."""
        return cw(logits, self.y) if self.target is None else -cw(logits, self.target)

    def ascent(self, model, x, loss):
        """The direction in which to move each x, and the logits there."""
        if self.target is None:
            return loss_gradient(model, x, self.y, loss)
        gradient, logits = loss_gradient(model, x, self.target, loss, targeted=True)
        validation.classes(self.y, logits.shape[1])
        return -gradient, logits


def loss_gradient(model, x, y, loss, *, targeted=False):
    """The gradient of each image's own loss for its pixels, and its logits: (grad_x loss(model(x), y), model(x)).

    The one place where the package differentiates for pixels. Checks logits and gradient, not x: a caller may stand
    outside [0, 1]. `targeted` says that y are the labels which an attack wants, so that its warning knows who is left.
    """
    with eval_mode(model) as model, torch.inference_mode(False):  # which also records gradients, under no_grad too
        x, y = x.detach().clone().requires_grad_(), y.clone()  # copies are free of a caller's inference mode
        z = logits_of(model, x)
        validation.logits(z, len(x))
        validation.classes(y, z.shape[1], "target" if targeted else "y")
        logits = z.detach().requires_grad_()
        losses = loss(logits, y)
        validation.path(losses.requires_grad, "loss")
        slope = torch.autograd.grad(losses, logits, torch.ones_like(losses))[0]  # of each image's own loss
        exponent = slope.abs().amax(1).frexp().exponent.clamp(-99, 99)  # a power of two is exact, and
        scaled = slope.ldexp(-exponent[:, None])  # keeps a small gradient from vanishing in half precision
        gradient = torch.autograd.grad(z, x, scaled, allow_unused=True)[0] if z.requires_grad else None
        validation.path(gradient is not None, "model")
        validation.gradient(gradient)
        validation.warn_if_blind(gradient, (-1 if targeted else 1) * cw(logits, y).detach() <= 0)
        power = torch.ones_like(gradient[:, :1, :1, :1]).ldexp(exponent.view(-1, 1, 1, 1))  # slow for whole images
        return gradient * power, logits.detach()


def strongest(model, runs, criterion):
    """Of several attacked versions of the images, for each image the one that comes nearest to what is wanted."""
    if len(runs) == 1:
        return runs[0]
    leads = torch.stack([criterion.lead(predict_logits(model, x_adv)) for x_adv in runs])  # (runs, N)
    return torch.stack(runs)[leads.argmax(0), torch.arange(leads.shape[1], device=leads.device)]


def uniform(x, generator):
    """Uniform draws from [0, 1), shaped like x."""
    device = x.device if generator is None else generator.device
    return torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
