"""Training objectives: callables `(model, x, y) -> loss`. `fit` loops over one; a learner writes one in a cell.

Those that take `eps` get it from `functools.partial`, or from `fit(eps=...)`, which can let it grow at the beginning.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from advutils.attacks.base import loss_gradient
from advutils.attacks.gradient import fgsm, pgd, project
from advutils.attacks.losses import cross_entropy
from advutils.utils import validation
from advutils.utils.contracts import Attack, Objective
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.inference import eval_mode, logits_of


def clean(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on the images as they are: CE(model(x), y).

    Args:
        model: nn.Module in the mode in which it is to be trained.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.

    Returns:
        The mean loss, a scalar tensor to call backward on.

    Raises:
        TypeError, ValueError: what the model's forward pass or the cross-entropy cannot take.

    Taught in 01_train_vgg.ipynb.
    """
    return F.cross_entropy(model(x), y)


def mixed(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float, attack: Attack = fgsm) -> torch.Tensor:
    """Clean images and their adversarial twins in one mini-batch, one loss over both: CE(model([x, x_adv]), [y, y]).

    Args:
        model: nn.Module in the mode in which it is to be trained; the attack crafts in eval mode and restores it.
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the attack in pixel units, 0 to 1.
        attack: any callable `(model, x, y, *, eps) -> x_adv`.

    Returns:
        The mean loss over the 2N images, a scalar tensor to call backward on.

    Raises:
        TypeError, ValueError: what the attack refuses.

    Goodfellow, Shlens and Szegedy, 2015, arXiv:1412.6572. Taught in 04_adversarial_training.ipynb.
    """
    x_adv = attack(fuse_batch_norm(model), x, y, eps=eps)
    return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))


def adversarial(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float, attack: Attack = pgd
) -> torch.Tensor:
    """Cross-entropy on the attacked images alone, the inner maximum of a min-max: CE(model(attack(x)), y).

    With `attack=fgsm` this is plain FGSM training, with `partial(pgd, steps=...)` PGD training.

    Args, Returns, Raises: as `mixed`.

    Madry et al., 2018, arXiv:1706.06083. Taught in 07_catastrophic_overfitting.ipynb and 08_robust_training.ipynb.
    """
    return F.cross_entropy(model(attack(fuse_batch_norm(model), x, y, eps=eps)), y)


def random_fgsm(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float, alpha: float = 1.25) -> torch.Tensor:
    """FGSM from a random start: one step of alpha eps from a uniform point of the ball, projected back into it.

    Args:
        model, x, y, eps: as for `mixed`.
        alpha: length of the step, in eps.

    Returns, Raises: as `mixed`.

    Wong, Rice and Kolter, 2020, arXiv:2001.03994. Taught in 07_catastrophic_overfitting.ipynb.
    """
    eps, alpha = validation.eps(eps), validation.positive(alpha, "alpha")
    return adversarial(model, x, y, eps=eps, attack=partial(pgd, steps=1, step_size=alpha * eps or None))


def n_fgsm(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float, k: float = 2.0) -> torch.Tensor:
    """Noise of +-k eps, then a step of eps, and no projection: CE(model(x_u + eps sign(grad CE(x_u))), y), x_u = x + u.

    The training images leave the eps-ball on purpose: they are training inputs, no attack's result. Both steps are
    clipped to [0, 1], as the authors' code does.

    Args:
        model, x, y, eps: as for `mixed`.
        k: half width of the uniform noise u, in eps.

    Returns, Raises: as `mixed`.

    De Jorge et al., 2022, arXiv:2202.01181. Taught in 07_catastrophic_overfitting.ipynb.
    """
    eps, k = validation.eps(eps), validation.positive(k, "k", zero=True)
    validation.images(x)
    noisy = (x + k * eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    gradient, _ = loss_gradient(fuse_batch_norm(model), noisy, y, cross_entropy)
    return F.cross_entropy(model((noisy + eps * gradient.sign()).clamp(0, 1)), y)


def trades(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    beta: float = 6.0,
    steps: int = 10,
    step_size: float | None = None,
) -> torch.Tensor:
    """Clean loss plus beta times how far an attacker can pull the prediction: CE(z, y) + beta KL(p(x), p(x_adv)).

    x_adv climbs the divergence itself. At x its gradient is zero, so the climb begins a little beside it, at
    x + 0.001 randn; it is crafted in eval mode, while both terms of the loss are in the model's own mode.

    Args:
        model, x, y, eps: as for `mixed`.
        beta: weight of the second term, the price of robustness in accuracy.
        steps, step_size: of the inner climb; the length 2.5 eps / steps if None.

    Returns, Raises: as `mixed`.

    Zhang et al., 2019, arXiv:1901.08573. Taught in 08_robust_training.ipynb.
    """
    eps, beta = validation.eps(eps), validation.positive(beta, "beta", zero=True)
    steps = validation.count(steps, "steps")
    step_size = 2.5 * eps / steps if step_size is None else validation.positive(step_size, "step_size")
    validation.images(x)
    twin = fuse_batch_norm(model)
    with eval_mode(twin), torch.no_grad():
        log_p = logits_of(twin, x).log_softmax(1)
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(steps):
        gradient, _ = loss_gradient(twin, x_adv, y, lambda logits, _: _divergence(logits, log_p))
        x_adv = project(x_adv + step_size * gradient.sign(), x, eps)
    z, z_adv = model(x), model(x_adv)
    return F.cross_entropy(z, y) + beta * _divergence(z_adv, z.log_softmax(1)).mean()


def _divergence(logits, log_p):
    """KL(p, softmax(logits)) of each image, (N,); of log p, as the gradient at p = 0 would be no number."""
    return F.kl_div(logits.log_softmax(1), log_p, reduction="none", log_target=True).sum(1)


OBJECTIVES: dict[str, Objective] = {  # by their names; certify.py adds ibp
    "clean": clean,
    "mixed": mixed,
    "adversarial": adversarial,
    "random-fgsm": random_fgsm,
    "n-fgsm": n_fgsm,
    "trades": trades,
}
