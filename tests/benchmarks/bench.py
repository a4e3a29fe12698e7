"""Side by side with what one might use in place of it: `make bench`, an hour on an idle machine.

What a row compares runs in one process, in turns, on the same images and threads where its note does not say otherwise;
a value is the median of what the repetitions gave, between the smallest and the largest. Rows that measure whole
processes (memory, pages, import) start them in turns. Rows of other machines are kept.
"""

import argparse
import contextlib
import copy
import itertools
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import matplotlib
import numpy as np
import psutil
import torch
from peers import NAMES, original_loop, original_network, peer
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from advutils import accuracy_vs_eps, fgsm, fit, initialised, load_data, make_loader, pgd, predict, trained, vgg
from advutils.objectives import adversarial, clean, mixed
from advutils.pretrained import machine
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.storage import atomic_write

matplotlib.use("Agg")
HOME = Path(__file__).resolve().parent
EPS_VALUES = [0, 0.05, 0.1, 0.2, 0.3]
BATCH, REPEATS = 128, 7
GROUPS = {}


def group(function):
    GROUPS[function.__name__] = function
    return function


def seconds_of(contenders, repeats=REPEATS):
    """{name: seconds of each repetition} of callables that take turns, the first round being thrown away.

    Each round has an order of its own, so that none is always the one after the same other.
    """
    taken = {name: [] for name in contenders}
    for at in range(repeats + 1):
        for name in random.Random(at).sample(list(contenders), len(contenders)):
            started = time.perf_counter()
            contenders[name]()
            taken[name].append(time.perf_counter() - started)
    return {name: times[1:] for name, times in taken.items()}


def row(name, values, *, unit="x", least=None, most=None, note=""):
    """A line of the table: the median of values, their range, and whether it keeps its bar."""
    value = statistics.median(values)
    holds = None if least is most is None else bool(value >= least if most is None else value <= most)
    bar = "" if holds is None else f"at least {least:g}" if most is None else f"at most {most:g}"
    return dict(name=name, value=value, low=min(values), high=max(values), unit=unit, bar=bar, holds=holds, note=note)


def level_row(name, ratios, note, *, least=None):
    """A row of paired ratios, of calls that are nearly the same; its ends are the median's 95% interval."""
    ranked, edge = sorted(ratios), int(len(ratios) / 2 - 0.98 * len(ratios) ** 0.5)  # by the signs alone
    return row(name, ratios, least=least, note=note) | dict(low=ranked[edge - 1], high=ranked[-edge])


def over(slow, fast):
    """Ratios of two lists of seconds, repetition by repetition."""
    return [a / b for a, b in zip(slow, fast)]


def paired_times(ours, theirs, pairs):
    """Ratios of their seconds over ours, one for each pair of calls; who goes first changes from pair to pair."""
    ratios = []
    for at in range(pairs + 1):
        taken = {}
        for run in (ours, theirs) if at % 2 else (theirs, ours):
            started = time.perf_counter()
            run()
            taken[run] = time.perf_counter() - started
        ratios.append(taken[theirs] / taken[ours])
    return ratios[1:]


def digits(n):
    x, y = load_data("mnist-5k", train=False).tensors
    repeats = -(-n // len(x))
    return x.repeat(repeats, 1, 1, 1)[:n], y.repeat(repeats)[:n]


def slim():
    return trained("clean", progress=False).cpu()


def full():
    return initialised(partial(vgg, 16), seed=0).eval()


def as_built(model):
    """The model laid out in memory as PyTorch does it: what a user of another library would hand to it."""
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def gradient_only(model, x, y):
    """The floor of every gradient attack, of PyTorch alone: one forward pass and one backward pass to the input."""

    def run():
        pixels = x.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(pixels), y, reduction="sum"), pixels)[0]

    return run


def differing(ours, theirs, gradient):
    """The share of pixels in which two attacks differ; no timing is worth anything if that is more than rounding's."""
    differ = (ours - theirs).abs() > 1e-5
    clear = gradient.abs() > 1e-4 * gradient.abs().amax((1, 2, 3), keepdim=True)
    if (differ & clear).any() or differ.float().mean() > 0.01:
        sys.exit(f"{differ.float().mean():.1%} of the pixels differ, some where the gradient is clear: another attack")
    return differ.float().mean().item()


def products_of(model, x):
    """Multiplications of a forward pass and one back to the input, those with padding left out: what any code has."""
    counted = []

    def count(layer, given, _):
        if isinstance(layer, nn.Conv2d):
            one = torch.ones(1, 1, *given[0].shape[2:])
            taps = F.conv2d(one, torch.ones(1, 1, *layer.kernel_size), stride=layer.stride, padding=layer.padding)
            counted.append(taps.sum().item() * layer.in_channels * layer.out_channels)
        elif isinstance(layer, nn.Linear):
            counted.append(layer.weight.numel())

    handle = register_module_forward_hook(count)
    try:
        predict(model, x[:1])
    finally:
        handle.remove()
    return 2 * len(x) * sum(counted)


@group
def one_step():
    x, y = digits(BATCH)
    rows, square = [], torch.rand(2048, 2048, generator=torch.Generator().manual_seed(0))
    for width, model in (("slim", slim()), ("full width", full())):
        twin, pairs, few = fuse_batch_norm(model), *((2000, 300) if width == "slim" else (200, 40))
        ours, gradient = partial(fgsm, twin, x, y, eps=0.1), gradient_only(twin, x, y)()
        theirs = {name: partial(peer(name, as_built(model), eps=0.1), x, y) for name in NAMES}
        level = {name: partial(peer(name, twin, eps=0.1), x, y) for name in NAMES}
        apart = {name: differing(ours(), run(), gradient) for name, run in level.items()}
        turned = (gradient.sign() != gradient_only(as_built(model), x, y)().sign()).float().mean().item()
        contenders = {"ours": ours} | theirs | {"floor": gradient_only(twin, x, y), "product": lambda: square @ square}
        contenders |= {f"{name}, ours": partial(peer(name, model, eps=0.1), x, y) for name in NAMES}
        contenders |= {"preparing": partial(fuse_batch_norm, model)}
        taken = seconds_of(contenders, REPEATS * (3 if width == "slim" else 1))
        products = products_of(twin, x)
        multiplying = [t * products / len(square) ** 3 for t in taken["product"]]
        fastest = min(theirs, key=lambda name: statistics.median(taken[name]))
        level = {name: paired_times(ours, level[name], pairs if name == fastest else few)
                 for name in (fastest, *(name for name in NAMES if name != fastest))}  # fmt: skip
        middle = [statistics.median(times) for times in zip(*(taken[name] for name in theirs))]
        title = f"FGSM, VGG-16 {width}"
        rows += [
            row(title, [BATCH / t for t in taken["ours"]], unit="images/s"),
            row(f"{title}: the fastest peer's time over ours", over(taken[fastest], taken["ours"]), least=1.3,
                note=f"{fastest}, on the network as PyTorch lays it out"),
            row(f"{title}: the same peer on our network as `vgg` makes it, over ours",
                over(taken[f"{fastest}, ours"], taken["ours"]), note=f"{fastest}; in `channels_last`, not prepared"),
            row(f"{title}: to prepare a network", [1000 * t for t in taken["preparing"]], unit="ms",
                note="once for an evaluation, and in no other row"),
            *(level_row(f"{title}: {name} on the very same prepared model, over ours", level[name],
                        f"{len(level[name])} pairs; from and to are the 95% interval of the median",
                        least=1 if name == fastest else None) for name in level),
            row(f"{title}: the median peer's time over ours", over(middle, taken["ours"]), least=1.8),
            row(f"{title}: ours over the floor", over(taken["ours"], taken["floor"]), most=1.1,
                note="one forward, one backward pass to the input"),
            row(f"{title}: ours over its multiplications alone", over(taken["ours"], multiplying),
                note="at the speed of a product of two matrices, 2048 x 2048, without those by the padding's zeros"),
            row(f"{title}: the fastest peer over the same multiplications", over(taken[fastest], multiplying),
                note="the room there is, unless one multiplies less often"),
            row(f"{title}: pixels in which a peer's image differs from ours, the very same model",
                [100 * share for share in apart.values()], unit="%",
                note="of four peers; only where the gradient is under 1e-4 of the image's largest"),
            row(f"{title}: signs of the gradient that preparing the network turns", [100 * turned], unit="%",
                note="by rounding, against the network as PyTorch lays it out"),
        ]  # fmt: skip
    return rows


@group
def many_steps():
    x, y = digits(BATCH // 2)
    rows, steps = [], 40
    cases = (("undefended", slim(), 0.3, 5), ("defended", trained("mixed-fgsm-0.1", progress=False).cpu(), 0.1, 1))
    for title, model, eps, least in cases:
        twin, options = fuse_batch_norm(model), dict(eps=eps, step_size=eps / 10, steps=steps)
        ours = partial(pgd, twin, x, y, random_start=False, **options)
        contenders = {"ours": partial(ours, early_exit=True), "all steps": ours}
        contenders |= {name: partial(peer(name, as_built(model), **options), x, y) for name in NAMES}
        left = {name: float((predict(model, run()).argmax(1) == y).float().mean()) for name, run in contenders.items()}
        contenders |= {f"{name}, prepared": partial(peer(name, twin, **options), x, y) for name in NAMES}
        taken = seconds_of(contenders | {"floor": gradient_only(twin, x, y)})
        fastest = min(NAMES, key=lambda name: statistics.median(taken[name]))
        said = f"{fastest}; accuracy left: {', '.join(f'{name} {share:.1%}' for name, share in left.items())}"
        rows += [
            row(f"PGD-40, slim, {title}", [len(x) / t for t in taken["ours"]], unit="images/s"),
            row(f"PGD-40, slim, {title}: the fastest peer's time over ours", over(taken[fastest], taken["ours"]),
                least=least, note=f"fooled images leave the batch; {said}"),
            row(f"PGD-40, slim, {title}: the same peer on the very same prepared model, over ours with all steps",
                over(taken[f"{fastest}, prepared"], taken["all steps"])),
            row(f"PGD-40, slim, {title}: ours with all steps over 40 floors",
                over(taken["all steps"], [steps * t for t in taken["floor"]])),
        ]  # fmt: skip
    return rows


@group
def tricks():
    """What each means of going faster brings: alone, and as the last of all; and where the time goes."""
    x, y = digits(BATCH)
    model = slim()
    built = as_built(model)

    def with_weights(part, its):
        """The gradient as one finds it: the backward pass goes to the weights as well, which an attack never reads."""
        built.zero_grad()
        F.cross_entropy(built(part.clone().requires_grad_()), its).backward()

    twin, in_place = fuse_batch_norm(model), fuse_batch_norm(copy.deepcopy(model))
    for layer in in_place.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    compiled = torch.compile(copy.deepcopy(twin))
    started = time.perf_counter()
    gradient_only(compiled, x, y)()
    spent = time.perf_counter() - started
    networks = {
        "pixels alone": built,
        "in channels_last": model,
        "prepared": fuse_batch_norm(built),
        "both": twin,
        "ReLU in place": in_place,
        "compiled": compiled,
    }
    runs = {name: gradient_only(network, x, y) for name, network in networks.items()}
    runs |= {
        "one by one": lambda: [with_weights(x[i : i + 1], y[i : i + 1]) for i in range(BATCH)],
        "in one batch": lambda: with_weights(x, y),
        "in bfloat16": lambda: _in_bfloat16(twin, x, y),
        "in two parts": lambda: [gradient_only(twin, *part)() for part in zip(x.chunk(2), y.chunk(2))],
        "forward, built": lambda: built(x.clone().requires_grad_()),
        "forward, both": lambda: twin(x.clone().requires_grad_()),
        "ours": partial(fgsm, twin, x, y, eps=0.1),
    }
    taken = seconds_of(runs)
    flipped = (_in_bfloat16(twin, x, y).sign() != runs["both"]().sign()).float().mean().item()
    title, tried = "one gradient, slim", "dropped; gain over both"
    rows = [
        row(f"{title}: the weights' gradients as well, one image at a time",
            [1000 * t / BATCH for t in taken["one by one"]], unit="ms an image"),
        row(f"{title}: in one batch", over(taken["one by one"], taken["in one batch"]), note="gain over one by one"),
        row(f"{title}: of the pixels alone", over(taken["in one batch"], taken["pixels alone"]),
            note="gain over one batch with the weights' gradients"),
    ]  # fmt: skip
    for name, other in itertools.permutations(("in channels_last", "prepared")):
        rows += [
            row(f"{title}: {name}, by itself", over(taken["pixels alone"], taken[name]), note="gain over pixels alone"),
            row(f"{title}: {name}, after the other", over(taken[other], taken["both"]), note=f"gain over {other}"),
        ]
    rows.append(row(f"{title}: both", over(taken["pixels alone"], taken["both"]), note="over pixels alone"))
    for name, more in (("in two parts", "all 128 images at once"), ("ReLU in place", ""),
                       ("in bfloat16", f"{flipped:.1%} of the signs flipped"),
                       ("compiled", f"{spent:.0f} s of compiling")):  # fmt: skip
        gain = over(taken["both"], taken[name])
        rows.append(row(f"{title}: {name}", gain, note=", ".join(filter(None, (tried, more)))))
    for when, network in (("before", "built"), ("after", "both")):
        forward, whole = taken[f"forward, {network}"], taken["pixels alone" if network == "built" else network]
        rows += [
            row(f"FGSM, a batch of {BATCH}, forward, {when}", [1000 * t for t in forward], unit="ms"),
            row(f"FGSM, a batch of {BATCH}, backward, {when}", [1000 * (a - b) for a, b in zip(whole, forward)],
                unit="ms", note="what both passes together take, less the forward pass"),
        ]  # fmt: skip
    rest = [1000 * (a - b) for a, b in zip(taken["ours"], taken["both"])]
    rows.append(
        row(f"FGSM, a batch of {BATCH}, all else, after", rest, unit="ms", note="checks, modes, the step itself")
    )
    return rows


def _in_bfloat16(model, x, y):
    with torch.autocast("cpu", torch.bfloat16):
        return gradient_only(model, x, y)()


@group
def sweep():
    """Ours beside the loop of the original as `peers` re-creates it, which is too slow for more than some images."""
    rows, (x, y) = [], digits(3 * REPEATS)
    big = F.interpolate(x, size=224, mode="bilinear")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = original_network()
    with torch.no_grad():
        # its own readings are the labels, as the loop attacks only what is read right
        read = torch.cat([network(image[None]) for image in big]).argmax(1)
    some = itertools.cycle(zip(big.split(3), read.split(3)))  # three in each repetition
    own = slim()
    runs = {
        "slim": lambda: original_loop(own, x, y, EPS_VALUES),
        "original": lambda: original_loop(network, *next(some), EPS_VALUES),
    }
    images, widths = {"slim": len(x), "original": 3}, {"slim": (own, 1000), "full width": (full(), 250)}
    for width, (model, n) in widths.items():
        loader, twin = make_loader(TensorDataset(*digits(n)), batch_size=250), fuse_batch_norm(model)

        def floor(twin=twin, loader=loader):
            for x, y in loader:
                gradient_only(twin, x, y)()
                with torch.no_grad():
                    [twin(x) for _ in EPS_VALUES]

        runs |= {f"ours, {width}": partial(accuracy_vs_eps, model, loader, fgsm, EPS_VALUES), f"floor, {width}": floor}
    taken = seconds_of(runs)
    for width, rivals in (("slim", {"slim": 20, "original": 2000}), ("full width", {"original": 150})):
        title, ours, n = f"sweep over five epsilons, {width}", taken[f"ours, {width}"], widths[width][1]
        rows.append(row(title, [1000 * t / n for t in ours], unit="ms an image", note=f"on {n:,} images"))
        rows.append(row(f"{title}: over one gradient and five forward passes", over(ours, taken[f"floor, {width}"]),
                        note="the pass at epsilon 0 comes with the gradient"))  # fmt: skip
        for rival, least in rivals.items():
            what = "the same network at 32x32" if rival == "slim" else "its own full-width network at 224x224"
            ratio = [n / images[rival] * t for t in over(taken[rival], ours)]
            note = f"our re-creation of it, timed on {images[rival]} images in each repetition and extrapolated"
            rows.append(row(f"{title}: the original's loop ({what}) over ours", ratio, least=least, note=note))
    return rows


def stepper(model, objective):
    """One training step as `fit` does it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(x, y):
        loss = objective(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def mixed_naively(model, x, y, *, eps):
    """The mixed step as one finds it: the attack on the training graph, weight gradients and all."""
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    x_adv = (x + eps * x.grad.sign()).clamp(0, 1).detach()
    return F.cross_entropy(model(torch.cat([x.detach(), x_adv])), torch.cat([y, y]))


@group
def training_step():
    x, y = digits(64)
    build = partial(initialised, partial(vgg, 16, width=0.25), seed=0)
    kinds = {
        "plain": clean,
        "mixed": partial(mixed, eps=0.1),
        "naive": partial(mixed_naively, eps=0.1),
        "adversarial": partial(adversarial, eps=0.1, attack=fgsm),
    }
    steps = {name: partial(stepper(build().train(), objective), x, y) for name, objective in kinds.items()}
    taken = seconds_of(steps | {"gradient": gradient_only(fuse_batch_norm(build().eval()), x, y)}, 3 * REPEATS)
    plain, gradient = taken["plain"], taken["gradient"]
    return [
        row("one plain training step, slim, 64 images", [1000 * t for t in plain], unit="ms"),
        row("a step of notebook 4's recipe over a plain step", over(taken["mixed"], plain), most=2.8),
        row("the same in the naive way", over(taken["naive"], plain)),
        row("the same, ours over two plain steps and an input gradient",
            [a / (2 * b + c) for a, b, c in zip(taken["mixed"], plain, gradient)]),
        row("a single-step adversarial step over a plain step", over(taken["adversarial"], plain), most=1.7),
        row("the same, ours over a plain step and an input gradient",
            [a / (b + c) for a, b, c in zip(taken["adversarial"], plain, gradient)]),
    ]  # fmt: skip


class Pictures(Dataset):
    """The digits as pictures that are prepared one by one, as tutorials have them."""

    def __init__(self, x, y):
        self.pictures = [v2.functional.to_pil_image(image) for image in x]
        self.y = y
        self.prepare = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Pad(2), v2.Normalize([0.5], [0.5])]
        )

    def __len__(self):
        return len(self.y)

    def __getitem__(self, at):
        return self.prepare(self.pictures[at]), self.y[at]


PARTS = ("forward", "backward", "optimiser", "data")


@group
def training():
    x, y = digits(1000)
    build = partial(initialised, partial(vgg, 16, width=0.25), seed=0)
    val = TensorDataset(*load_data("mnist-5k", train=True)[:32])
    own, trained_in, checked = build(), [], make_loader(val, batch_size=32)
    served = make_loader(TensorDataset(x, y), batch_size=50, shuffle=True)
    plain = nn.Sequential(*list(build())[2:]).to(memory_format=torch.contiguous_format).train()  # no padding, scale
    laid_out = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    batches = list(make_loader(TensorDataset(x, y), batch_size=50))
    alone, waiting = stepper(build().train(), clean), DataLoader(Pictures(x, y), batch_size=50, shuffle=True)

    def ours():
        trained_in.append(fit(own, served, checked, epochs=1, lr=1e-4, progress=False).seconds[-1])

    def loop(network):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def run():
            for x, y in waiting:
                optimizer.zero_grad()
                loss = F.cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()
                loss.item()

        return run

    theirs, theirs_in_our_layout = loop(plain), loop(laid_out)

    def network():
        for x, y in batches:
            alone(x, y)

    def data():
        for _ in served:
            pass

    taken = seconds_of({"ours": ours, "theirs": theirs, "theirs, our layout": theirs_in_our_layout, "network": network})
    taken["ours"] = trained_in[1:]  # without the validation, which the other loop does not have
    parts, batch = {}, {"ours": batches[0], "theirs": next(iter(waiting))}
    for name, twin in {"ours": build().train(), "theirs": plain}.items():
        part, its = batch[name]
        loss = F.cross_entropy(twin(part), its)
        loss.backward(retain_graph=True)
        spare = copy.deepcopy(twin)  # with its gradients
        for trained_one, other in zip(twin.parameters(), spare.parameters()):
            other.grad = trained_one.grad.clone()
        adamw = torch.optim.AdamW(spare.parameters(), lr=1e-6)
        parts[name] = {
            "forward": partial(twin, part),
            "backward": partial(loss.backward, retain_graph=True),
            "optimiser": adamw.step,
        }
    whole = {f"{name} {what}": run for name, runs in parts.items() for what, run in runs.items()}
    parts = seconds_of(whole | {"theirs data": lambda: [None for _ in waiting], "ours data": data})
    for name in ("ours", "theirs"):
        parts[f"{name} data"] = [t / len(batches) for t in parts[f"{name} data"]]
        sums = zip(taken[name], *(parts[f"{name} {what}"] for what in PARTS))
        parts[f"{name} all else"] = [whole / len(batches) - sum(those) for whole, *those in sums]
    return [
        row("training, slim VGG-16, batches of 50", [len(x) / t for t in taken["ours"]], unit="images/s"),
        row("a DataLoader with transforms over ours", over(taken["theirs"], taken["ours"]), least=1.3,
            note="without workers; ours without its validation, which the loop does not have"),
        row("the same, its network in channels_last too", over(taken["theirs, our layout"], taken["ours"])),
        row("ours over the network alone", over(taken["ours"], taken["network"]), most=1.05,
            note="on batches that are there; ours shuffles, cuts and checks them"),
        *(row(f"a batch of 50, {what}, {before}", [1000 * t for t in parts[f"{name} {what}"]], unit="ms",
              note="what is left of the whole" if what == "all else" else "timed by itself")
          for what in (*PARTS, "all else") for before, name in (("before", "theirs"), ("after", "ours"))),
    ]  # fmt: skip


@group
def growth():
    model = slim()
    rows = []

    def exponent(sizes, run, name, most, note=""):
        taken = seconds_of({size: partial(run, size) for size in sizes})
        logs = [np.log([taken[size][i] for size in sizes]) for i in range(REPEATS)]
        slopes = [float(np.polyfit(np.log(sizes), times, 1)[0]) for times in logs]
        rows.append(row(name, slopes, unit="exponent", most=most, note=note))

    def images(n):
        accuracy_vs_eps(model, make_loader(TensorDataset(*digits(n)), batch_size=250), fgsm, [0.1])

    x, y = digits(BATCH)
    twin = fuse_batch_norm(model)
    exponent([1000, 4000, 15000, 60000], images, "time against images, 1,000 to 60,000", 1.05, "FGSM on slim VGG-16")
    exponent([5, 10, 20, 40], lambda n: pgd(twin, x, y, eps=0.1, steps=n), "time against steps of PGD, 5 to 40", 1.05)
    loader = make_loader(TensorDataset(*digits(250)), batch_size=250)
    exponent([1, 2, 4, 8, 16], lambda n: accuracy_vs_eps(model, loader, fgsm, np.linspace(0, 0.3, n).tolist()),
             "time against epsilons of a sweep, 1 to 16", 0.95, "one gradient serves all")  # fmt: skip
    return rows


def peak(process="self"):
    """The peak memory of a process since it began its program, in MB, as Linux keeps it; None of one that has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return found and int(found[1]) * 1024 / 1e6


def peak_of_training(epochs, objective="clean"):
    """The peak memory, in MB, of a process of its own that trains a slim VGG-16 on 300 digits."""
    code = f"""
from functools import partial
from bench import TensorDataset, clean, digits, fit, initialised, make_loader, peak, vgg
x, y = digits(400)
train, val = (make_loader(TensorDataset(x[at], y[at]), batch_size=50) for at in (slice(300), slice(300, None)))
kept = []
def leaking(model, x, y):
    kept.append(x.repeat(100, 1, 1, 1))
    return clean(model, x, y)
model = initialised(partial(vgg, 16, width=0.25), seed=0)
fit(model, train, val, epochs={epochs}, lr=1e-4, objective={objective}, progress=False)
print(peak())
"""
    here = os.environ | {"PYTHONPATH": str(HOME)}
    return float(subprocess.run([sys.executable, "-c", code], env=here, check=True, capture_output=True).stdout)


@group
def memory():
    added = [peak_of_training(10) - peak_of_training(4) for _ in range(REPEATS)]
    note = "the peaks of processes that train for ten epochs and for four"
    return [row("memory that six further epochs add", added, unit="MB", most=20, note=note)]


@group
def series():
    """The largest peak of any kernel, or what one starts, while the notebooks are tested, models trained anew."""
    peaks = {}
    if not Path("/proc").exists():
        sys.exit("series: got no /proc, where Linux keeps the peak of each process; accepts a Linux machine")
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "pytest", "-q", "notebooks"]
        tests = subprocess.Popen(command, cwd=HOME.parent.parent, env=os.environ | {"ADVUTILS_CACHE": cache})
        while tests.poll() is None:
            for process in psutil.Process(tests.pid).children(recursive=True):
                with contextlib.suppress(OSError):  # it has just ended
                    if found := peak(process.pid):
                        peaks[process.pid] = found
            time.sleep(0.2)
    if tests.returncode:
        sys.exit(f"series: the notebooks' tests ended with {tests.returncode}")
    note = f"the largest of {len(peaks)} kernels and what they start, while the notebooks are tested, once"
    return [row("peak memory of the series", [max(peaks.values())], unit="MB", most=2000, note=note)]


@group
def imports():
    def run(code):
        subprocess.run([sys.executable, "-c", code], check=True)

    taken = seconds_of({"ours": partial(run, "import advutils"), "torch": partial(run, "import torch, torchvision")})
    ratio = over(taken["ours"], taken["torch"])
    return [row("import of advutils over that of torch and torchvision", ratio, most=1.1)]


def spelled(value):
    """Three digits; four behind the point near one, where a tie is told from a lead; whole numbers from 1,000 on."""
    return f"{value:.4f}" if 0.98 < value < 1.02 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(found):
    """The rows of all machines in Markdown."""
    lines = [
        "# Measured beside its peers",
        "",
        "`make bench` writes this file; what the rows mean is in `bench.py`.",
        "",
    ]
    for where in found["machines"]:
        about = found["machines"][where]
        lines += [f"**{where}**, {about['date']}; " + ", ".join(f"{k} {v}" for k, v in about["versions"].items()), ""]
        lines += ["| measured | median | from | to | unit | bar | holds | note |", "|---|---|---|---|---|---|---|---|"]
        for line in found["rows"]:
            if line["machine"] == where:
                numbers = " | ".join(spelled(line[key]) for key in ("value", "low", "high"))
                holds = {True: "yes", False: "**no**", None: ""}[line["holds"]]
                lines.append(
                    f"| {line['name']} | {numbers} | {line['unit']} | {line['bar']} | {holds} | {line['note']} |"
                )
        lines.append("")
    return "\n".join(lines)


def figure(found):
    """Each barred row of the last machine, as how far it is on the good side of its bar."""
    import matplotlib.pyplot as plt

    where = list(found["machines"])[-1]
    rows = [line for line in found["rows"] if line["bar"] and line["machine"] == where]
    fig, ax = plt.subplots(figsize=(8, 0.34 * len(rows) + 1), layout="constrained")
    for at, line in enumerate(reversed(rows)):
        bar, upward = float(line["bar"].split()[-1]), line["bar"].startswith("at least")
        gains = [line[key] / bar if upward else bar / max(line[key], 1e-3) for key in ("value", "low", "high")]
        value, *ends = (min(4.0, max(0.5, gain)) for gain in gains)
        color = "#0072B2" if line["holds"] else "#D55E00"
        ax.plot(ends, [at, at], color=color, lw=2)
        ax.plot(value, at, ">" if gains[0] > 4 else "o" if line["holds"] else "X", color=color)
    ax.axvline(1, color="#666666", lw=1)
    ax.set(xscale="log", xlim=(0.48, 4.2), yticks=range(len(rows)), ylim=(-0.7, len(rows) - 0.3))
    ax.set(xlabel="times better than the bar (an arrow: beyond 4)")
    ax.set_title(f"{where}, {found['machines'][where]['date']}", fontsize=7, loc="right")
    ax.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_yticklabels([textwrap.fill(line["name"], 58) for line in reversed(rows)], fontsize=7)
    return fig


def write(found):
    atomic_write(HOME / "results.json", (json.dumps(found, indent=1) + "\n").encode())
    atomic_write(HOME / "table.md", table(found).encode())
    figure(found).savefig(HOME / "figure.png", dpi=90)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure advutils beside what one might use in place of it.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all if none")
    chosen = parser.parse_args(arguments).groups or list(GROUPS)
    if unknown := set(chosen) - GROUPS.keys():
        parser.error(f"got {', '.join(sorted(unknown))}; accepts {', '.join(GROUPS)}")
    path, where = HOME / "results.json", f"{machine()}, {os.cpu_count()} cores, {platform.system()}"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machines": {}, "rows": []}
    libraries = {"torchattacks": "torchattacks", "foolbox": "foolbox", "ART": "adversarial-robustness-toolbox"}
    libraries |= {"cleverhans": "cleverhans", "torchvision": "torchvision", "numpy": "numpy"}
    versions = {"Python": platform.python_version()} | {name: version(package) for name, package in libraries.items()}
    git = ["git", "-C", str(HOME), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    stamp = dict(date=datetime.now(UTC).date().isoformat(), commit=commit)
    about = dict(cpu=where.split(", ")[0], torch=torch.__version__, threads=torch.get_num_threads(), versions=versions)
    for name in chosen:
        fresh = [line | {"group": name, "machine": where} | stamp for line in GROUPS[name]()]
        for line in fresh:
            value, low, high = (spelled(line[key]) for key in ("value", "low", "high"))
            print(f"{line['name']:80} {value:>9} [{low}, {high}] {line['unit']}"
                  f"  {line['bar']}  {line['holds']}  {line['note']}", flush=True)  # fmt: skip
        others = [line for line in found["rows"] if (line["group"], line["machine"]) != (name, where)]
        order = {name: at for at, name in enumerate(GROUPS)}
        found["rows"] = sorted(others + fresh, key=lambda line: (line["machine"], order[line["group"]]))
        found["machines"][where] = about | dict(date=stamp["date"])
        write(found)


if __name__ == "__main__":
    main()
