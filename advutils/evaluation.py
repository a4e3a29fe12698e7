"""What a model predicts, and how often it is right: on clean images and on attacked ones.

Every image is attacked, the already misclassified too, and the denominator is always all of them.
"""

import math
from collections.abc import Collection, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from advutils.attacks.black_box import grey
from advutils.utils import distributed, validation
from advutils.utils.contracts import Attack, Loader
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.hashes import image_hashes, train_hashes_of
from advutils.utils.inference import eval_mode, predict_logits
from advutils.utils.traits import hurried, norm_of, seeded, sweep_of


class Accuracy(NamedTuple):
    """A share of correct images, its 95% Wilson interval (all as fractions), and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self):
        return f"{self.value:6.1%}  [{self.low:.1%}, {self.high:.1%}]  n={self.n}"


def predict(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
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
    validation.images(x)
    validation.model(model, x)
    return torch.cat([predict_logits(model, part).softmax(1) for part in x.split(500)])


def accuracy(model: nn.Module, loader: Loader, attack: Attack | None = None, *, eps: float | None = None) -> Accuracy:
    """The share of images that the model classifies correctly; with an attack, after each of them was attacked.

    Args:
        model: nn.Module that maps images to logits (N, K).
        loader: batches (x, y) of images in [0, 1] and labels; moved to the model's device.
        attack: None for clean accuracy, or any callable `(model, x, y, *, eps) -> x_adv`. What an attack states by
            `@attack(...)` is used: one that `draws` gets a fresh generator for each batch, seeded with the batch's
            index, so that the result repeats; one with `early_exit` is asked for it, unless that is bound. Its ball is
            that of its `norm`.
        eps: the attack's radius in pixel units, 0 to 1; given exactly when an attack is.

    Returns:
        Accuracy(value, low, high, n): fractions, the 95% Wilson interval, and the number of images.

    Raises:
        TypeError, ValueError: an empty loader, eps without an attack or the reverse, images that the model was trained
            on, an attack that leaves its ball, or what an attack refuses; the message names the argument.

    Taught in 01_train_vgg.ipynb (clean) and 02_fgsm_attack.ipynb (robust).
    """
    return wilson(survivors(model, loader, attack, eps=eps))


def survivors(
    model: nn.Module, loader: Loader, attack: Attack | None = None, *, eps: float | None = None
) -> torch.Tensor:
    """Which images the model still classifies correctly: the record behind `accuracy`, image by image.

    Takes and raises what `accuracy` does. Two attacks on the same loader are paired, image by image: `a & b` is what is
    left when the attacker may pick the better one for each image.

    Returns:
        Bool tensor (n,) on the CPU, in the loader's order.

    Taught in 02_fgsm_attack.ipynb.
    """
    if attack is None and eps is not None:
        raise ValueError(f"attack: got None with eps={eps}; accepts an attack whenever eps is given")
    if attack is not None:
        validation.attack(attack)
    return _survived(model, loader, [(attack, [0.0 if attack is None else eps], "nothing")])[0]


def accuracy_vs_eps(
    model: nn.Module, loader: Loader, attack: Attack, eps_values: Iterable[float], *, nested: bool = False
) -> list[Accuracy]:
    """Accuracy under an attack at each of several radii, in one pass over the loader.

    FGSM, whose direction does not depend on eps, takes one gradient an image for the whole curve, and the accuracy at
    eps = 0 comes with it.

    Args:
        model, loader, attack: as for `accuracy`.
        eps_values: the radii in pixel units, each 0 to 1.
        nested: use that the balls are nested, the largest first. An image that the attack leaves at one radius counts
            as left at every smaller one and is attacked no more; an image that falls at a radius has fallen at every
            larger one, so the curve can only fall. This changes what a value means: some of the images that count as
            left were attacked at a larger radius only. It is right for an attack that finds in a large ball what it
            finds in a small one: for PGD, not for FGSM, nor where gradients are hidden (`checklist`). A curve that
            rises, the sign of a broken attack, cannot be seen in it.

    Returns:
        List of Accuracy records, one for each eps, in the order given.

    Raises:
        TypeError, ValueError: as `accuracy`.

    Taught in 02_fgsm_attack.ipynb, `nested` in 15_other_budgets.ipynb.
    """
    validation.attack(attack)
    eps_values = [validation.eps(eps, norm=norm_of(attack)) for eps in validation.radii(eps_values, "eps_values")]
    order = sorted(eps_values, reverse=True) if nested else eps_values
    parts = [order] if sweep_of(attack) else [[eps] for eps in order]
    skip = "survivors" if nested else "nothing"
    curve = [*map(wilson, _survived(model, loader, [(attack, values, skip) for values in parts]))]
    return [curve[order.index(eps)] for eps in eps_values] if nested else curve


class WorstCase(NamedTuple):
    """What several attacks leave: each by itself, all of them so far, and which images survived them all.

    `individual` and `cumulative` are {label: Accuracy} in the order of the attacks. `cumulative` counts the
    images that survived this attack and all before it, so it can only fall. `robust` is a bool tensor (n,). Attacks
    that ran as a cascade are not in `individual`.
    """

    individual: dict
    cumulative: dict
    robust: torch.Tensor

    @property
    def accuracy(self):
        """The robust accuracy under the worst case: the last line of `cumulative`."""
        return wilson(self.robust)

    def __str__(self):
        wide = max(map(len, self.cumulative)) + 2
        alone = {label: f"{record.value:.1%}" for label, record in self.individual.items()}
        lines = [f"{'':{wide}}individual   cumulative"]
        lines += [f"{label:{wide}}{alone.get(label, ''):>10}   {left}" for label, left in self.cumulative.items()]
        return "\n".join(lines)


def worst_case(
    model: nn.Module, loader: Loader, attacks: dict[str, Attack], *, eps: float, cascade: bool | Collection[str] = False
) -> WorstCase:
    """For each image the worst of several attacks, its clean version and the step towards grey (`grey`) included.

    Args:
        model, loader: as for `accuracy`.
        attacks: {label: attack}, of one norm; they are tried in this order, after "clean" and "grey".
        eps: the radius in pixel units, 0 to 1 (l_2: a Euclidean length).
        cascade: let each attack have only the images that all before it have left, as AutoAttack does, or only the
            attacks of these labels. The worst case stays what it is, up to the random draws of an attack, whose batches
            are smaller now. What such an attack finds alone is not measured.

    Returns:
        WorstCase(individual, cumulative, robust).

    Raises:
        TypeError, ValueError: attacks that are no such dict or of different norms, a label in `cascade` that they do
            not have, or as `accuracy`.

    Carlini et al., 2019, arXiv:1902.06705, section 4. Taught in 06_strong_attacks.ipynb, `cascade` in
    15_other_budgets.ipynb.
    """
    if not isinstance(attacks, dict) or not attacks or {"clean", "grey"} & attacks.keys():
        raise TypeError(f"attacks: got {attacks!r}; accepts a dict of attacks by label, without 'clean' and 'grey'")
    for attack in attacks.values():
        validation.attack(attack)
    norms = {norm_of(attack) for attack in attacks.values()}
    if len(norms) > 1:
        raise ValueError(f"attacks: got attacks of different norms, {', '.join(sorted(norms))}; accepts those of one")
    tried: dict[str, Attack | None] = {"clean": None, "grey": partial(grey, norm=norms.pop())} | attacks
    late = [*tried] if cascade is True else [validation.one_of(label, "cascade", tried) for label in cascade or ()]
    runs = [(one, [eps if one else 0.0], "fallen" if label in late else "nothing") for label, one in tried.items()]
    alive = torch.stack(_survived(model, loader, runs))  # (runs, n), of one pass over the loader
    together = alive.int().cummin(0).values.bool()
    individual, cumulative = (dict(zip(tried, map(wilson, each))) for each in (alive, together))
    return WorstCase({label: individual[label] for label in tried if label not in late}, cumulative, together[-1])


class McNemar(NamedTuple):
    """Two records of the same images: how many only the first got right, only the second, and McNemar's p-value."""

    only_first: int
    only_second: int
    p_value: float

    def __str__(self):
        return f"only the first: {self.only_first}, only the second: {self.only_second}, p = {self.p_value:.2g}"


def mcnemar(first: torch.Tensor, second: torch.Tensor) -> McNemar:
    """Compare two models, or two attacks, on the same images by those on which they disagree (McNemar's exact test).

    Args:
        first, second: bool tensors (n,) of the same images in the same order, as `survivors` returns.

    Returns:
        McNemar(only_first, only_second, p_value): the two-sided probability of so uneven a split, were the
        disagreements a fair coin's.

    Raises:
        ValueError: two records of different length.

    McNemar, 1947, doi:10.1007/BF02295996. Taught in 04_adversarial_training.ipynb.
    """
    if first.shape != second.shape:
        raise ValueError(f"second: got {len(second)} images beside {len(first)}; accepts records of the same images")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


def wilson(correct: torch.Tensor, z: float = 1.96) -> Accuracy:
    """The record of a bool tensor: its mean with the Wilson score interval, which stays inside [0, 1] also at the ends.

    Wilson, 1927, doi:10.1080/01621459.1927.10502953. Taught in 01_train_vgg.ipynb.
    """
    n, k = len(correct), int(correct.sum())
    if n == 0:
        raise ValueError("correct: got no images; accepts at least one")
    p, zz = k / n, z * z / n
    centre, half = (p + zz / 2) / (1 + zz), z * math.sqrt(p * (1 - p) / n + zz / (4 * n)) / (1 + zz)
    return Accuracy(p, max(0.0, centre - half) if k else 0.0, min(1.0, centre + half) if k < n else 1.0, n)


def _survived(model, loader, runs):
    """Which images survive each radius of each of the runs (attack, eps_values, skip): bool tensors (n,).

    `skip` says what a run leaves out, as the runs before it have settled it: "nothing"; "fallen", what they have fooled
    (a cascade); "survivors", what they have not (nested balls, the largest first).
    """
    validation.module(model)
    validation.WARNED.clear()
    runs = [(hurried(run), [validation.eps(e, norm=norm_of(run)) for e in values], skip) for run, values, skip in runs]

    def survive(x, y, index):
        unsettled = torch.ones_like(y, dtype=torch.bool)
        for attack, eps_values, skip in runs:
            i = (torch.ones_like(unsettled) if skip == "nothing" else unsettled).nonzero().flatten()
            verdicts = _correct(attack, network, x[i], y[i], eps_values, index)
            for correct in verdicts if len(i) else [y[i].bool()] * len(eps_values):
                alive = unsettled.index_put((i,), correct)
                alive = alive if skip == "nothing" else alive.where(unsettled, skip == "survivors")
                unsettled = unsettled & (~alive if skip == "survivors" else alive)
                yield alive

    with eval_mode(model):
        network = fuse_batch_norm(model)
        return per_image(model, loader, survive)[1:]


def _correct(attack, model, x, y, eps_values, index):
    """Which of the images x are read correctly after the attack, for each eps in turn."""
    for eps, (x_adv, logits) in zip(eps_values, _attacked(attack, model, x, y, eps_values, index)):
        validation.attacked(x_adv, x, eps, norm_of(attack))
        yield (predict_logits(model, x_adv, y) if logits is None else logits).argmax(1) == y


def per_image(model, loader, judge):
    """Tensors (n,): the `image_hashes`, and each that `judge(x, y, index)` gives."""
    found = {}
    for index, batch in distributed.shard_batches(loader):
        x, y = validation.batch(batch)
        device = validation.device_of(model) or x.device
        found[index] = [image_hashes(x), *(part.cpu() for part in judge(x.to(device), y.to(device), index))]
    found = distributed.all_gather(found)
    if not found:
        raise ValueError("loader: got no images; accepts at least one")
    keys, *verdicts = map(torch.cat, zip(*found.values()))
    validation.unseen(keys, train_hashes_of(model))
    return keys, *verdicts


def _attacked(attack, model, x, y, eps_values, index):
    """(x_adv, logits or None) for each eps: only a sweep of the attack's own may have logits to give."""
    if attack is None:
        return [(x, None) for _ in eps_values]
    if sweep_of(attack) is not None:
        return sweep_of(attack)(model, x, y, eps_values)
    return ((seeded(attack, index)(model, x.clone(), y, eps=eps), None) for eps in eps_values)
