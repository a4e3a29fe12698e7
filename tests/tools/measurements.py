"""Makes the measurements that take too long for a notebook: `make measurements`, an hour for all on one core.

    python tests/tools/measurements.py --list
    python tests/tools/measurements.py autoattack            # measures, and shows the values beside the published ones
    python tests/tools/measurements.py autoattack --write    # and replaces the published ones

A measurement is a function of no arguments in MEASURED that returns what JSON can hold. Its docstring's first line
says what is measured. It names the recipes and attacks that it hangs on: when one of their versions is raised, a test
says that the measurement is stale.
"""

import argparse
import datetime
import itertools
import json
import time
from functools import partial

import torch

from advutils import (
    accuracy,
    accuracy_vs_eps,
    adversarial,
    fgsm,
    fit,
    grey,
    initialised,
    input_gradient,
    load_data,
    make_loader,
    margin,
    mixed,
    n_fgsm,
    pgd,
    random_fgsm,
    random_noise,
    shift,
    split,
    square,
    trained,
    vgg,
    worst_case,
)
from advutils.attacks import VERSIONS as ATTACK_VERSIONS
from advutils.pretrained import VERSIONS as RECIPE_VERSIONS
from advutils.pretrained import machine
from advutils.utils.measurements import MEASUREMENTS

MEASURED = {}  # name: (function, recipes and attacks that it hangs on)


def measurement(*depends_on):
    """Enter a function into MEASURED under its name, with the recipes and attacks that it hangs on."""
    unknown = set(depends_on) - RECIPE_VERSIONS.keys() - ATTACK_VERSIONS.keys()
    if unknown:
        raise ValueError(f"depends_on: got {sorted(unknown)}; accepts names of recipes and of attacks")

    def enter(function):
        MEASURED[function.__name__] = (function, depends_on)
        return function

    return enter


def versions(depends_on):
    """The versions of today of these recipes and attacks."""
    return {name: (RECIPE_VERSIONS | ATTACK_VERSIONS)[name] for name in depends_on}


def _watched_training(objective, seed, *, eps=0.2, epochs=6, every=25):
    """One training of notebook 7: what it measures while it runs, and at its end under a stronger PGD."""
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
def single_step_cures():
    """Notebook 7: training from a random start and N-FGSM at 0.2, measured as `fgsm_training` is."""
    cures = {"random start": random_fgsm, "N-FGSM": n_fgsm}
    return {name: [_watched_training(objective, seed) for seed in range(5)] for name, objective in cures.items()}


@measurement("fgsm", "pgd")
def random_start_at_04():
    """Notebook 7: training from a random start at 0.4, twelve epochs, five seeds, every half epoch."""
    return [_watched_training(random_fgsm, seed, eps=0.4, epochs=12, every=57) for seed in range(5)]


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


def _marks(kept):
    """A record of survivors as text: 1 for an image that is still read correctly, 0 for one that is not."""
    return "".join(str(int(one)) for one in kept)


def _spread_digits(n):
    """n test digits, spread evenly over the test set, and their labels."""
    images, labels = load_data("mnist-5k", train=False).tensors
    chosen = torch.linspace(0, len(images) - 1, n).long()
    return images[chosen], labels[chosen]


@measurement("clean", "clean-small-cnn", "outsider-small-cnn", "mixed-fgsm", "fgsm", "pgd", "grey", "random_noise")
def transfer():
    """Notebook 9: nine surrogates, eight targets, at 0.2 on 400 digits; FGSM, and PGD with and without momentum."""
    x, y = _spread_digits(400)
    quiet = dict(progress=False)
    nets = {f"VGG {seed}": trained("clean", seed=seed, **quiet) for seed in range(3)}
    nets |= {f"small CNN {seed}": trained("clean-small-cnn", seed=seed, **quiet) for seed in range(3)}
    nets |= {f"defended VGG {seed}": trained("mixed-fgsm-0.1", seed=seed, **quiet) for seed in range(2)}
    surrogates = nets | {"outsider": trained("outsider-small-cnn", **quiet)}
    attacks = {"FGSM": fgsm}
    for start in range(2):
        attacks[f"PGD {start}"] = partial(pgd, steps=10)
        attacks[f"MI-FGSM {start}"] = partial(pgd, steps=10, momentum=1.0)

    def read_by_all(x_adv):
        return {name: (net(x_adv).argmax(1) == y) for name, net in nets.items()}

    with torch.no_grad():
        blind = torch.Generator().manual_seed(0)
        controls = {"clean": x, "noise": random_noise(None, x, y, eps=0.2, generator=blind)}
        controls["grey"] = grey(None, x, y, eps=0.2)
        left = {name: {"": read_by_all(images)} for name, images in controls.items()}
        for name, surrogate in surrogates.items():
            left[name] = {}
            for label, attack in attacks.items():
                start = {} if attack is fgsm else dict(generator=torch.Generator().manual_seed(int(label[-1])))
                left[name][label] = read_by_all(attack(surrogate, x, y, eps=0.2, **start))
                print(name, label, {target: int(kept.sum()) for target, kept in left[name][label].items()}, flush=True)
    return {
        source: {label: {target: _marks(kept) for target, kept in found.items()} for label, found in made.items()}
        for source, made in left.items()
    }


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
