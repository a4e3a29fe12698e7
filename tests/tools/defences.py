"""Measures the nine defences of the arena: their claims, plain PGD, a reference attack for each, and what it cost.

`python tests/tools/defences.py [NAME ...]` prints a line for each. Claims and seals in
`advutils/exercises/arena/defences.py` are copied from there; `tests/unit/exercises/test_defences.py` measures again.
"""

import argparse
import copy
import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from advutils import fgsm, pgd
from advutils.attacks.losses import cw
from advutils.exercises.arena.defence import Defence, counted, fingerprint
from advutils.exercises.arena.defences import DEFENCES
from advutils.exercises.arena.judge import REJECTED, checked, readings
from advutils.utils.traits import seeded


class Straight(nn.Module):
    """A layer as it is on the way forward, and as if it were not there on the way back: BPDA."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + (self.layer(x) - x).detach()


class Secant(nn.Module):
    """A pixel-wise layer whose slope is taken over 2h: a finite difference that sees over the jumps."""

    def __init__(self, layer, h):
        super().__init__()
        self.layer, self.h = layer, h

    def forward(self, x):
        lower, upper = (x - self.h).clamp(min=0), (x + self.h).clamp(max=1)
        slope = (self.layer(upper) - self.layer(lower)) / (upper - lower)
        return self.layer(x).detach() + slope.detach() * (x - x.detach())


class Function(nn.Module):
    """A function of images as a model, which attacks ask for."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def bpda(model, x, y, *, eps):
    return pgd(nn.Sequential(Straight(model[0]), model[1]), x, y, eps=eps)


def over_jumps(model, x, y, *, eps):
    return pgd(nn.Sequential(Secant(model[0], 1 / 7), model[1]), x, y, eps=eps)


def mean_of_draws(model, x, y, *, eps):
    """EOT: the mean over 20 draws of the logarithms of the probabilities, so the mean of their gradients."""
    mean = Function(lambda x: torch.stack([model(x).log_softmax(1) for _ in range(20)]).mean(0))
    return pgd(mean, x, y, eps=eps, steps=20)


def less_steep(model, x, y, *, eps):
    """PGD on a copy whose switches have a smaller slope, so that a gradient sees beyond them."""
    gentle = copy.deepcopy(model)
    gentle[2].slope = gentle[4].slope = 2.0
    return pgd(gentle, x, y, eps=eps, loss=cw)


def both_readings(model, x, y, *, eps):
    """PGD on the sum of the logits of the image and of its blurred copy, so that both become wrong in one class."""
    both = Function(lambda x: model.network(x) + model.network(F.avg_pool2d(x, 3, stride=1, padding=1)))
    return pgd(both, x, y, eps=eps, loss=cw)


def mean_of_members(model, x, y, *, eps):
    return pgd(Function(lambda x: torch.stack([member(x) for member in model.members]).mean(0)), x, y, eps=eps)


def part_left_out(model, x, y, *, eps):
    """The shortest attack: PGD on what lies behind the first part, as if that were not there."""
    return pgd(model[1], x, y, eps=eps)


REFERENCE = {
    "scaled-logits": partial(pgd, loss=cw),
    "bit-depth": bpda,
    "random-resize-and-noise": mean_of_draws,
    "k-winners-take-all": over_jumps,
    "detector": both_readings,
    "fgsm-trained": less_steep,
    "jpeg": bpda,
    "vote": mean_of_members,
    "certified": partial(pgd, restarts=3, loss=cw),
}


def few(defence: Defence, every: int) -> Defence:
    """The same defence on every `every`-th of its images."""
    return replace(defence, x=defence.x[::every].clone(), y=defence.y[::every].clone())


def withstood(defence: Defence, attack=None) -> torch.Tensor:
    """Which images are read right, and not misread once attacked within the budget, bool (N,); see `judge`.

    Warnings of gradients that are zero are left out: some of the defences live on them.
    """
    kept = (readings(defence, defence.x, 0) == defence.y).float().mean(0) > 0.5
    if attack is None:
        return kept
    with warnings.catch_warnings(), torch.random.fork_rng(), counted(defence) as model:
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        images = checked(seeded(attack, 0)(model, defence.x, defence.y, eps=defence.eps), defence)
    read = readings(defence, images, 0)
    return kept & (((read != defence.y) & (read != REJECTED)).float().mean(0) <= 0.5)


def claimed(defence: Defence) -> torch.Tensor:
    """What the authors measured, bool (N,)."""
    if defence.certificate is not None:
        return defence.certificate(defence.model, defence.x, defence.y, eps=defence.eps)
    return withstood(defence, {"FGSM": fgsm, "PGD-40": pgd}[defence.claimed_with])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DEFENCES)}; all if none")
    names = parser.parse_args(arguments).names or DEFENCES
    print(f"{'of 100 images':24}{'clean':>7}{'claim':>7}{'PGD-40':>8}{'reference':>11}   seal")
    for name in names:
        one = DEFENCES[name]()
        clean, plain = (int(withstood(one, attack).sum()) for attack in (None, pgd))
        claim = plain if one.claimed_with == "PGD-40" else int(claimed(one).sum())
        print(f"{name:24}{clean:7}{claim:7}{plain:8}", end="", flush=True)
        seal = fingerprint(one.model, one.x, one.y)
        print(f"{int(withstood(one, REFERENCE[name]).sum()):11}   {seal}", flush=True)


if __name__ == "__main__":
    main()
