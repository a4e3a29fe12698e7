"""Attacks that follow the gradient: FGSM, PGD with its variations, and PGD aimed at each wrong class."""

import torch

from advutils.attacks.base import _answer, _check, _uniform, climb
from advutils.attacks.losses import cross_entropy, cw
from advutils.utils import validation
from advutils.utils.inference import answer, evaluating


def input_gradient(model, x, y, loss=None):
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
    _check(model, x, y)
    return climb(model, x, y, loss or cross_entropy)[0]


def fgsm(model, x, y, *, eps):
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
    eps = validation.eps(eps)
    return fgsm_step(x, input_gradient(model, x, y), eps)


def fgsm_step(x, gradient, eps):
    """Clip(x + eps sign(gradient)): the part of FGSM that depends on eps, so one gradient serves any number of them."""
    return x.detach().add(gradient.sign(), alpha=eps).clamp_(0, 1)


def fgsm_sweep(model, x, y, eps_values):
    """(x_adv, logits or None) for each eps: at 0, where x_adv is x, the gradient's forward pass has brought them."""
    _check(model, x, y)
    gradient, logits = climb(model, x, y, cross_entropy)
    return ((fgsm_step(x, gradient, eps), None if eps else logits) for eps in eps_values)


def pgd(
    model,
    x,
    y,
    *,
    eps,
    step_size=None,
    steps=40,
    random_start=True,
    restarts=1,
    norm="linf",
    loss=None,
    target=None,
    momentum=0.0,
    early_exit=False,
    generator=None,
):
    """Projected gradient descent: FGSM in small steps, x_adv <- project(x_adv + step_size sign(grad CE(x_adv))).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the ball in pixel units, 0 to 1 (l_2: a Euclidean length, at least 0).
        step_size: length of a step in the same units; 2.5 eps / steps if None, enough to cross the ball and come back.
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
    eps, steps, restarts = (
        validation.eps(eps, norm=norm),
        validation.count(steps, "steps"),
        validation.count(restarts, "restarts"),
    )
    step_size = 2.5 * eps / steps if step_size is None else validation.positive(step_size, "step_size")
    validation.loss(loss)
    momentum, loss = validation.share(momentum, "momentum"), loss or cross_entropy
    _check(model, x, y)
    if target is not None:
        validation.labels(target, x, "target")
    runs, left = [], torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        x_adv = _start(x, eps, norm, generator) if random_start else x.detach().clone()
        runs.append(x_adv)
        going, velocity = left, torch.zeros_like(x)
        for _ in range(steps):
            aim = y[going] if target is None else target[going]
            gradient, logits = climb(model, x_adv[going], aim, loss, away=target is None)
            if target is not None:
                validation.classes(y[going], logits.shape[1])
            if early_exit:
                open_ = _lead(logits, y[going], None if target is None else target[going]) <= 0
                going, gradient = going[open_], gradient[open_]
                if len(going) == 0:
                    break
            if momentum:
                gradient = momentum * velocity[going] + gradient / _length(gradient, 1)
                velocity[going] = gradient
            step = step_size * _direction(gradient, norm)
            x_adv[going] = project(x_adv[going] + step, x[going], eps, norm)
        left = going if early_exit else left
        if len(left) == 0:
            break
    return _strongest(model, runs, y, target)


def targeted(model, x, y, *, eps, attack=pgd, targets=9, early_exit=False, generator=None):
    """Aim at each wrong class in turn, the likeliest first, and keep for each image what misleads the model most.

    Args:
        model, x, y, eps: as for `pgd`.
        attack: `pgd`, or a partial of it, that takes a `target`.
        targets: how many wrong classes to try; all of them where there are fewer.
        early_exit: aim an image that is misclassified already at no further class; handed on to `attack` as well.
        generator: torch.Generator to draw the starts from; that of `attack` if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: what `attack` refuses.

    Taught in 06_strong_attacks.ipynb.
    """
    targets = validation.count(targets, "targets")
    options = dict(early_exit=True) if early_exit else {}  # what is left out stays as it is bound to the attack
    options |= {} if generator is None else dict(generator=generator)
    _check(model, x, y)
    with evaluating(model) as model, torch.no_grad():
        logits = _answer(model, x, y)
    by_rank = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]  # (N, K - 1)
    runs, left = [x.detach().clone()], torch.arange(len(x), device=x.device)
    for rank in range(min(targets, by_rank.shape[1])):
        x_adv = x.detach().clone()
        x_adv[left] = attack(model, x[left], y[left], eps=eps, target=by_rank[left, rank], **options)
        runs.append(x_adv)
        if early_exit:
            with evaluating(model) as model, torch.no_grad():
                left = left[cw(answer(model, x_adv[left]), y[left]) <= 0]
            if len(left) == 0:
                break
    return _strongest(model, runs, y)


def project(x_adv, x, eps, norm="linf"):
    """The nearest point to x_adv in the ball of radius eps around x (l_inf), brought into [0, 1].

    For "l2" the difference is shrunk to length eps where it is longer; clipping to [0, 1] then shortens it further.
    """
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1).detach()
    delta = x_adv - x
    return (x + delta * (eps / _length(delta, 2)).clamp(max=1)).clamp(0, 1).detach()


def _direction(gradient, norm):
    if norm == "linf":
        return gradient.sign()
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / largest  # tiny numbers have no squares
    return scaled / _length(scaled, 2)


def _length(delta, p):
    """The l_p length of each image's delta, (N, 1, 1, 1), never zero."""
    return torch.linalg.vector_norm(delta, p, dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)


def _start(x, eps, norm, generator):
    """A random point of each image's ball: uniform for l_inf; for l_2, a random direction and a uniform length."""
    if norm == "linf":
        return project(x + eps * (2 * _uniform(x, generator) - 1), x, eps)
    toward = torch.erfinv((2 * _uniform(x, generator) - 1).clamp(-1 + 1e-6, 1 - 1e-6))  # normal, from the same stream
    length = eps * _uniform(x[:, :1, :1, :1], generator)
    return project(x + length * toward / _length(toward, 2), x, eps, norm)


def _lead(logits, y, target):
    """Above 0 where the attack has what it wants: y is beaten or, with a target, the target is first."""
    return cw(logits, y) if target is None else -cw(logits, target)


def _strongest(model, runs, y, target=None):
    if len(runs) == 1:
        return runs[0]
    with evaluating(model) as model, torch.no_grad():
        leads = torch.stack([_lead(answer(model, x_adv), y, target) for x_adv in runs])  # (restarts, N)
    return torch.stack(runs)[leads.argmax(0), torch.arange(len(y), device=y.device)]
