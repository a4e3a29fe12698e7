"""What a model predicts, and how often it is right: on clean images and on attacked ones.

Every image is attacked, the already misclassified too, and the denominator is always all of them.
"""

import inspect
import math
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch

from advutils import checks
from advutils.models import evaluating, image_keys, trained_keys


class Accuracy(NamedTuple):
    """A share of correct images, its 95% Wilson interval (all as fractions), and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self):
        return f"{self.value:6.1%}  [{self.low:.1%}, {self.high:.1%}]  n={self.n}"


def predict(model, x):
    """Class probabilities softmax(model(x)), in eval mode.

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1], any N: large sets go through in batches.

    Returns:
        Tensor (N, K) on the device of x, without gradient; each row sums to 1.

    Raises:
        TypeError, ValueError: images or logits that are not as above; the message names the argument.

    Taught in 01_train_vgg.ipynb.
    """
    checks.images(x)
    checks.model(model, x)
    return torch.cat([_logits(model, part).softmax(1) for part in x.split(500)])


def accuracy(model, loader, attack=None, *, eps=None):
    """The share of images that the model classifies correctly; with an attack, after each of them was attacked.

    Args:
        model: nn.Module that maps images to logits (N, K).
        loader: batches (x, y) of images in [0, 1] and labels; moved to the model's device.
        attack: None for clean accuracy, or any callable `(model, x, y, *, eps) -> x_adv`. One that takes a `generator`
            gets a fresh one for each batch, seeded with the batch's index, so that the result repeats.
        eps: the attack's radius in pixel units, 0 to 1; given exactly when an attack is.

    Returns:
        Accuracy(value, low, high, n): fractions, the 95% Wilson interval, and the number of images.

    Raises:
        TypeError, ValueError: an empty loader, eps without an attack or the reverse, images that the model was trained
            on, an attack that leaves its ball, or what an attack refuses; the message names the argument.

    Taught in 01_train_vgg.ipynb (clean) and 02_fgsm_attack.ipynb (robust).
    """
    return wilson(survivors(model, loader, attack, eps=eps))


def survivors(model, loader, attack=None, *, eps=None):
    """Which images the model still classifies correctly: the record behind `accuracy`, image by image.

    Takes and raises what `accuracy` does. Two attacks on the same loader are paired, image by image: `a & b` is what is
    left when the attacker may pick the better one for each image.

    Returns:
        Bool tensor (n,) on the CPU, in the loader's order.

    Taught in 05_reattack.ipynb.
    """
    if attack is None and eps is not None:
        raise ValueError(f"attack: got None with eps={eps}; accepts an attack whenever eps is given")
    if attack is not None:
        checks.attack(attack)
    return _sweep(model, loader, attack, [0.0 if attack is None else eps])[0]


def accuracy_vs_eps(model, loader, attack, eps_values):
    """Accuracy under an attack at each of several radii, in one pass over the loader.

    An attack that carries a `sweep(model, x, y, eps_values)` is asked for all radii at once: FGSM, whose direction does
    not depend on eps, so takes one gradient an image for the whole curve.

    Args:
        model, loader, attack: as for `accuracy`.
        eps_values: the radii in pixel units, each 0 to 1.

    Returns:
        List of Accuracy records, one for each eps, in the order given.

    Raises:
        TypeError, ValueError: as `accuracy`.

    Taught in 02_fgsm_attack.ipynb.
    """
    checks.attack(attack)
    if not isinstance(eps_values, Iterable):
        raise TypeError(f"eps_values: got {eps_values!r}; accepts a list of radii in pixel units")
    eps_values = list(eps_values)
    if not eps_values:
        raise ValueError("eps_values: got none; accepts at least one radius in pixel units")
    return [wilson(alive) for alive in _sweep(model, loader, attack, eps_values)]


def wilson(correct, z=1.96):
    """The record of a bool tensor: its mean with the Wilson score interval, which stays inside [0, 1] also at the ends.

    Wilson, 1927, doi:10.1080/01621459.1927.10502953. Taught in 01_train_vgg.ipynb.
    """
    n, k = len(correct), int(correct.sum())
    if n == 0:
        raise ValueError("correct: got no images; accepts at least one")
    p, zz = k / n, z * z / n
    centre, half = (p + zz / 2) / (1 + zz), z * math.sqrt(p * (1 - p) / n + zz / (4 * n)) / (1 + zz)
    return Accuracy(p, max(0.0, centre - half) if k else 0.0, min(1.0, centre + half) if k < n else 1.0, n)


def _sweep(model, loader, attack, eps_values):
    """For each eps, which images survive: a list of bool tensors (n,)."""
    checks.module(model)
    eps_values = [checks.eps(eps) for eps in eps_values]
    trained_on, keys = trained_keys(model), []
    alive = [[] for _ in eps_values]
    for index, (x, y) in enumerate(loader):
        checks.images(x, "loader's images")
        checks.labels(y, x, "loader's labels")
        device = checks.device_of(model) or x.device
        if len(trained_on):
            keys.append(image_keys(x))
        x, y = x.to(device), y.to(device)
        for at, (eps, x_adv) in enumerate(zip(eps_values, _attacked(attack, model, x, y, eps_values, index))):
            if attack is not None:
                _check_attacked(x_adv, x, eps)
            logits = _logits(model, x_adv)
            checks.classes(y, logits.shape[1])
            alive[at].append((logits.argmax(1) == y).cpu())
    if not all(alive):
        raise ValueError("loader: got no images; accepts at least one")
    if keys:
        checks.unseen(torch.cat(keys), trained_on)
    return [torch.cat(parts) for parts in alive]


def _attacked(attack, model, x, y, eps_values, index):
    if attack is None:
        return [x for _ in eps_values]
    if hasattr(attack, "sweep"):
        return attack.sweep(model, x, y, eps_values)
    return (seeded(attack, index)(model, x, y, eps=eps) for eps in eps_values)


def seeded(attack, seed):
    """The attack with a fresh generator of that seed, if it takes a generator and none is bound to it yet."""
    parameter = inspect.signature(attack).parameters.get("generator")
    if parameter is None or parameter.default not in (None, inspect.Parameter.empty):
        return attack
    return partial(attack, generator=torch.Generator().manual_seed(seed))


def _check_attacked(x_adv, x, eps):
    checks.images(x_adv, "attack's images")
    if x_adv.shape != x.shape:
        raise ValueError(f"attack: got images of shape {tuple(x_adv.shape)} from it; accepts {tuple(x.shape)}")
    distance = (x_adv - x).abs().max().item()
    if distance > eps + 1e-6:
        raise ValueError(f"attack: got images {distance:.6g} away from x; accepts at most eps = {eps:g}")


def _logits(model, x):
    with evaluating(model), torch.no_grad():
        logits = model(x)
    checks.logits(logits, len(x))
    return logits
