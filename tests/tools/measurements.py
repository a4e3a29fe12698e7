"""Makes the measurements that take too long for a notebook: `make measurements`, some hours for all on one core.

    python tests/tools/measurements.py --list
    python tests/tools/measurements.py autoattack            # measures, and shows the values beside the published ones
    python tests/tools/measurements.py autoattack --write    # and replaces the published ones

A measurement is a function of no arguments in MEASURED that returns what JSON can hold. Its docstring's first line
says what is measured. It names the recipes and attacks that it hangs on: when one of their versions is raised, a test
says that the measurement is stale.
"""

import argparse
import datetime
import io
import itertools
import json
import math
import time
import warnings
from functools import partial

import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from advutils import (
    accuracy,
    accuracy_vs_eps,
    adversarial,
    certified_radius,
    checklist,
    clean,
    crown_bounds,
    cw,
    dlr,
    few_pixels,
    fgsm,
    fit,
    fmn,
    fuse_batch_norm,
    grey,
    initialised,
    input_gradient,
    ledger,
    load_data,
    make_loader,
    margin,
    minimum_norm,
    mixed,
    n_fgsm,
    pgd,
    predict,
    project,
    random_fgsm,
    random_noise,
    rays,
    shift,
    small_cnn,
    split,
    square,
    sticker,
    strided_cnn,
    survivors,
    targeted,
    trades,
    train_patch,
    trained,
    vgg,
    worst_case,
)
from advutils.attacks import VERSIONS as ATTACK_VERSIONS
from advutils.attacks.auto import autoattack as auto_attack
from advutils.budgets import VERSIONS as BUDGET_VERSIONS
from advutils.certify import proven
from advutils.pretrained import VERSIONS as RECIPE_VERSIONS
from advutils.pretrained import machine
from advutils.utils.images import read_image, to_levels
from advutils.utils.measurements import MEASUREMENTS

VERSIONS = RECIPE_VERSIONS | ATTACK_VERSIONS | BUDGET_VERSIONS
MEASURED = {}  # name: (function, recipes and attacks that it hangs on)


def measurement(*depends_on):
    """Enter a function into MEASURED under its name, with the recipes and attacks that it hangs on."""
    unknown = set(depends_on) - VERSIONS.keys()
    if unknown:
        raise ValueError(f"depends_on: got {sorted(unknown)}; accepts names of recipes and of attacks")

    def enter(function):
        MEASURED[function.__name__] = (function, depends_on)
        return function

    return enter


def versions(depends_on):
    """The versions of today of these recipes and attacks."""
    return {name: VERSIONS[name] for name in depends_on}


def _watched_training(objective, seed):
    """One training of notebook 7: what it measures while it runs, and at its end under a stronger PGD."""
    eps, epochs, every = 0.2, 6, 25
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    chosen = torch.linspace(0, len(val_set) - 1, 300).long()
    x, y = (tensor[chosen] for tensor in val_set.tensors)
    net = initialised(partial(vgg, 11, width=0.125, in_channels=1), seed=seed)
    batches = make_loader(train_set, batch_size=32, shuffle=True, seed=seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=5e-4)
    torch.manual_seed(seed)
    log, step, last = {}, 0, epochs * len(batches)
    for _ in range(epochs):
        for images, labels in batches:
            step += 1
            optimizer.param_groups[0]["lr"] = 3e-3 * min(1, step / 100)
            optimizer.zero_grad()
            objective(net.train(), shift(images), labels, eps=eps).backward()
            optimizer.step()
            if step % every == 0 or step == last:
                here = dict(
                    step=step,
                    clean=accuracy(net, [(x, y)]).value,
                    FGSM=accuracy(net, [(x, y)], fgsm, eps=eps).value,
                    PGD=accuracy(net, [(x, y)], partial(pgd, steps=10), eps=eps).value,
                    alignment=_alignment(net, x, y, eps),
                )
                for name, value in here.items():
                    log.setdefault(name, []).append(round(value, 4))
    strong = partial(pgd, steps=50, restarts=3)
    return log | dict(seed=seed, strong=round(accuracy(net, [(x, y)], strong, eps=eps).value, 4))


def _alignment(net, x, y, eps):
    """Mean cosine between the gradient at each image and the one at a random point of its ball."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    beside = (x + eps * (2 * noise - 1)).clamp(0, 1)
    here, there = (input_gradient(net, points, y).flatten(1) for points in (x, beside))
    return torch.nn.functional.cosine_similarity(here, there).mean().item()


@measurement("fgsm", "pgd")
def fgsm_training():
    """Notebook 7: FGSM training at 0.2 with five seeds, every 25 steps under no attack, FGSM and PGD."""
    return [_watched_training(partial(adversarial, attack=fgsm), seed) for seed in range(5)]


@measurement("fgsm", "pgd")
def fgsm_training_again():
    """Notebook 7: `fgsm_training` on another processor, which rounds in another way: as good as five more seeds."""
    return fgsm_training()


@measurement("fgsm", "pgd")
def single_step_cures():
    """Notebook 7: training from a random start and N-FGSM at 0.2, measured as `fgsm_training` is."""
    cures = {"random start": random_fgsm, "N-FGSM": n_fgsm}
    return {name: [_watched_training(objective, seed) for seed in range(5)] for name, objective in cures.items()}


@measurement("mixed-fgsm", "fgsm", "pgd")
def full_mnist():
    """The defended VGG's recipe on full MNIST, two epochs: clean, FGSM and PGD accuracy on the way and at the end."""
    train, val = split(load_data("mnist", train=True), 0.1, seed=0)
    x, y = split(val, 1 / 12, seed=0)[1].tensors  # 500 digits
    attacks = {"clean": None, "FGSM": fgsm, "PGD": partial(pgd, steps=10)}
    log = {name: [] for name in ("step", *attacks)}
    steps = itertools.count()

    def watched(model, batch, labels, *, eps):
        if (step := next(steps)) % 150 == 0:
            log["step"].append(step)
            for name, attack in attacks.items():
                log[name].append(accuracy(model, [(x, y)], attack, eps=None if attack is None else eps).value)
        return mixed(model, batch, labels, eps=eps)

    model = initialised(partial(vgg, 16, width=0.25, in_channels=1), seed=0)
    batches = make_loader(train, batch_size=32, shuffle=True, seed=0)
    held = make_loader(val, batch_size=500)
    fit(model, batches, held, epochs=2, lr=3e-3, objective=watched, eps=0.1, augment=shift, seed=0, progress=False)
    test = make_loader(load_data("mnist", train=False), batch_size=250)
    kept = {name: accuracy(model, test, attack, eps=attack and 0.1) for name, attack in attacks.items()}
    return {"log": log, "watched": len(x), "train": len(train), "test": kept}


@measurement("clean", "mixed-fgsm", "fgsm", "pgd")
def reattack():
    """Notebook 5 on all 1,000 test digits: FGSM and PGD at six radii, and at 0.1 and 0.2 stronger PGD; l_2 as well."""
    loader = make_loader(load_data("mnist-5k", train=False), batch_size=250)
    nets = {"clean VGG": trained("clean"), "defended VGG": trained("mixed-fgsm-0.1")}
    eps_values, ten = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3], partial(pgd, steps=10)
    curves, l2 = {}, {}
    for name, net in nets.items():
        curves[f"{name}, FGSM"] = accuracy_vs_eps(net, loader, fgsm, eps_values)
        curves[f"{name}, PGD"] = [accuracy(net, loader), *accuracy_vs_eps(net, loader, ten, eps_values[1:])]
        l2[name] = accuracy_vs_eps(net, loader, partial(pgd, steps=20, norm="l2"), [1, 2, 3])
    tried = {
        "FGSM": fgsm,
        "PGD, 10 steps": ten,
        "PGD, 50 steps": partial(pgd, steps=50),
        "PGD, 10 steps, 5 starts": partial(pgd, steps=10, restarts=5),
    }
    stronger = {}
    for eps in (0.1, 0.2):
        found = worst_case(nets["defended VGG"], loader, tried, eps=eps)
        stronger[f"{eps}"] = {"alone": found.individual, "together": found.cumulative}
    return {"eps_values": eps_values, "curves": curves, "stronger": stronger, "l2": {"eps_values": [1, 2, 3], **l2}}


def _every_fifth_digit():
    """Every fifth test digit, 200 in all, as a loader; the notebook's 100 are every other one of these."""
    x, y = load_data("mnist-5k", train=False)[::5]
    return make_loader(TensorDataset(x, y), batch_size=100)


def _marks(kept):
    """A record of survivors as text: 1 for an image that is still read correctly, 0 for one that is not."""
    return "".join(str(int(one)) for one in kept)


def _trained_small(objective, seed, *, epochs, lr, nudge=0.0):
    """A small VGG of notebook 4's tests, trained; `nudge` is added to one of its first weights. And its history."""
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    net = initialised(partial(vgg, 11, width=0.125, in_channels=1), seed=seed)
    with torch.no_grad():
        next(net.parameters())[0, 0, 0, 0] += nudge
    batches, held = make_loader(train_set, batch_size=32, shuffle=True, seed=seed), make_loader(val_set, batch_size=500)
    settings = dict(epochs=epochs, lr=lr, objective=objective, augment=shift, seed=seed, progress=False)
    return net, fit(net, batches, held, **settings)


def _twice(model, x, y):
    """A control: each batch joined with a copy of itself."""
    return clean(model, torch.cat([x, x]), torch.cat([y, y]))


@measurement("mixed-fgsm", "fgsm")
def adversarial_training_fair_test():
    """Notebook 4: clean and mixed-minibatch training at equal epochs and at equal passes, own rates, five seeds."""
    with_fgsm = partial(mixed, eps=0.1)
    arms = [("clean", clean, epochs) for epochs in (1, 2, 3, 6)]
    arms += [("mixed with FGSM", with_fgsm, epochs) for epochs in (1, 2)] + [("mixed with itself", _twice, 2)]
    rates, choosing, seeds = (1e-3, 3e-3, 1e-2, 3e-2), (100, 101), range(5)
    digits = make_loader(load_data("mnist-5k", train=False), batch_size=250)
    mnist = make_loader(load_data("mnist", train=False), batch_size=500)
    rows = []
    for name, objective, epochs in arms:
        losses = {}
        for lr in rates:
            tried = [_trained_small(objective, seed, epochs=epochs, lr=lr)[1].val_loss[-1] for seed in choosing]
            losses[lr] = sum(tried) / len(tried)
        lr = min(losses, key=losses.get)
        row = dict(arm=name, epochs=epochs, lr=lr, val_loss=losses, clean=[], FGSM=[], seconds=[])
        for seed in seeds:
            net, history = _trained_small(objective, seed, epochs=epochs, lr=lr)
            row["clean"].append(accuracy(net, mnist).value)
            row["FGSM"].append(accuracy(net, digits, fgsm, eps=0.1).value)
            row["seconds"].append(round(history.seconds[-1], 1))
        rows.append(row | dict(forwards=history.forwards[-1], backwards=history.backwards[-1]))
    return rows


@measurement("fgsm")
def rounding_test():
    """The results page: one training as it is, with one weight moved by 1e-7, and on doubled batches; five seeds."""
    mnist = make_loader(load_data("mnist", train=False), batch_size=500)
    tried = {"again": (clean, 0.0), "one weight + 1e-7": (clean, 1e-7), "mixed with itself": (_twice, 0.0)}
    found = {name: [] for name in tried}
    for seed in range(5):
        first, history = _trained_small(clean, seed, epochs=2, lr=1e-2)
        right = survivors(first, mnist)
        for name, (objective, nudge) in tried.items():
            other, other_history = _trained_small(objective, seed, epochs=2, lr=1e-2, nudge=nudge)
            gaps = [b - a for a, b in zip(history.val_accuracy, other_history.val_accuracy)]
            moved = max((a - b).abs().max().item() for a, b in zip(other.parameters(), first.parameters()))
            also = survivors(other, mnist)
            change = dict(seed=seed, val_gaps=gaps, weights=moved, flipped=(right ^ also).sum().item())
            change |= dict(test=right.double().mean().item(), test_other=also.double().mean().item())
            found[name].append(change)
    return found


@measurement("mixed-fgsm", "fgsm", "pgd")
def mixed_training_by_epoch():
    """Notebook 4: the training of the defended VGG with five seeds, under FGSM and PGD by epoch and at its end."""
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    held, ten = make_loader(val_set, batch_size=500), partial(pgd, steps=10)
    digits = make_loader(load_data("mnist-5k", train=False), batch_size=250)
    runs = []
    for seed in range(5):
        net = initialised(partial(vgg, 16, width=0.25, in_channels=1), seed=seed)
        batches = make_loader(train_set, batch_size=32, shuffle=True, seed=seed)
        settings = dict(lr=3e-3, objective=mixed, eps=0.1, augment=shift, seed=seed, progress=False)
        history = fit(net, batches, held, epochs=5, eval_attacks={"FGSM": fgsm, "PGD": ten}, **settings)
        test = {"clean": accuracy(net, digits).value, "FGSM": accuracy(net, digits, fgsm, eps=0.1).value}
        test["PGD"] = accuracy(net, digits, ten, eps=0.1).value
        runs.append(
            dict(
                seed=seed, val_accuracy=history.val_accuracy, robust_val_accuracy=history.robust_val_accuracy, test=test
            )
        )
        runs[-1] |= dict(best_epoch=history.best_epoch, seconds=round(history.seconds[-1]))
    return runs


@measurement("clean", "mixed-fgsm", "fgsm", "pgd")
def attacked_once():
    """Notebook 4: small VGGs never attacked, attacked once before their training, and in each step; five seeds."""
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    held, ten = make_loader(val_set, batch_size=500), partial(pgd, steps=10)
    x, y = load_data("mnist-5k", train=False).tensors
    digits = make_loader(TensorDataset(x, y), batch_size=250)

    def doubled(attacked):
        """The training images, each with its FGSM image for one finished network."""
        parts = []
        for batch, labels in make_loader(train_set, batch_size=300):
            parts += [(batch, labels), (fgsm(attacked, batch, labels, eps=0.1), labels)]
        return TensorDataset(*(torch.cat(part) for part in zip(*parts)))

    def train(data, batch_size, seed, **settings):
        net = initialised(partial(vgg, 11, width=0.125, in_channels=1), seed=seed).train()
        batches = make_loader(data, batch_size=batch_size, shuffle=True, seed=seed)
        fit(net, batches, held, epochs=5, lr=3e-3, augment=shift, seed=seed, progress=False, **settings)
        return net

    def measured(net, attacked, seed):
        old = make_loader(TensorDataset(fgsm(attacked, x, y, eps=0.1), y), batch_size=250)
        kept = {"clean": accuracy(net, digits).value, "old": accuracy(net, old).value}
        kept["FGSM"] = accuracy(net, digits, fgsm, eps=0.1).value
        return dict(seed=seed, **kept, PGD=accuracy(net, digits, ten, eps=0.1).value)

    clean_vgg = trained("clean")
    watched = dict(eps=0.1, eval_attacks={"PGD": ten})
    ways = {
        "never attacked": (train_set, 32, dict(objective=clean)),
        "attacked once": (doubled(clean_vgg), 64, dict(objective=clean)),
        "attacked in each step": (train_set, 32, dict(objective=mixed, **watched)),
        "without clean half": (train_set, 32, dict(objective=partial(adversarial, attack=fgsm), **watched)),
    }
    found, never_attacked = {name: [] for name in ways}, []
    for seed in range(5):
        for name, (data, batch_size, settings) in ways.items():
            net = train(data, batch_size, seed, **settings)
            found[name].append(measured(net, clean_vgg, seed))
            if name == "never attacked":
                never_attacked.append(net)
    found["attacked once, own"] = []  # the images of the same network, and the epoch chosen as for "in each step"
    for seed, own in enumerate(never_attacked):
        net = train(doubled(own), 64, seed, objective=_clean, **watched)
        found["attacked once, own"].append(measured(net, own, seed))
    return found


@measurement("mixed-fgsm", "fgsm", "pgd", "targeted")
def attack_strength():
    """Notebook 6: which of 200 digits the defended VGG keeps as PGD gets more steps, more starts or other settings."""
    net, loader = trained("mixed-fgsm-0.1"), _every_fifth_digit()
    eps, twenty = 0.15, partial(pgd, steps=20)

    def kept(attack, radius=eps):
        return _marks(survivors(net, loader, attack, eps=radius))

    steps = {str(count): kept(partial(pgd, steps=count)) for count in (1, 2, 5, 10, 20, 40, 80)}
    x, y = loader.dataset.tensors
    starts, left = [], torch.arange(len(x))
    for start in range(1, 51):  # an image that fell is not attacked again
        attack = partial(twenty, generator=torch.Generator().manual_seed(start))
        left = left[survivors(net, [(x[left], y[left])], attack, eps=eps)]
        starts.append(len(left))
    fifty = torch.isin(torch.arange(len(x)), left)
    variants = {
        "step of eps / 100": kept(partial(twenty, step_size=eps / 100)),
        "no random start": kept(partial(twenty, random_start=False)),
        "momentum 1": kept(partial(twenty, momentum=1.0)),
        "cw loss": kept(partial(twenty, loss=cw)),
        "DLR loss": kept(partial(twenty, loss=dlr)),
        "aimed at 9 classes": kept(partial(targeted, attack=partial(twenty, loss=cw), n_target_classes=9)),
    }
    aimed = partial(targeted, attack=partial(pgd, steps=10, loss=cw), n_target_classes=3)
    attacks = {"FGSM": fgsm, "PGD": twenty, "DLR": partial(twenty, loss=dlr), "aimed": aimed}
    radii = {
        str(radius): {name: kept(attack, radius) for name, attack in attacks.items()}
        for radius in (0, 0.05, 0.1, 0.15, 0.2)
    }
    return {"steps": steps, "starts": starts, "50 starts": _marks(fifty), "variants": variants, "radii": radii}


@measurement("mixed-fgsm", "fgsm", "pgd", "autoattack")
def autoattack():
    """Notebook 6: which of 200 digits the defended VGG keeps at 0.15 under PGD-40 and each attack of AutoAttack."""
    net, loader = trained("mixed-fgsm-0.1"), _every_fifth_digit()
    attacks = {"clean": None, "FGSM": fgsm, "PGD-40": partial(pgd, steps=40)}
    names = {"APGD-CE": "apgd-ce", "APGD-T": "apgd-t", "FAB-T": "fab-t", "Square": "square"}
    attacks |= {label: partial(auto_attack, attacks_to_run=[name], flags=[]) for label, name in names.items()}
    records, seconds = {}, {}
    for label, attack in attacks.items():
        began = time.monotonic()
        records[label] = _marks(survivors(net, loader, attack, eps=attack and 0.15))
        seconds[label] = round(time.monotonic() - began)
    records["AutoAttack"] = _marks(all(four) for four in zip(*([m == "1" for m in records[name]] for name in names)))
    return {"records": records, "seconds": seconds}


@measurement("mixed-fgsm", "pgd")
def step_length():
    """Notebook 6: which of 200 digits the defended VGG keeps at 0.15 under PGD of 100 steps of four kinds."""
    net, loader = trained("mixed-fgsm-0.1"), _every_fifth_digit()
    hundred = partial(pgd, steps=100)
    kinds = {"2.5 eps / 100": hundred, "eps / 4": partial(hundred, step_size=0.15 / 4)}
    kinds["2 eps"] = partial(hundred, step_size=2 * 0.15)
    kinds["eps / 4, momentum 0.75"] = partial(kinds["eps / 4"], momentum=0.75)
    return {name: _marks(survivors(net, loader, attack, eps=0.15)) for name, attack in kinds.items()}


class _Rounded(torch.nn.Module):
    """Notebook 6's rounding to black and white; with `straight` its backward pass is the identity's (BPDA)."""

    def __init__(self, straight):
        super().__init__()
        self.straight = straight

    def forward(self, x):
        return x + (x.round() - x).detach() if self.straight else x.round()


class _Scaled(torch.nn.Module):
    """Notebook 6's factor behind the logits."""

    def forward(self, z):
        return 10_000 * z


@measurement("mixed-fgsm", "fgsm", "pgd", "targeted", "square", "random_noise")
def hidden_gradients():
    """Notebook 6: its two toy defences under PGD, the attacks made for them, noise and Square with 1,000 queries."""
    net, loader = trained("mixed-fgsm-0.1"), _every_fifth_digit()
    loud = torch.nn.Sequential(net, _Scaled())
    black, twin = (torch.nn.Sequential(_Rounded(straight), net) for straight in (False, True))
    blind = {"noise": random_noise, "Square": partial(square, n_queries=1000)}

    def bpda(model, x, y, *, eps, generator=None):
        return pgd(twin, x, y, eps=eps, steps=100, early_exit=True, generator=generator)

    def kept(model, attacks, eps):
        return {name: _marks(survivors(model, loader, attack, eps=eps)) for name, attack in attacks.items()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zero gradients, which are the subject
        plain = {"PGD": partial(pgd, steps=20)}
        records = {"saturated, 0.15": kept(loud, plain | {"DLR": partial(pgd, steps=20, loss=dlr)} | blind, 0.15)}
        for radius in (0.15, 0.3, 0.45):
            records[f"binarised, {radius}"] = kept(black, plain | {"BPDA": bpda} | blind, radius)
        half = make_loader(TensorDataset(*loader.dataset[::2]), batch_size=100)
        lists = {}
        for name, model in {"as it was": net, "binarised input": black}.items():
            found = checklist(model, half, eps=0.15, steps=20, n_queries=1000)
            lists[name] = {"lines": str(found).splitlines(), "kept": _marks(found.worst.robust)}
    return {"records": records, "checklists": lists}


def _clean(model, x, y, *, eps):
    """The clean objective, for a comparison in which all others get a radius."""
    return clean(model, x, y)


METHODS = {  # of notebook 8: the objective, and its passes for one image, forward and backward together
    "clean": (_clean, 2),
    "FGSM": (partial(adversarial, attack=fgsm), 4),
    "random start": (random_fgsm, 4),
    "N-FGSM": (n_fgsm, 4),
    "PGD-3": (partial(adversarial, attack=partial(pgd, steps=3)), 8),
    "TRADES-3": (partial(trades, steps=3, beta=6.0), 11),
}


def _train_for_passes(name, seed, lr, *, passes=88, eps=0.2, **changed):
    """One training of notebook 8 for so many passes an image, and which of 500 test digits its best epoch keeps."""
    objective, price = METHODS[name]
    objective = partial(objective, **changed)
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    held_out = make_loader(TensorDataset(*val_set[::2]), batch_size=200)
    loader = make_loader(TensorDataset(*load_data("mnist-5k", train=False)[::2]), batch_size=250)
    net = initialised(partial(vgg, 11, width=0.125, in_channels=1), seed=seed)
    batches = make_loader(train_set, batch_size=32, shuffle=True, seed=seed)
    settings = dict(epochs=passes // price, lr=lr, augment=shift, seed=seed, progress=False)
    watch = {} if name == "clean" else {"PGD": partial(pgd, steps=10)}  # the last epoch of a clean training is kept
    history = fit(net, batches, held_out, objective=objective, eps=eps, eval_attacks=watch, **settings)
    spent = [(f + b) / len(train_set) for f, b in zip(history.forwards, history.backwards)]
    run = dict(
        method=name,
        seed=seed,
        lr=lr,
        passes=spent,
        PGD=history.robust_val_accuracy.get("PGD", []),
        best_epoch=history.best_epoch,
    )
    strong = survivors(net, loader, partial(pgd, steps=40), eps=eps)
    run |= dict(clean=_marks(survivors(net, loader)), strong=_marks(strong))
    run |= dict(val_clean=history.val_accuracy, seconds=round(history.seconds[-1])) | changed
    print(run["method"], lr, seed, run["PGD"], run["strong"].count("1"), run["seconds"], flush=True)
    return run


def _equal_passes(seed):
    return [_train_for_passes(name, seed, lr) for name in METHODS if name != "clean" for lr in (3e-3, 1e-2)]


@measurement("fgsm", "pgd")
def equal_passes_seed_0():
    """Notebook 8: five ways of training at 0.2, 88 passes an image each, two learning rates, seed 0."""
    return _equal_passes(0)


@measurement("fgsm", "pgd")
def equal_passes_seed_1():
    """Notebook 8: the same as `equal_passes_seed_0` with seed 1."""
    return _equal_passes(1)


@measurement("clean", "pgd")
def equal_passes_clean():
    """Notebook 8: clean training for as many passes as `equal_passes_seed_0`, learning rate 0.003, two seeds."""
    return [_train_for_passes("clean", seed, 3e-3) for seed in (0, 1)]


@measurement("fgsm", "pgd")
def trades_beta():
    """Notebook 8: TRADES with beta 1, as `equal_passes_seed_0` has it with beta 6, two seeds."""
    return [_train_for_passes("TRADES-3", seed, 3e-3, beta=1.0) for seed in (0, 1)]


@measurement("pgd")
def robust_overfitting():
    """Notebook 8: PGD-3 training at 0.2 on 1,000 digits, 60 epochs, the learning rate a tenth after 30; two seeds."""
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    held_out = val_set
    few = TensorDataset(*train_set[:: len(train_set) // 1000])
    few = TensorDataset(*few[:1000])
    seen, ten = TensorDataset(*few[::5]), partial(pgd, steps=10, early_exit=True)
    runs = []
    for seed in (0, 1):
        net = initialised(partial(vgg, 11, width=0.125, in_channels=1), seed=seed)
        batches = make_loader(few, batch_size=32, shuffle=True, seed=seed)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=5e-4)
        torch.manual_seed(seed)
        run = dict(seed=seed, epoch=[], lr=[], training=[], validation=[], clean_validation=[])
        for epoch in range(1, 61):
            optimizer.param_groups[0]["lr"] = lr = 3e-3 if epoch <= 30 else 3e-4
            for images, labels in batches:
                optimizer.zero_grad()
                adversarial(net.train(), images, labels, eps=0.2, attack=partial(pgd, steps=3)).backward()
                optimizer.step()
            if epoch % 2 == 0:
                shares = [_robust_share(net.eval(), *part.tensors, ten) for part in (seen, held_out)]
                clean = accuracy(net, [held_out.tensors]).value
                for key, value in zip(list(run)[1:], (epoch, lr, *shares, clean)):
                    run[key].append(round(value, 4))
                print(seed, epoch, shares, clean, flush=True)
        runs.append(run)
    return runs


def _robust_share(net, x, y, attack):
    """Robust accuracy at 0.2 without the question whether the network was trained on these images."""
    x_adv = attack(net, x, y, eps=0.2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return (net(x_adv).argmax(1) == y).float().mean().item()


@measurement("random-fgsm", "fgsm", "pgd", "targeted", "square", "autoattack")
def steep_network():
    """Notebook 8: what a steep first layer leaves at 0.3, two seeds; the checklist and AutoAttack for the first one."""
    small, digits = dict(depth=11, width=0.125, progress=False), load_data("mnist-5k", train=False)
    loader = make_loader(TensorDataset(*digits[::2]), batch_size=250)
    trainings = []
    for contrast in (None, 10):
        for seed in (0, 1):
            net = trained("random-fgsm-0.3", contrast=contrast, seed=seed, **small)
            clean, strong = (survivors(net, loader, a, eps=a and 0.3) for a in (None, partial(pgd, steps=40)))
            trainings.append(dict(contrast=contrast, seed=seed, clean=_marks(clean), strong=_marks(strong)))
            print(contrast, seed, clean.sum(), strong.sum(), flush=True)
    steep = trained("random-fgsm-0.3", contrast=10, **small)
    found = checklist(
        steep, make_loader(TensorDataset(*digits[::5]), batch_size=100), eps=0.3, steps=20, n_queries=1000
    )
    print(found, flush=True)
    kept = {label: record.value for label, record in found.worst.individual.items()}
    handful = make_loader(TensorDataset(*digits[::10]), batch_size=100)
    records = {"PGD-40": partial(pgd, steps=40), "AutoAttack": auto_attack}
    records = {label: _marks(survivors(steep, handful, attack, eps=0.3)) for label, attack in records.items()}
    return {"trainings": trainings, "checklist": str(found).splitlines(), "alone": kept, "records": records}


def _spread_digits(n):
    """n test digits, spread evenly over the test set, and their labels."""
    images, labels = load_data("mnist-5k", train=False).tensors
    chosen = torch.linspace(0, len(images) - 1, n).long()
    return images[chosen], labels[chosen]


def _coins(shape, generator):
    """Each entry -1 or +1, like a fair coin."""
    return (torch.rand(shape, generator=generator) - 0.5).sign()


def _random_squares(x, side, generator):
    """A mask (N, 1, H, W): one square at a random place for each image."""
    size, at = x.shape[3], torch.arange(x.shape[3])
    corner = (torch.rand(2, len(x), 1, generator=generator) * (size - side + 1)).floor()
    rows, columns = (at >= corner) & (at < corner + side)
    return rows[:, None, :, None] & columns[:, None, None, :]


def _come_closer(model, x, y, n_queries, generator):
    """The label-only search of notebook 9: the radius (queries, N) at which each image is misread, after each query."""
    direction = _coins((len(x), 1, 1, x.shape[3]), generator).expand_as(x)
    radius, step, history = torch.ones(len(x), 1, 1, 1), torch.full((len(x), 1, 1, 1), 0.1), []
    for _ in range(n_queries):
        side = int(torch.randint(1, 15, (), generator=generator))
        squares = _random_squares(x, side, generator)
        tried = torch.where(squares, _coins((len(x), 1, 1, 1), generator), direction)
        closer = radius * (1 - step)
        misread = (model((x + closer * tried).clamp(0, 1)).argmax(1) != y)[:, None, None, None]
        direction, radius = torch.where(misread, tried, direction), torch.where(misread, closer, radius)
        step = torch.where(misread, 1.3 * step, 0.93 * step).clamp(0.001, 0.3)
        history.append(radius.flatten())
    return torch.stack(history)


def _square_margins(model, x, y, n_queries, generator):
    """Square on the library's own code, overheard: the best margin (queries, N) after each query."""
    margins = []
    hook = model.register_forward_hook(lambda _, inputs, logits: margins.append(margin(logits, y)))
    square(model, x, y, eps=0.2, n_queries=n_queries, generator=generator)
    hook.remove()
    return torch.stack(margins).cummin(0).values


def _noise_margins(model, x, y, n_queries, generator):
    """The best margin (queries, N) of noise that is drawn afresh for each query."""
    tried = [margin(model(random_noise(None, x, y, eps=0.2, generator=generator)), y) for _ in range(n_queries)]
    return torch.stack(tried).cummin(0).values


BLIND_SEARCHES = (("noise", _noise_margins, 200), ("scores", _square_margins, 1000), ("label", _come_closer, 2000))


@measurement("clean", "mixed-fgsm", "outsider-small-cnn", "pgd", "square", "grey", "random_noise")
def black_box():
    """Notebook 9: what attackers leave of 200 digits at 0.2 who see scores, classes or nothing, on two targets."""
    x, y = _spread_digits(200)
    outsider, found = trained("outsider-small-cnn"), {}
    after = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000)
    for name, target in {"clean VGG": trained("clean"), "defended VGG": trained("mixed-fgsm-0.1")}.items():
        with torch.no_grad():
            right = target(x).argmax(1) == y
            ten = partial(pgd, steps=10, random_start=False)
            made = {"grey": grey(None, x, y, eps=0.2), "white box": ten(target, x, y, eps=0.2)}
            made["transfer"] = ten(outsider, x, y, eps=0.2, momentum=1.0)
            kept = {"clean": right} | {label: target(x_adv).argmax(1) == y for label, x_adv in made.items()}
            curves = {}
            for label, search, n_queries in BLIND_SEARCHES:
                level = 0.2 if search is _come_closer else 0
                left = torch.empty(n_queries, len(x), dtype=torch.bool)
                for part in range(10):  # every tenth image, so that a notebook can repeat the first part
                    chosen, generator = slice(part, None, 10), torch.Generator().manual_seed(part)
                    left[:, chosen] = search(target, x[chosen], y[chosen], n_queries, generator) > level
                left &= right
                kept[label] = left[-1]
                curves[label] = {query: _marks(left[query - 1]) for query in after if query <= n_queries}
                print(name, label, {k: marks.count("1") for k, marks in curves[label].items()}, flush=True)
        found[name] = {"kept": {label: _marks(marks) for label, marks in kept.items()}, "after": curves}
    return found


@measurement("clean", "mixed-fgsm", "fgsm", "pgd")
def white_box():
    """Notebook 9: what FGSM and two strengths of PGD leave of the digits of `black_box`, on the same two targets."""
    x, y = _spread_digits(200)
    strong = partial(pgd, steps=40, restarts=3, early_exit=True)
    attacks = {"FGSM": fgsm, "PGD": partial(pgd, steps=10, random_start=False), "strong PGD": strong}
    found = {}
    for name, target in {"clean VGG": trained("clean"), "defended VGG": trained("mixed-fgsm-0.1")}.items():
        found[name] = {}
        for label, attack in attacks.items():
            start = dict(generator=torch.Generator().manual_seed(0)) if attack is strong else {}
            with torch.no_grad():
                found[name][label] = _marks(target(attack(target, x, y, eps=0.2, **start)).argmax(1) == y)
    return found


@measurement("clean", "mixed-fgsm", "pgd")
def other_seed():
    """Notebook 9: a defended surrogate without the target's seed: its gradients and its images, on 200 digits."""
    x, y = _spread_digits(200)
    target, surrogate = trained("clean"), trained("mixed-fgsm-0.1", seed=1)
    mine, theirs = (input_gradient(net, x[::2], y[::2]).flatten(1) for net in (surrogate, target))
    cosine = nn.functional.cosine_similarity(mine, theirs).mean().item()
    x_adv = pgd(surrogate, x, y, eps=0.2, steps=10, random_start=False)
    with torch.no_grad():
        return {"cosine": round(cosine, 4), "read": _marks(target(x_adv).argmax(1) == y)}


LABELLED_SQUARES = (  # notebook 10's letters for the squares of 32 pixels of scikit-learn's two photographs
    """
ssssssssssssssssssss
ssssss.sssssssssssss
sssss.rr.sssssssssss
sss.rrrrr.ssssssssss
.ss.wwwww.ssssssss..
.s.rrrrrrr.ssssss.tt
t..wwwwwww........tt
t..wwwwwww........tt
..rrrrrrrr.......ttt
...wwwwwww.....ttttt
t....wwwww..tttttttt
tttttt.rr..ttttttttt
tttttttt...ttttttttt""",
    """
llllllllllllllllllll
llllllllllllllllllll
llllllll...lllllllll
llllll..ffff.lllllll
lllll.fffffff.llllll
lllll.fffffff.llllll
lllll.fffffff.llllll
lllll.fffffff.llllll
lllll.fffffff.llllll
lllll.fffffff.llllll
llllll.fffff.lllllll
lllllll......lllllll
lllllllll.fff.llll.l""",
)


def _photo_patches():
    """Notebook 10's patches: (images, labels) to train on and (images, labels) to test on, as on a chess board."""
    from sklearn.datasets import load_sample_images

    found = [([], []), ([], [])]
    for photo, letters in zip(load_sample_images().images, LABELLED_SQUARES):
        pixels = torch.tensor(photo).permute(2, 0, 1).float() / 255
        for row, line in enumerate(letters.split()):
            for column, letter in enumerate(line):
                if letter != ".":
                    images, labels = found[(row + column) % 2]
                    images.append(pixels[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32])
                    labels.append("srwtfl".index(letter))
    return [(torch.stack(images), torch.tensor(labels)) for images, labels in found]


def _vary(x):
    """Notebook 10's augmentation: mirrored or not, paler, brighter or darker."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    grey_image = x.mean(1, keepdim=True)
    x = grey_image + torch.rand(len(x), 1, 1, 1) * (x - grey_image)
    return (x + 0.6 * torch.rand(len(x), 1, 1, 1) - 0.3).clamp(0, 1)


def _jpeg(images, quality):
    """Each image written as a JPEG file in memory and read again."""
    again = []
    for levels in (255 * images).round().byte():
        file = io.BytesIO()
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        again.append(read_image(file.getvalue(), channels=3))
    return torch.stack(again)


def _jpeg_copy(x, quality):
    """A JPEG that has a gradient: rounding is softened, round(a) + (a - round(a))^3 (Shin and Song, 2017)."""
    file, k = io.BytesIO(), torch.arange(8.0)
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    waves = torch.cos(torch.pi * (2 * k + 1) * k[:, None] / 16) / 2
    waves[0] /= 2**0.5
    to_ycc = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = torch.einsum("kc,nchw->nkhw", to_ycc, 255 * x)
    parts = []
    for part, table in zip((ycc[:, :1] - 128, torch.nn.functional.avg_pool2d(ycc[:, 1:], 2)), tables.values()):
        n, c, h, w = part.shape
        blocks = part.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)
        steps = torch.tensor(table, dtype=torch.float32).view(8, 8)
        amplitudes = waves @ blocks @ waves.T / steps
        whole = amplitudes.detach().round()
        blocks = waves.T @ ((whole + (amplitudes - whole) ** 3) * steps) @ waves
        parts.append(blocks.transpose(3, 4).reshape(n, c, h, w))
    colour = torch.nn.functional.interpolate(parts[1], scale_factor=2, mode="bilinear")
    ycc = torch.cat([parts[0] + 128, colour], 1)
    return (torch.einsum("kc,nchw->nkhw", torch.linalg.inv(to_ycc), ycc) / 255).clamp(0, 1)


class _ReadsJpeg(torch.nn.Module):
    """Forward, the network behind a real JPEG file; backward, through a stand-in for the file."""

    def __init__(self, network, quality, stand_in):
        super().__init__()
        self.network, self.quality, self.stand_in = network, quality, stand_in

    def forward(self, x):
        copy = self.stand_in(x)
        return self.network(copy + (_jpeg(x.detach(), self.quality) - copy).detach())


def _averaged_pgd(model, x, y, *, eps, steps, draws, noise, generator):
    """Notebook 10's EOT: steps of two grey levels along the gradient averaged over images with a little noise."""
    x_adv = x
    for _ in range(steps):
        gradient = torch.zeros_like(x)
        for _ in range(draws):
            shaken = x_adv + noise * torch.randn(x.shape, generator=generator)
            gradient += input_gradient(model, shaken.clamp(0, 1), y)
        x_adv = project(x_adv + 2 / 255 * gradient.sign(), x, eps)
    return x_adv


def _photo_network(seed):
    """A network of notebook 10, trained."""
    train_x, train_y = _photo_patches()[0]
    net = initialised(partial(vgg, 11, width=0.125, in_channels=3, num_classes=6), seed=seed)
    batches = make_loader(TensorDataset(train_x, train_y), batch_size=32, shuffle=True, seed=seed)
    own = make_loader(TensorDataset(train_x, train_y), batch_size=500)  # no choice hangs on it
    fit(net, batches, own, epochs=20, lr=3e-3, augment=_vary, seed=seed, progress=False)
    return fuse_batch_norm(net)


def _photographs(seed):
    """What a network of notebook 10 reads behind JPEG after attacks at 8/255 that know of it or do not."""
    net, (x, y), eps = _photo_network(seed), _photo_patches()[1], 8 / 255
    plain = partial(pgd, eps=eps, steps=50, step_size=2 / 255, random_start=False)
    waves = {quality: _ReadsJpeg(net, quality, partial(_jpeg_copy, quality=quality)) for quality in (75, 25)}
    averaged = partial(_averaged_pgd, eps=eps, steps=50, draws=4, noise=4 / 255)
    attacks = {
        "clean": lambda: x,
        "noise": lambda: random_noise(net, x, y, eps=eps, generator=torch.Generator().manual_seed(0)),
        "PGD that stops": lambda: plain(net, x, y, early_exit=True),
        "PGD": lambda: plain(net, x, y),
        "identity": lambda: plain(_ReadsJpeg(net, 75, torch.clone), x, y),
        "waves": lambda: plain(waves[75], x, y),
        "averaged": lambda: averaged(waves[75], x, y, generator=torch.Generator().manual_seed(0)),
        "averaged, 25": lambda: averaged(waves[25], x, y, generator=torch.Generator().manual_seed(0)),
    }
    marks = {"labels": "".join(str(int(label)) for label in y)}
    for label, attack in attacks.items():
        images = attack()
        files = {"PNG": to_levels(images, x) / 255}
        files |= {f"JPEG {quality}": _jpeg(files["PNG"], quality) for quality in (95, 75, 50, 25)}
        with torch.no_grad():
            marks[label] = {file: _marks(net(pixels).argmax(1) == y) for file, pixels in files.items()}
        shares = {file: round(text.count("1") / len(y), 3) for file, text in marks[label].items()}
        print(seed, label, shares, flush=True)
    return marks


@measurement("pgd", "random_noise")
def photographs_0():
    """Notebook 10: what the network of seed 0 reads behind JPEG, after attacks at 8/255."""
    return _photographs(0)


@measurement("pgd", "random_noise")
def photographs_1():
    """Notebook 10: `photographs_0` with seed 1."""
    return _photographs(1)


@measurement("pgd", "random_noise")
def photographs_2():
    """Notebook 10: `photographs_0` with seed 2."""
    return _photographs(2)


class _AnyQuality(torch.nn.Module):
    """A network behind JPEG files whose quality, 25 to 95, is drawn anew for each batch."""

    def __init__(self, network, generator):
        super().__init__()
        self.network, self.generator = network, generator

    def forward(self, x):
        quality = int(torch.randint(25, 96, (), generator=self.generator))
        return _ReadsJpeg(self.network, quality, partial(_jpeg_copy, quality=quality))(x)


@measurement("pgd")
def photographs_unknown_quality():
    """Notebook 10: the averaged attack where the quality is unknown, on the networks of seeds 0 to 2."""
    found, (x, y) = [], _photo_patches()[1]
    for seed in range(3):
        net, draws = _photo_network(seed), torch.Generator().manual_seed(0)
        model = _AnyQuality(net, torch.Generator().manual_seed(1))
        images = _averaged_pgd(model, x, y, eps=8 / 255, steps=50, draws=4, noise=4 / 255, generator=draws)
        files = {"PNG": to_levels(images, x) / 255}
        files |= {f"JPEG {quality}": _jpeg(files["PNG"], quality) for quality in (95, 75, 50, 25)}
        with torch.no_grad():
            found.append({file: _marks(net(pixels).argmax(1) == y) for file, pixels in files.items()})
        print(seed, {file: round(text.count("1") / len(y), 3) for file, text in found[-1].items()}, flush=True)
    return found


@measurement("fgsm", "pgd")
def training_cost():
    """Notebook 11: seconds an image, in a rehearsal and in a training, of three networks under four objectives."""
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    val = make_loader(TensorDataset(*val_set[::8]), batch_size=50)
    networks = {"small CNN": small_cnn, "VGG-11, 1/8 wide": partial(vgg, 11, width=0.125)}
    networks["VGG-11, 1/4 wide"] = partial(vgg, 11, width=0.25)
    objectives = {"plain": clean, "mixed FGSM": partial(mixed, eps=0.1)}
    for steps in (3, 10):
        objectives[f"PGD-{steps}"] = partial(adversarial, eps=0.1, attack=partial(pgd, steps=steps))

    def seconds(build, objective, n, epochs):
        chosen = torch.linspace(0, len(train_set) - 1, n).long()
        batches = make_loader(TensorDataset(*train_set[chosen]), batch_size=50, shuffle=True, seed=0)
        how = dict(epochs=epochs, lr=1e-3, objective=objective, augment=shift, progress=False)
        return fit(initialised(build, seed=0), batches, val, **how).seconds

    found = []
    for repeat in range(2):
        for (network, build), (name, objective) in itertools.product(networks.items(), objectives.items()):
            warm_up, both = seconds(build, objective, 400, 2)
            row = dict(network=network, objective=name, rehearsed=(both - warm_up) / 400)
            row["trained"] = seconds(build, objective, 2000, 1)[0] / 2000
            found.append(row | dict(repeat=repeat))
            print(found[-1], flush=True)
    return found


def _attack_radius(net, x, y):
    """The smallest of the radii 0, 0.01, 0.02, ... 1 at which PGD-40 finds a misread image, or 1: (N,)."""
    with torch.no_grad():
        unfooled = (net(x).argmax(1) == y).nonzero().flatten()
    radius, draws = torch.zeros(len(x)), torch.Generator().manual_seed(0)
    for eps in torch.linspace(0, 1, 101)[1:].tolist():
        radius[unfooled] = eps
        if len(unfooled):
            x_adv = pgd(net, x[unfooled], y[unfooled], eps=eps, steps=40, early_exit=True, generator=draws)
            with torch.no_grad():
                unfooled = unfooled[net(x_adv).argmax(1) == y[unfooled]]
    return radius


def _strided_networks():
    """{name: strided network} of notebook 12: the published one, and two trained for 15 epochs without its bounds."""
    train_set, val_set = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    batches, val = make_loader(train_set, batch_size=100, shuffle=True, seed=0), make_loader(val_set, batch_size=400)
    objectives = {"ordinary": (clean, None), "PGD": (partial(adversarial, attack=partial(pgd, steps=5)), 0.1)}
    nets = {"certified": trained("certified-0.1", progress=False)}
    for name, (objective, eps) in objectives.items():
        nets[name] = initialised(strided_cnn, seed=0)
        fit(nets[name], batches, val, epochs=15, lr=3e-3, objective=objective, eps=eps, progress=False)
    return {name: net.eval() for name, net in nets.items()}


@measurement("certified-0.1", "pgd")
def certificates():
    """Notebook 12: the radii of proof and of attack of 200 digits, for three strided networks."""
    (x, y), found = _spread_digits(200), {}
    for name, net in _strided_networks().items():
        proved, fooled = certified_radius(net, x, y), _attack_radius(net, x, y)
        found[name] = {"proved": [math.floor(1e4 * value) / 1e4 for value in proved.tolist()]}  # a proof: never up
        found[name]["fooled"] = [round(value, 4) for value in fooled.tolist()]
        print(name, proved.median().item(), fooled.median().item(), flush=True)
    return found


@measurement("certified-0.1", "pgd")
def tighter_bounds():
    """Notebook 12: which of 200 digits PGD-40 leaves three networks; what intervals, CROWN and alpha-CROWN prove."""
    (x, y), found = _spread_digits(200), {}
    for (name, net), eps in itertools.product(_strided_networks().items(), (0.01, 0.02, 0.05, 0.1)):
        kept = {"PGD-40": survivors(net, [(x, y)], partial(pgd, steps=40), eps=eps)}
        kept["intervals"] = proven(net, x, y, eps=eps)
        kept["CROWN"] = kept["intervals"].clone()  # it is never looser, so it is asked about the others alone
        others = ~kept["intervals"]
        kept["CROWN"][others] = proven(net, x[others], y[others], eps=eps, bounds=crown_bounds)
        kept["alpha-CROWN"] = kept["CROWN"].clone()
        others = ~kept["CROWN"]
        kept["alpha-CROWN"][others] = proven(net, x[others], y[others], eps=eps, bounds=partial(crown_bounds, steps=20))
        found.setdefault(name, {})[eps] = {bound: _marks(images) for bound, images in kept.items()}
        print(name, eps, {bound: images.sum().item() for bound, images in kept.items()}, flush=True)
    return found


def _attacked_and_proved(net, x, y, eps, strongest=True):
    """Records of what FGSM, PGD-40 and, if asked for, AutoAttack leave, and of what is proved; {name: bool (N,)}.

    AutoAttack goes on where PGD ended, and is spared the images that are proved: no attack breaks these.
    """
    kept = {"clean": survivors(net, [(x, y)])}
    for name, attack in {"FGSM": fgsm, "PGD-40": partial(pgd, steps=40)}.items():
        kept[name] = survivors(net, [(x, y)], attack, eps=eps)
    kept["certified"] = proven(net, x, y, eps=eps)
    unknown = (kept["PGD-40"] & ~kept["certified"]).nonzero().flatten()
    if strongest:
        kept["AutoAttack"] = kept["PGD-40"].clone()
    if strongest and len(unknown):
        kept["AutoAttack"][unknown] = survivors(net, [(x[unknown], y[unknown])], auto_attack, eps=eps)
    return kept


@measurement("certified-0.1", "fgsm", "pgd", "autoattack")
def certificate_curves():
    """Notebook 12: which of 200 digits FGSM, PGD-40 and AutoAttack leave the certified network; which are proved."""
    (x, y), net, found = _spread_digits(200), trained("certified-0.1", progress=False), {}
    for eps in (0.05, 0.1, 0.15, 0.2):
        found[eps] = {name: _marks(kept) for name, kept in _attacked_and_proved(net, x, y, eps).items()}
        print(eps, {name: marks.count("1") for name, marks in found[eps].items()}, flush=True)
    return found


@measurement("certified-0.1", "certified-0.3", "fgsm", "pgd", "autoattack")
def certificate_seeds():
    """Notebook 12: three seeds of both certified networks on 1,000 digits, AutoAttack for the published ones alone."""
    (x, y), found = load_data("mnist-5k", train=False).tensors, {}
    for eps in (0.1, 0.3):
        for seed in range(3):
            net = trained(f"certified-{eps}", seed=seed, progress=False)
            records = _attacked_and_proved(net, x, y, eps, strongest=seed == 0)
            shares = {name: kept.double().mean().item() for name, kept in records.items()}
            found.setdefault(eps, []).append(shares)
            print(eps, seed, shares, flush=True)
    return found


@measurement("certified-0.1")
def certificate_price():
    """Notebook 12: which of 1,000 clean digits three networks with bounds read, and controls, at 10 and 30 epochs."""
    (x, y), found = load_data("mnist-5k", train=False).tensors, {}
    for epochs, seed in itertools.product((10, 30), range(3)):
        alike = dict(seed=seed, epochs=epochs, eps_warmup=epochs // 2, progress=False)
        pair = {"bounds": trained("certified-0.1", **alike), "control": trained("certified-0.1", kappa=1.0, **alike)}
        found.setdefault(epochs, []).append({name: _marks(survivors(net, [(x, y)])) for name, net in pair.items()})
        print(epochs, seed, {name: marks.count("0") for name, marks in found[epochs][-1].items()}, flush=True)
    return found


def _certified_on_full_mnist(eps, seed):
    """How many of the 10,000 test digits are read, left by the attacks and proved, and what the training took.

    With seed 0 the network is the published one, as it is loaded; others are trained, and found in the cache.
    """
    net = trained(f"certified-wide-{eps}", dataset="mnist", seed=seed)
    x, y = load_data("mnist", train=False).tensors
    records = _attacked_and_proved(net, x, y, eps)
    records["alpha-CROWN"] = records["certified"].clone()  # it is asked about what is open alone
    rest = records["PGD-40"] & ~records["certified"]
    records["alpha-CROWN"][rest] = proven(net, x[rest], y[rest], eps=eps, bounds=partial(crown_bounds, steps=60))
    found = {name: int(kept.sum()) for name, kept in records.items()}
    assert not (records["alpha-CROWN"] & ~records["AutoAttack"]).any()  # what is proved, no attack may break
    weights = sum(values.numel() for values in net.parameters())
    return found | dict(n=10_000, weights=weights, minutes=round(net.history.seconds[-1] / 60, 1))


@measurement("certified-wide-0.1", "fgsm", "pgd", "autoattack")
def certified_full_mnist_01():
    """The results page: a network certified at 0.1 on full MNIST: test digits read, left by attacks, and proved."""
    return _certified_on_full_mnist(0.1, seed=0)


@measurement("fgsm", "pgd", "autoattack")
def certified_full_mnist_01_seed_1():
    """The results page: the same at 0.1 with another seed."""
    return _certified_on_full_mnist(0.1, seed=1)


@measurement("fgsm", "pgd", "autoattack")
def certified_full_mnist_01_seed_2():
    """The results page: the same at 0.1 with a third seed."""
    return _certified_on_full_mnist(0.1, seed=2)


@measurement("certified-wide-0.3", "fgsm", "pgd", "autoattack")
def certified_full_mnist_03():
    """The results page: a network certified at 0.3 on full MNIST, likewise."""
    return _certified_on_full_mnist(0.3, seed=0)


@measurement("fgsm", "pgd", "autoattack")
def certified_full_mnist_03_seed_1():
    """The results page: the same at 0.3 with another seed."""
    return _certified_on_full_mnist(0.3, seed=1)


@measurement("fgsm", "pgd", "autoattack")
def certified_full_mnist_03_seed_2():
    """The results page: the same at 0.3 with a third seed."""
    return _certified_on_full_mnist(0.3, seed=2)


OTHER_NETWORKS = {"clean": "clean", "defended": "mixed-fgsm-0.1", "certified": "certified-0.1"}
STICKER = dict(side=11, target=8)


@measurement("clean", "mixed-fgsm", "certified-0.1", "pgd", "square", "fmn", "few_pixels", "rays", "train_patch")
def other_budgets():
    """Notebook 15: three networks and six attackers, on 100 digits; the sticker on all 1,000 test digits."""
    x, y = _spread_digits(100)
    found, every = {}, load_data("mnist-5k", train=False)
    train_set, _ = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    batches_of_100 = make_loader(train_set, batch_size=100, shuffle=True, seed=0)
    for name, recipe in OTHER_NETWORKS.items():
        net, row, cost = trained(recipe, progress=False), {}, {}
        batches = [(x, y)]
        searches = {"l_inf": partial(fmn, norm="linf"), "l_2": fmn, "pixels": few_pixels}
        searches |= {f"labels, {n}": partial(rays, n_queries=n) for n in (10, 30, 100, 300)}
        for label, search in searches.items():
            with ledger(net) as passes:
                radii = minimum_norm(net, batches, search).radii
            row[label] = [round(radius, 4) if math.isfinite(radius) else None for radius in radii.tolist()]
            cost[label] = (passes.forwards + passes.backwards) / len(x)
            print(name, label, radii.median().item(), cost[label], flush=True)
        balls = {"PGD-40": partial(pgd, steps=40), "Square": partial(square, n_queries=300)}
        for label, attack in balls.items():
            with ledger(net) as passes:
                row[label] = _marks(survivors(net, batches, attack, eps=0.1))
            cost[label] = (passes.forwards + passes.backwards) / len(x)
        patch = train_patch(net, batches_of_100, steps=300, **STICKER, generator=torch.Generator().manual_seed(0))
        row["patch"] = [round(value, 4) for value in patch.flatten().tolist()]
        for label, seen in {"sticker, seen places": True, "sticker": False}.items():
            draws = torch.Generator().manual_seed(1)
            x_adv = sticker(None, every.tensors[0], None, eps=1.0, patch=patch, seen=seen, generator=draws)
            row[label] = "".join(map(str, predict(net, x_adv).argmax(1).tolist()))
        row["clean"] = "".join(map(str, predict(net, every.tensors[0]).argmax(1).tolist()))
        found[name] = row | dict(passes={label: round(spent, 1) for label, spent in cost.items()})
        print(name, row["sticker"].count("8"), flush=True)
    return found


SWEPT = {  # of notebook 15: the recipe, and the shape of the network where it is not the usual one
    "clean": ("clean", {}),
    "defended": ("mixed-fgsm-0.1", {}),
    "PGD-trained": ("pgd-0.1", dict(depth=11, width=0.125)),
    "certified": ("certified-0.1", {}),
}


def _priced(net, n, measure):
    """What `measure()` returns, and the passes through the network that it took, forward and backward, per image."""
    with ledger(net) as passes:
        found = measure()
    return found, round((passes.forwards + passes.backwards) / n, 1)


def _counts(curve):
    return [round(record.value * record.n) for record in curve]


def _smallest_first(net, x, y, attack, eps_values):
    """How many images are left at each radius, where one that fell at a smaller radius is attacked no more."""
    left, counts = torch.arange(len(x)), []
    for eps in eps_values:
        if len(left):
            left = left[survivors(net, [(x[left], y[left])], attack, eps=eps)]
        counts.append(len(left))
    return counts


@measurement("clean", "mixed-fgsm", "pgd", "certified-0.1", "fmn")
def nested_sweeps():
    """Notebook 15: curves of four networks on 100 digits: FMN, PGD-40 at 30 radii, nested or not, and their passes.

    The 30 radii end at the first multiple of 0.03 at which FMN leaves at most 5 digits. The ten are every third one.
    """
    (x, y), attack, found = _spread_digits(100), partial(pgd, steps=40), {}
    for name, (recipe, shape) in SWEPT.items():
        net, loader = trained(recipe, **shape, progress=False), [(x, y)]
        search = partial(minimum_norm, net, loader, partial(fmn, norm="linf"))
        curve, price = _priced(net, len(x), search)
        end = 0.03 * math.ceil(curve.radii.quantile(0.95).item() / 0.03)
        thirty = [round(end * (i + 1) / 30, 4) for i in range(30)]
        apart = [_priced(net, len(x), partial(accuracy_vs_eps, net, loader, attack, [eps])) for eps in thirty]
        row = dict(radii=thirty, FMN=_counts(curve.accuracy_vs_eps(thirty)), FMN_passes=price)
        row |= dict(PGD=[_counts(one)[0] for one, _ in apart], PGD_passes=[price for _, price in apart])
        for label, radii in {"thirty": thirty, "ten": thirty[2::3]}.items():
            nested = partial(accuracy_vs_eps, net, loader, attack, radii, nested=True)
            one, row[f"nested_passes, {label}"] = _priced(net, len(x), nested)
            row[f"nested, {label}"] = _counts(one)
        upwards = partial(_smallest_first, net, x, y, attack, thirty[2::3])
        row["smallest first, ten"], row["smallest_first_passes, ten"] = _priced(net, len(x), upwards)
        found[name] = row
        print(name, row, flush=True)
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of --list; all if none")
    parser.add_argument("--list", action="store_true", help="say what can be measured, and stop")
    parser.add_argument("--write", action="store_true", help="replace the published values by what was measured")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - MEASURED.keys():
        parser.error(f"NAME: got {', '.join(sorted(unknown))}; accepts {', '.join(MEASURED)}")
    for name in chosen.names or MEASURED:
        function, depends_on = MEASURED[name]
        if chosen.list:
            print(f"{name:20} {function.__doc__.splitlines()[0]}")
            continue
        path, started = MEASUREMENTS / f"{name}.json", time.monotonic()
        torch.manual_seed(0)
        values = json.loads(json.dumps(function()))
        seconds = time.monotonic() - started
        print(f"{name}, {seconds:.0f} s\n  measured here: {json.dumps(values)}", flush=True)
        if path.exists():
            print(f"  published:     {json.dumps(json.loads(path.read_text(encoding='utf-8'))['values'])}")
        if chosen.write:
            record = dict(
                command=f"python tests/tools/measurements.py {name}",
                date=datetime.date.today().isoformat(),
                machine=machine(),
                seconds=round(seconds),
                versions=versions(depends_on),
                values=values,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
