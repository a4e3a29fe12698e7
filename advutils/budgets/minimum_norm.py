"""The smallest change that is enough: attacks that are told no radius and find one for each image.

The radii of all images are the whole curve of accuracy against epsilon: an image stands up to its radius.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn

from advutils.attacks.base import Criterion, attack
from advutils.attacks.gradient import length, project, steepest
from advutils.attacks.losses import cw
from advutils.evaluation import Accuracy, per_image, wilson
from advutils.utils import validation
from advutils.utils.contracts import Loader
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.inference import eval_mode, logits_of, predict_logits
from advutils.utils.traits import describe, norm_of, seeded, takes_eps

OVERSHOOT = 0.02  # of a step of DeepFool beyond the plane on which two classes are even
RIVALS = 9  # wrong classes that are looked at, the likeliest ones
GAMMA = 0.2  # by which FMN's balls shrink and grow at first
ORDER = {"linf": math.inf, "l2": 2, "l0": 0}  # p of the norm
DUAL = {"linf": 1, "l2": 2}  # q of the norm in which the gradient tells the distance to a plane


@attack(norm="l2")
def deepfool(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, norm: str = "l2", steps: int = 50) -> torch.Tensor:
    """DeepFool: take the network for linear, step to the nearest plane on which a wrong class is even, and repeat.

    Of a linear network the plane of class k is f_y - f_k = 0, at the distance (f_y - f_k) / ||grad(f_k - f_y)||_q.
    The step is the shortest to that plane inside [0, 1], and a plane that lies outside is none. So on a linear network
    one step is the smallest change there is to one of the wrong classes that are looked at, the nine likeliest, but for
    the 2% by which it goes too far. A step costs a forward pass and a backward pass for each of these classes.

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        norm: in which the change is small, "l2" or "linf".
        steps: at most so many; an image that is misread takes no more.

    Returns:
        Adversarial images, shaped like x; x itself where none was found, or where x is misread already.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an eps; the message names it.

    Moosavi-Dezfooli, Fawzi and Frossard, 2016, arXiv:1511.04599; the step inside [0, 1]: Croce and Hein, 2020,
    arXiv:1907.02044. Taught in 15_other_budgets.ipynb.
    """
    x_adv, i = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(steps):
        stepped, unfooled = step_to_nearest_plane(model, x_adv[i], y[i], norm)
        i, stepped = i[unfooled], stepped[unfooled]
        if len(i) == 0:
            return x_adv
        x_adv[i] = stepped
    fooled = Criterion(y[i]).lead(predict_logits(model, x_adv[i])) > 0
    x_adv[i] = torch.where(fooled.view(-1, 1, 1, 1), x_adv[i], x[i])
    return x_adv


def step_to_nearest_plane(model, x, y, norm):
    """The images x after a step of DeepFool, and which of them were read correctly before it, bool (N,)."""
    gaps, slopes = planes(model, x, y)
    steps = shortest(slopes, gaps.clamp_min(0), x[:, None], norm)
    lengths = torch.linalg.vector_norm(steps.flatten(2), ORDER[norm], dim=2)
    beyond = (slopes * steps).flatten(2).sum(2) < 0.999 * gaps  # the whole room does not lead to that plane
    nearest = lengths.masked_fill(beyond, torch.inf).argmin(1)
    step = steps[torch.arange(len(x), device=x.device), nearest]
    return (x + (1 + OVERSHOOT) * step).clamp(0, 1), (gaps >= 0).all(1)


def planes(model, x, y):
    """By how much wrong classes are behind, f_y - f_k (N, R), and grad(f_k - f_y), (N, R, C, H, W); R = 9 or K - 1."""
    with eval_mode(model) as model, torch.inference_mode(False):
        x, y = x.detach().clone().requires_grad_(), y.clone()
        z = logits_of(model, x)
        validation.logits(z, len(x))
        validation.classes(y, z.shape[1])
        validation.path(z.requires_grad, "model")
        rivals = z.scatter(1, y[:, None], -torch.inf).topk(min(RIVALS, z.shape[1] - 1)).indices
        ahead = z.gather(1, rivals) - z.gather(1, y[:, None])
        slopes = [torch.autograd.grad(one.sum(), x, retain_graph=True)[0] for one in ahead.unbind(1)]
    slopes = torch.stack(slopes, 1)
    validation.gradient(slopes)
    return -ahead.detach(), slopes


def shortest(slope, gap, x, norm):
    """The shortest step from x that stays in [0, 1] and along which a linear function of this slope climbs by `gap`.

    Pixel j moves by min(t v_j, room_j) in the direction of its slope, v_j = |slope_j| (l_2) or 1 (l_inf): up to the end
    of the range. What that climbs is piecewise linear in t, so t is found by sorting the places of its bends. Where the
    whole room is not enough, it is used.

    Args:
        slope: (..., C, H, W), gap: (...), x: broadcastable to slope, in [0, 1].
    """
    size, room = slope.abs().flatten(-3), torch.where(slope > 0, 1 - x, x.expand_as(slope)).flatten(-3)
    speed = size if norm == "l2" else torch.ones_like(size)
    bends, order = (room / speed.clamp_min(1e-30)).sort(-1)
    full, rate = (part.gather(-1, order) for part in (size * room, size * speed))
    filled = full.cumsum(-1) - full  # by the pixels that have come to the end of their room before this bend
    still = rate.flip(-1).cumsum(-1).flip(-1)  # by all others together, for each unit of t
    short = (filled + bends * still < gap[..., None]).sum(-1, keepdim=True).clamp(max=size.shape[-1] - 1)
    t = (gap[..., None] - filled.gather(-1, short)) / still.gather(-1, short).clamp_min(1e-30)
    return slope.sign() * torch.minimum(t * speed, room).view_as(slope)


@attack(norm="l2")
def fmn(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, norm: str = "l2", steps: int = 100) -> torch.Tensor:
    """Fast minimum norm: PGD on the margin in a ball that shrinks while the image is misread and else grows.

    x_adv <- project(x_adv + alpha steepest(grad cw), x, eps). Until an image is misread for the first time, eps is the
    distance at which the linear picture has the plane, ||x_adv - x||_p + margin / ||grad||_q, and 2% more. From then
    on eps is multiplied by 1 - gamma where the image is misread, by 1 + gamma where it is read correctly; gamma wanes
    from 0.2 to 0 along a cosine, and alpha from 2 eps. What is kept is the nearest of all misread images.

    In four points this is not the published attack: it begins with a step of DeepFool, as the class that is nearest
    need not be the likeliest; alpha is a multiple of eps, so that it has no unit; the direction is steepest in the norm
    itself, signs for l_inf; and what of the gradient points out of [0, 1] is left out.

    Args:
        model, x, y, norm: as for `deepfool`.
        steps: passes forward and backward of each image after the step of DeepFool, at least 1.

    Returns:
        Adversarial images, shaped like x; x itself where none was found, or where x is misread already.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an eps; the message names it.

    Pintor et al., 2021, arXiv:2102.12827. Taught in 15_other_budgets.ipynb.
    """
    criterion, best, reach = Criterion(y), x.clone(), torch.full_like(x[:, :1, :1, :1], torch.inf)
    x_adv, _ = step_to_nearest_plane(model, x, y, norm)
    eps = reach  # infinite, until the first step has a plane
    for step in range(steps):
        gradient, logits = criterion.ascent(model, x_adv, cw)
        gradient = gradient.masked_fill(torch.where(gradient > 0, x_adv >= 1, x_adv <= 0), 0)
        lead, size = criterion.lead(logits).view(-1, 1, 1, 1), length(x_adv - x, ORDER[norm])
        better = (lead > 0) & (size < reach)
        best, reach = torch.where(better, x_adv, best), torch.where(better, size, reach)
        waning = (1 + math.cos(math.pi * step / steps)) / 2
        plane = size - (1 + OVERSHOOT) * lead / length(gradient, DUAL[norm])
        grown = torch.where(reach.isinf(), plane, eps * (1 + GAMMA * waning))
        eps = torch.where(lead > 0, torch.minimum(eps * (1 - GAMMA * waning), reach), grown)
        x_adv = project(x_adv + 2 * waning * eps * steepest(gradient, norm), x, eps, norm)
    return best


class Radii(NamedTuple):
    """The radius of each image, (n,): 0 where it is misread at first, inf where no attack was found; and the norm."""

    radii: torch.Tensor
    norm: str

    def accuracy_vs_eps(self, eps_values: Iterable[float]) -> list[Accuracy]:
        """The share of images whose radius is larger than eps, for each eps: the curve of `plots.sweep`."""
        eps_values = validation.radii(eps_values, "eps_values")
        return [
            wilson(self.radii > validation.eps(eps, norm="linf" if self.norm == "linf" else "l2")) for eps in eps_values
        ]


def minimum_norm(model: nn.Module, loader: Loader, attack: Callable) -> Radii:
    """The radius of each image: how large a change the attack needs to have it misread.

    Each radius is an upper bound of the true one, shown by an image that is misread. An image's radius is that of the
    attack's one run, so the curve costs no more than one point of it.

    Args:
        model: nn.Module that maps images to logits (N, K).
        loader: batches (x, y) of images in [0, 1] and labels; moved to the model's device.
        attack: a callable (model, x, y) -> x_adv that is told no radius, `fmn` or `deepfool`, or a partial of one.

    Returns:
        Radii(radii, norm), in the loader's order, on the CPU: 0 where the image is misread at first, inf where x_adv
        is read correctly. Two forward passes an image are added to those of the attack.

    Raises:
        TypeError, ValueError: an attack that takes eps, or as `accuracy`; the message names the argument.

    Taught in 15_other_budgets.ipynb.
    """
    validation.module(model)
    validation.attack(attack)
    if takes_eps(attack):
        raise TypeError(f"attack: got {describe(attack)}, which takes eps; accepts (model, x, y) -> x_adv, as fmn")
    validation.WARNED.clear()
    norm = norm_of(attack)

    def measure(x, y, index):
        x_adv = seeded(attack, index)(network, x.clone(), y)
        validation.attacked(x_adv, x, math.inf, norm)
        radii = torch.linalg.vector_norm((x_adv - x).flatten(1), ORDER[norm], dim=1)
        fooled, misread = (predict_logits(network, each, y).argmax(1) != y for each in (x_adv, x))
        yield torch.where(misread, 0.0, torch.where(fooled, radii, torch.inf))

    with eval_mode(model):
        network = fuse_batch_norm(model)
        return Radii(per_image(model, loader, measure)[1], norm)
