"""Attacks that follow the gradient: FGSM, PGD with its variations, and PGD aimed at each wrong class."""

from collections.abc import Callable

import torch
from torch import nn

from advutils.attacks.base import Criterion, attack, loss_gradient, strongest, uniform
from advutils.attacks.losses import cross_entropy
from advutils.utils import validation
from advutils.utils.contracts import Loss
from advutils.utils.inference import predict_logits


def input_gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss | None = None) -> torch.Tensor:
    """The gradient of each image's own loss with respect to its pixels: grad_x CE(model(x), y).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        loss: a callable (logits (N, K), y (N,)) -> (N,) in place of the cross-entropy, `dlr` for one.

    Returns:
        Tensor shaped like x. The losses are summed, not averaged, so an image's gradient does not depend on its batch.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 02_fgsm_attack.ipynb.
    """
    validation.loss(loss)
    validation.images(x)
    validation.labels(y, x)
    validation.model(model, x)
    return loss_gradient(model, x, y, loss or cross_entropy)[0]


def fgsm_step(x: torch.Tensor, gradient: torch.Tensor, eps: float) -> torch.Tensor:
    """Clip(x + eps sign(gradient)): the part of FGSM that depends on eps, so one gradient serves any number of them."""
    return x.detach().add(gradient.sign(), alpha=eps).clamp_(0, 1)


def fgsm_sweep(model, x, y, eps_values):
    """(x_adv, logits or None) for each eps: at 0, where x_adv is x, the gradient's forward pass has brought them."""
    validation.model(model, x)
    gradient, logits = loss_gradient(model, x, y, cross_entropy)
    return ((fgsm_step(x, gradient, eps), None if eps else logits) for eps in eps_values)


@attack(sweep=fgsm_sweep)
def fgsm(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor:
    """The fast gradient sign method, one step to the corner of the ball: x_adv = clip(x + eps sign(grad_x CE)).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the l_inf ball in pixel units, 0 to 1.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Goodfellow, Shlens and Szegedy, 2015, arXiv:1412.6572. Taught in 02_fgsm_attack.ipynb.
    """
    gradient, _ = loss_gradient(model, x, y, cross_entropy)
    return fgsm_step(x, gradient, eps)


@attack(draws=True, early_exit=True)
def pgd(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float, step_size: float | None = None, steps: int = 40,
    random_start: bool = True, restarts: int = 1, norm: str = "linf", loss: Loss | None = None,
    target: torch.Tensor | None = None, momentum: float = 0.0, early_exit: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:  # fmt: skip
    """Projected gradient descent: FGSM in small steps, x_adv <- project(x_adv + step_size sign(grad CE(x_adv))).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the ball in pixel units, 0 to 1 (l_2: a Euclidean length, 0 to a million).
        step_size: length of a step, at most a million; 2.5 eps / steps if None, enough to cross the ball and come back.
        steps: gradient steps of each run, at least 1.
        random_start: start each run from a random point of the ball, not from x.
        restarts: number of runs; for each image the one of smallest margin is kept, so more never help the defender.
        norm: "linf", or "l2", for which a step is the gradient at unit length and the projection shrinks.
        loss: what to climb, a callable (logits, y) -> (N,): `cross_entropy` if None, or `cw`, `dlr`, your own.
        target: None, or the labels (N,) that the images are to be taken for: the loss towards them is descended, and an
            image counts as fooled when its target is reached.
        momentum: share of the last direction that is kept (MI-FGSM has 1.0); helps images to fool other networks.
        early_exit: leave an image as soon as it is fooled. `accuracy` asks for this; it costs no pass through the
            network and saves most of them where a defence is weak.
        generator: torch.Generator to draw the starts from; the global one if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Madry et al., 2018, arXiv:1706.06083; momentum: Dong et al., 2018, arXiv:1710.06081. Taught in 05_reattack.ipynb
    and, with its variations, in 06_strong_attacks.ipynb; momentum in 09_transfer_and_black_box.ipynb.
    """
    step_size, loss = 2.5 * eps / steps if step_size is None else step_size, loss or cross_entropy
    criterion, runs, active = Criterion(y, target), [], torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        x_adv = random_point(x, eps, norm, generator) if random_start else x.clone()
        runs.append(x_adv)
        i, velocity = active, torch.zeros_like(x)  # what an earlier run has fooled stays here; `strongest` keeps that
        for _ in range(steps):
            gradient, logits = criterion.of(i).ascent(model, x_adv[i], loss)
            if early_exit:
                unfooled = criterion.of(i).lead(logits) <= 0
                i, gradient = i[unfooled], gradient[unfooled]
            if len(i) == 0:
                break
            if momentum:
                gradient = velocity[i] = momentum * velocity[i] + gradient / length(gradient, 1)
            x_adv[i] = project(x_adv[i] + step_size * steepest(gradient, norm), x[i], eps, norm)
        active = i if early_exit else active
        if len(active) == 0:
            break
    return strongest(model, runs, criterion)


@attack(draws=True, early_exit=True, inner=pgd)
def targeted(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    attack: Callable = pgd,
    n_target_classes: int = 9,
    early_exit: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Aim at each wrong class in turn, the likeliest first, and keep for each image what misleads the model most.

    Args:
        model, x, y, eps: as for `pgd`.
        attack: `pgd`, or a partial of it, that takes a `target`.
        n_target_classes: how many wrong classes to try; all of them where there are fewer.
        early_exit: aim an image that is misclassified already at no further class; handed on to `attack` as well.
        generator: torch.Generator to draw the starts from; that of `attack` if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: what `attack` refuses.

    Taught in 06_strong_attacks.ipynb.
    """
    options: dict = dict(early_exit=True) if early_exit else {}  # what is left out stays as it is bound to the attack
    options |= {} if generator is None else dict(generator=generator)
    logits = predict_logits(model, x, y)
    by_rank = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]  # (N, K - 1)
    criterion, runs, i = Criterion(y), [x.clone()], torch.arange(len(x), device=x.device)
    for rank in range(min(n_target_classes, by_rank.shape[1])):
        x_adv = x.clone()
        x_adv[i] = attack(model, x[i], y[i], eps=eps, target=by_rank[i, rank], **options)
        runs.append(x_adv)
        if early_exit:
            i = i[criterion.of(i).lead(predict_logits(model, x_adv[i])) <= 0]
            if len(i) == 0:
                break
    return strongest(model, runs, criterion)


def project(x_adv: torch.Tensor, x: torch.Tensor, eps: float | torch.Tensor, norm: str = "linf") -> torch.Tensor:
    """The nearest point to x_adv in the ball of radius eps around x (l_inf), brought into [0, 1].

    `eps` is one radius, or one for each image, (N, 1, 1, 1).

    For "l2" the difference is shrunk to length eps where it is longer; clipping to [0, 1] then shortens it further.
    """
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1).detach()
    delta = x_adv - x
    return (x + delta * (eps / length(delta, 2)).clamp(max=1)).clamp(0, 1).detach()


def steepest(gradient, norm):
    """The step of length 1 that climbs most: the sign for l_inf, the gradient at unit length for l_2."""
    if norm == "linf":
        return gradient.sign()
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / largest  # tiny numbers have no squares
    return scaled / length(scaled, 2)


def length(delta, p):
    """The l_p length of each image's delta, (N, 1, 1, 1), never zero."""
    return torch.linalg.vector_norm(delta, p, dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)


def random_point(x, eps, norm, generator):
    """A random point of each image's ball: uniform for l_inf; for l_2, a random direction and a uniform length."""
    if norm == "linf":
        return project(x + eps * (2 * uniform(x, generator) - 1), x, eps)
    toward = torch.erfinv((2 * uniform(x, generator) - 1).clamp(-1 + 1e-6, 1 - 1e-6))  # normal, from the same stream
    reach = eps * uniform(x[:, :1, :1, :1], generator)
    return project(x + reach * toward / length(toward, 2), x, eps, norm)
