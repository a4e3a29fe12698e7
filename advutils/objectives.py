"""Training objectives: callables `(model, x, y) -> loss`. `fit` loops over one; a learner writes one in a cell."""

import torch
from torch.nn import functional as F

from advutils.attacks import fgsm


def clean(model, x, y):
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


def joined(model, x, y, *, eps, attack=fgsm):
    """Clean images joined with their adversarial twins, one loss over both: CE(model([x, x_adv]), [y, y]).

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
    x_adv = attack(model, x, y, eps=eps)
    return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))
