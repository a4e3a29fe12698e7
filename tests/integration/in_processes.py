"""What test_processes.py compares: the same calls, in one process or, under torchrun, in several.

    torchrun --nproc-per-node 2 tests/integration/in_processes.py FOLDER

writes FOLDER/RANK.pt from each process.
"""

import atexit
import contextlib
import os
import sys
from functools import partial
from pathlib import Path

import results
import torch
from helpers import BreaksOff, digits
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.ops import FrozenBatchNorm2d

from advutils import certified, fgsm, fit, ibp, initialised, make_loader, pgd, pretrained, small_cnn, tighten, vgg
from advutils.attacks.black_box import random_noise
from advutils.evaluation import accuracy_vs_eps, survivors, worst_case
from advutils.objectives import adversarial, clean, mixed, random_fgsm
from advutils.utils import distributed
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.weights import load_weights

ATTACKS = {"FGSM": fgsm, "PGD": partial(pgd, steps=3), "noise": random_noise}


class Stream(IterableDataset):
    """Digits one after another, which cannot be asked for out of their order."""

    def __init__(self, n):
        self.images = list(zip(*digits(n)))

    def __iter__(self):
        return iter(self.images)


def network(**changed):
    return initialised(partial(vgg, 11, width=0.05, **changed), seed=0)


def plain_loader(n, batch_size, *, train=True, **options):
    return make_loader(TensorDataset(*digits(n, train=train)), batch_size=batch_size, **options)


def evaluations():
    model = network().eval()
    x, y = digits(23)
    pairs = DataLoader(TensorDataset(x, y), batch_size=6)  # as PyTorch cuts batches, not as make_loader does
    loaders = {
        "whole batches": plain_loader(24, 6),
        "a remainder": plain_loader(23, 5),
        "one batch": plain_loader(7, 10),
        "one image over": plain_loader(9, 4),
        "plain": pairs,
        "stream": DataLoader(Stream(23), batch_size=5),
        "list": list(zip(x.split(4), y.split(4))),
    }
    found = {}
    for name, loader in loaders.items():
        for label, attack in ATTACKS.items():
            found[f"{name}, {label}"] = survivors(model, loader, attack, eps=0.1)
    found["curve"] = torch.tensor(accuracy_vs_eps(model, loaders["a remainder"], fgsm, [0, 0.1, 0.3]))
    found["worst case"] = worst_case(model, loaders["a remainder"], ATTACKS, eps=0.1).robust
    shuffled = survivors(model, plain_loader(23, 5, shuffle=True), fgsm, eps=0.1)
    found["shuffled"] = shuffled
    small = small_cnn()  # `trained` would train another one in two processes
    load_weights(small, pretrained.PUBLISHED / "clean-small-cnn-mnist-5k-v1.safetensors")
    found["certified"] = torch.tensor(certified(small, plain_loader(23, 5, train=False), eps=0.004))
    return found


def tight():
    return initialised(lambda: tighten(vgg(11, width=0.05)), seed=0)


def one_step(objective, build=network, norm=FrozenBatchNorm2d):
    """The weights after one step of plain gradient descent on 16 digits, batch norm frozen or left out."""
    model = build()
    for name, layer in model.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            setattr(model, name, norm(layer.num_features))
    train, own = plain_loader(16, 16), distributed.accelerator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped, optimizer = own.prepare(model, optimizer) if own else (model, optimizer)
    [(x, y)] = distributed.split_batches(train)
    objective(wrapped.train(), x, y).backward()
    optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def training(state, *, broken_off_at=None):
    """A training with noise, averaged weights and a state; broken off at that step and continued, if asked."""

    def run(model, steps=0):
        train, val = plain_loader(45, 8, shuffle=True), plain_loader(20, 7, train=False)
        options = dict(
            eps=0.1,
            eps_warmup=1,
            ema_decay=0.9,
            eval_attacks={"FGSM": fgsm},
            checkpoint=state,
            accelerator=distributed.accelerator(),
        )
        return fit(
            model, train, val, epochs=2, lr=1e-3, objective=BreaksOff(random_fgsm, steps), progress=False, **options
        )

    if broken_off_at is not None:
        with contextlib.suppress(KeyboardInterrupt):
            run(network(), broken_off_at + 1)
    model = network()
    history = vars(run(model)) | dict(seconds=None)
    weights = torch.cat([value.flatten().double() for value in model.state_dict().values()])
    return dict(weights=weights, history=history, train_hashes=model.train_hashes)


def noise():
    """What an objective draws at each step of a training in this process."""
    drawn = []

    def noted(model, x, y):
        drawn.append(torch.rand(4))
        return clean(model, x, y)

    loaders = plain_loader(16, 8), plain_loader(8, 8, train=False)
    fit(network(), *loaders, epochs=1, lr=1e-3, objective=noted, progress=False, accelerator=distributed.accelerator())
    return torch.stack(drawn)


def words(run):
    """How many collective operations the call makes: what the processes say to one another."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    names = [event.name for event in seen.events()]
    return sum("gloo:" in name or "c10d::" in name for name in names)


def talk():
    """Collective operations of a training step with and without an attack, and of attacks on the wrapped model."""
    model = network()
    own = distributed.accelerator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = own.prepare(model, optimizer)[0] if own else model
    x, y = digits(8)
    found = {"attack on the wrapped model": words(lambda: pgd(wrapped, x, y, eps=0.1, steps=5))}
    found["attack on the prepared one"] = words(lambda: pgd(fuse_batch_norm(wrapped), x, y, eps=0.1, steps=5))
    step = {"clean": clean, "PGD-5": partial(adversarial, eps=0.1, attack=partial(pgd, steps=5)),
            "mixed": partial(mixed, eps=0.1), "ibp": partial(ibp, eps=0.01)}  # fmt: skip
    wrapped.train()
    for name, objective in step.items():
        for _ in range(3):  # the first two passes of DDP also agree on its buckets
            found[name] = words(lambda objective=objective: objective(wrapped, x, y).backward())
    return found


def rows(folder):
    """What the results command writes for a tiny model under two attacks: trained, cached, attacked part by part."""
    os.environ["ADVUTILS_CACHE"] = str(folder / "cache")
    for module in (results, pretrained):
        module.load_data = lambda name, *, train: TensorDataset(*digits(60 if train else 30, train=train))
    results.DEFENCES = {"FGSM": ("fgsm", dict(depth=11, width=0.05, batch_size=12, epochs=1))}
    results.ATTACKS, results.PART = {"clean": (None, None), "PGD": (partial(pgd, steps=2), 13)}, 8
    for _ in range(2):  # the second time everything is there already
        results.main(["--folder", str(folder / "rows")])
    files = sorted(path.name.split("-")[0] for path in folder.rglob("*") if path.is_file())
    return dict(rows=results.load(folder / "rows"), files=files)


def main(folder):
    torch.set_num_threads(1)
    atexit.register(lambda: (folder / f"{rank}-parted").write_text(str(not torch.distributed.is_initialized())))
    distributed.init_process_group()
    rank = distributed.rank()
    found = dict(evaluations=evaluations(), talk=talk(), count=distributed.world_size())
    found["steps"] = {"clean": one_step(clean), "adversarial": one_step(partial(adversarial, eps=0.1, attack=fgsm))}
    found["steps"]["ibp"] = one_step(partial(ibp, eps=0.01), tight, nn.Identity)
    found["training"] = training(folder / "whole.safetensors")
    found["continued"] = training(folder / "broken.safetensors", broken_off_at=8)  # in the second epoch
    found["noise"] = noise()
    found["results"] = rows(folder / "results")
    torch.save(found, folder / f"{distributed.rank()}-of-{distributed.world_size()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
