"""Attacks: callables `(model, x, y, *, eps) -> x_adv`, each a few lines that look like its equation.

Every attack crafts in eval mode, computes no weight gradients, and leaves the model, its modes and its inputs as it
found them. It returns detached images inside the eps-ball around `x` and inside [0, 1].
"""

import torch
from torch.nn import functional as F

from advutils import checks
from advutils.models import evaluating


def input_gradient(model, x, y):
    """The gradient of each image's own loss with respect to its pixels: grad_x CE(model(x), y).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.

    Returns:
        Tensor shaped like x. The losses are summed, not averaged, so an image's gradient does not depend on its batch.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 02_fgsm_attack.ipynb.
    """
    _check(model, x, y)
    return _gradient(model, x, y)


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
    eps = checks.eps(eps)
    return fgsm_step(x, input_gradient(model, x, y), eps)


def fgsm_step(x, gradient, eps):
    """Clip(x + eps sign(gradient)): the part of FGSM that depends on eps, so one gradient serves any number of them."""
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


def _fgsm_sweep(model, x, y, eps_values):
    gradient = input_gradient(model, x, y)
    return (fgsm_step(x, gradient, eps) for eps in eps_values)


fgsm.sweep = _fgsm_sweep  # evaluation takes this road when an attack has it: one gradient for the whole sweep


def random_noise(model, x, y, *, eps, generator=None):
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
    eps = checks.eps(eps)
    checks.images(x)
    return fgsm_step(x, _uniform(x, generator), eps)


def pgd(model, x, y, *, eps, step_size=None, steps=40, random_start=True, restarts=1, generator=None):
    """Projected gradient descent: FGSM in small steps, x_adv <- project(x_adv + step_size sign(grad CE(x_adv))).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the l_inf ball in pixel units, 0 to 1.
        step_size: length of a step in pixel units; 2.5 eps / steps if None, enough to cross the ball and come back.
        steps: gradient steps of each run, at least 1.
        random_start: start each run from a uniform draw in the ball, not from x.
        restarts: number of runs; for each image the one of largest margin is kept, so more never help the defender.
        generator: torch.Generator to draw the starts from; the global one if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Madry et al., 2018, arXiv:1706.06083. Taught in 05_reattack.ipynb.
    """
    eps, steps, restarts = checks.eps(eps), checks.count(steps, "steps"), checks.count(restarts, "restarts")
    step_size = 2.5 * eps / steps if step_size is None else checks.positive(step_size, "step_size")
    _check(model, x, y)
    runs = []
    for _ in range(restarts):
        x_adv = project(x + eps * _uniform(x, generator, corners=False), x, eps) if random_start else x.detach().clone()
        for _ in range(steps):
            x_adv = project(x_adv + step_size * _gradient(model, x_adv, y).sign(), x, eps)
        runs.append(x_adv)
    return _strongest(model, runs, y)


def project(x_adv, x, eps):
    """The nearest point to x_adv in the l_inf ball of radius eps around x and in [0, 1]."""
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1).detach()


def margin(logits, y):
    """How far the best wrong class is ahead of the true one, (N,): the image is misclassified where it is positive."""
    true = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def _strongest(model, runs, y):
    if len(runs) == 1:
        return runs[0]
    with evaluating(model), torch.no_grad():
        margins = torch.stack([margin(model(x_adv), y) for x_adv in runs])  # (restarts, N)
    return torch.stack(runs)[margins.argmax(0), torch.arange(len(y))]


def _gradient(model, x, y):
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        x, y = x.detach().clone().requires_grad_(), y.clone()  # copies are free of a caller's inference mode
        z = model(x)
        checks.logits(z, len(x))
        checks.classes(y, z.shape[1])
        return torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), x)[0]


def _uniform(x, generator, corners=True):
    device = x.device if generator is None else generator.device
    u = torch.rand(x.shape, generator=generator, device=device).to(x.device) * 2 - 1
    return torch.where(u < 0, -1.0, 1.0) if corners else u


def _check(model, x, y):
    checks.images(x)
    checks.labels(y, x)
    checks.model(model, x)
