"""The results page: models by attacks on a whole test set, by one command that goes on where it stopped.

    python tests/tools/results.py --list
    python tests/tools/results.py --dataset mnist --model "PGD-5" --seed 0

    python tests/tools/results.py --publish

Every row is a JSON file of its own in notebooks/results/rows/. It says how it was measured, and by which command the
row and its weights can be made again.
"""

import argparse
import collections
import datetime
import hashlib
import json
import re
import shlex
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch.utils.data import TensorDataset

from advutils import plots
from advutils.attacks import VERSIONS as ATTACK_VERSIONS
from advutils.attacks.auto import autoattack
from advutils.attacks.gradient import fgsm, pgd
from advutils.data import load_data, make_loader
from advutils.evaluation import survivors, wilson
from advutils.pretrained import RECIPES, machine, trained
from advutils.pretrained import VERSIONS as RECIPE_VERSIONS
from advutils.utils import distributed
from advutils.utils.storage import atomic_write, cache_dir
from advutils.utils.traits import describe

HOME = Path(__file__).resolve().parents[2]
ROWS = HOME / "notebooks" / "results" / "rows"
PAGE, FIGURE = "book/results.md", "notebooks/figures/robustness.png"
BEGIN, END = "<!-- made by `make results ARGS=--publish` -->", "<!-- end of what was made -->"
EPS = {"mnist": 0.3, "fashion-mnist": 0.1, "cifar10": 8 / 255, "mnist-5k": 0.3}
SMALL = dict(depth=11, width=0.125, batch_size=128, lr=4e-3)
AVERAGED = SMALL | dict(ema_decay=0.999)
DEFENCES = {  # {label: (name for `trained` without the radius, its settings)}
    "clean": ("clean", SMALL | dict(epochs=4)),
    "FGSM": ("fgsm", AVERAGED | dict(epochs=10)),
    "random start": ("random-fgsm", AVERAGED | dict(epochs=10)),
    "random start, contrast": ("random-fgsm", AVERAGED | dict(epochs=10, contrast=16)),
    "PGD-5": ("pgd", AVERAGED | dict(epochs=20)),
    "PGD-5, contrast": ("pgd", AVERAGED | dict(epochs=20, contrast=16)),
    "PGD-5, contrast, 30 epochs": ("pgd", AVERAGED | dict(epochs=30, contrast=16)),
    "PGD-10, contrast": ("pgd", AVERAGED | dict(epochs=20, contrast=16, steps=10)),
    "PGD-3, contrast, width 1/4": ("pgd", AVERAGED | dict(epochs=10, contrast=16, steps=3, width=0.25)),
    "PGD-5, contrast, width 1/4": ("pgd", AVERAGED | dict(epochs=20, contrast=16, width=0.25)),
}
OTHERWISE = {"cifar10": dict(depth=16, width=0.5, epochs=30)}  # what a data set changes in every model's settings,
ONLY = {"cifar10": ("clean", "FGSM", "random start", "PGD-5")}  # and the models whose names stay true of it
ATTACKS = {  # {label: (attack, images of the test set: None for all, else so many drawn at random, always the same)}
    "clean": (None, None),
    "FGSM": (fgsm, None),
    "PGD-40": (partial(pgd, steps=40), None),
    "AutoAttack": (autoattack, 1000),
    "APGD-CE and APGD-T": (partial(autoattack, attacks_to_run=["apgd-ce", "apgd-t"]), None),
}
BATCH = 250  # images that an attack sees at once
PART = 1000  # images that are attacked between two looks at the clock: what is lost when the command is broken off


def measure(dataset, model, attack, seed, *, progress=True):
    """One row: the model trained (or loaded), attacked on the test set, part by part, each part kept as it is done.

    Args:
        dataset: a key of `EPS`.
        model: a key of `DEFENCES`.
        attack: a key of `ATTACKS`.
        seed: of the training.
        progress: show the training's bar, and a line for each part.

    Returns:
        dict, as it stands in its file.
    """
    name, settings = recipe(dataset, model)
    eps, (run, n) = EPS[dataset], ATTACKS[attack]
    network = trained(name if name == "clean" else f"{name}-{eps:.6g}", dataset=dataset, seed=seed, progress=progress,
                      **settings)  # fmt: skip
    x, y = load_data(dataset, train=False).tensors
    if n is not None:
        some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n].sort().values
        x, y = x[some], y[some]
    identity = identity_of(dataset, model, attack, seed)
    kept = parts_of(identity)
    alive, warned, where = distributed.broadcast(json.loads(kept.read_text()) if kept.exists() else ([], [], []))
    for start in range(len(alive), len(x), PART):
        part = make_loader(TensorDataset(x[start : start + PART], y[start : start + PART]), batch_size=BATCH)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            alive += survivors(network, part, run, eps=None if run is None else eps).tolist()
        said = distributed.all_gather({distributed.rank(): [str(warning.message) for warning in heard]})
        warned += sum(said.values(), [])
        where = sorted({*where, machine()})
        if distributed.is_main_process():
            atomic_write(kept, json.dumps([alive, warned, where]).encode())
        if progress and distributed.is_main_process():
            print(f"{dataset}, {model}, seed {seed}, {attack}: {len(alive)} of {len(x)}, {wilson(torch.tensor(alive))}")
    record, history = wilson(torch.tensor(alive)), network.history
    return dict(
        model=model,
        dataset=dataset,
        norm="linf",
        eps=0.0 if run is None else eps,
        attack=attack,
        settings=describe(run),
        n=record.n,
        accuracy=record.value,
        low=record.low,
        high=record.high,
        warnings=warned,
        seed=seed,
        train_seconds=round(history.seconds[-1], 1),
        images=history.images[-1],
        forwards=history.forwards[-1],
        backwards=history.backwards[-1],
        command=command(dataset, model, attack, seed, distributed.world_size()),
        machine="; ".join(where),
        processes=distributed.world_size(),
        date=datetime.date.today().isoformat(),
        commit=commit(),
        identity=identity,
    )


def models_of(dataset):
    """The models that are measured on a data set."""
    return tuple(model for model in ONLY.get(dataset, DEFENCES) if model in DEFENCES)


def recipe(dataset, model):
    """The name for `trained`, without the radius, and the settings of a model on a data set."""
    if model not in models_of(dataset):
        raise ValueError(f"model: got {model!r} on {dataset}; accepts one of {', '.join(models_of(dataset))}")
    name, settings = DEFENCES[model]
    return name, settings | OTHERWISE.get(dataset, {})


def identity_of(dataset, model, attack, seed, several=None):
    """What a row depends on: recipe and attack with their versions, data, seed, and how many processes trained."""
    (name, settings), (run, n) = recipe(dataset, model), ATTACKS[attack]
    return dict(
        recipe=RECIPES[name] | settings | dict(name=name, dataset=dataset, eps=EPS[dataset], seed=seed),
        recipe_version=RECIPE_VERSIONS[name],
        attack=dict(label=attack, settings=describe(run), n=n, batch=BATCH, part=PART),
        attack_version=run and ATTACK_VERSIONS[getattr(run, "func", run).__name__],
        processes=distributed.world_size() if several is None else several,  # as many networks as there are such counts
    )


def parts_of(identity):
    """The file that keeps the images attacked so far, until their row is complete."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "results" / f"{digest[:16]}.parts.json"


def commit():
    """The commit of the code that measures, with -dirty where files differ from it; "unknown" without git."""
    command = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"


def command(dataset, model, attack, seed, several):
    """What measures a row, with its network trained in so many processes."""
    chosen = dict(dataset=dataset, model=model, attack=attack, seed=str(seed))
    launcher = "python" if several == 1 else f"torchrun --nproc-per-node {several}"
    options = " ".join(f"--{key} {shlex.quote(value)}" for key, value in chosen.items())
    return f"{launcher} tests/tools/results.py {options}"


def load(folder=ROWS):
    """The rows of a folder, in the order of the table; none where there is no folder yet."""
    return sorted((json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")), key=place)


def add(row, folder=ROWS):
    """Write the row into its file; it replaces the row that measured the same."""
    atomic_write(Path(folder) / file_name(row), (json.dumps(row, indent=1) + "\n").encode())


def file_name(row):
    """What a row measured, as the name of its file."""
    parts = row["dataset"], row["model"], row["attack"], f"seed {row['seed']}"
    return "--".join(re.sub("[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts) + ".json"


def place(row):
    """Where a row stands in the table: by data set, model and attack as they are listed above, then by seed."""
    listed = zip((list(EPS), list(DEFENCES), list(ATTACKS)), (row["dataset"], row["model"], row["attack"]))
    return *(names.index(name) if name in names else len(names) for names, name in listed), row["seed"]


def stale(rows):
    """Rows that another version, recipe, attack or radius measured, or that no recipe stands behind any more."""
    return [row for row in rows if not _current(row)]


def _current(row):
    if row["dataset"] not in EPS or row["model"] not in models_of(row["dataset"]) or row["attack"] not in ATTACKS:
        return False
    ours = identity_of(row["dataset"], row["model"], row["attack"], row["seed"], row["processes"])
    return row["identity"] == json.loads(json.dumps(ours))


def table(rows):
    """The rows as Markdown, a table for each data set: models and seeds down, attacks across, in percent."""
    parts = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        attacks = {row["attack"]: row for row in here}
        lines = {}
        for row in here:
            lines.setdefault((row["model"], row["seed"]), {})[row["attack"]] = row
        eps, sizes = max(row["eps"] for row in here), {attack: f"n = {row['n']:,}" for attack, row in attacks.items()}
        machines, dates = (sorted({row[key] for row in here}) for key in ("machine", "date"))
        head = ["model", "seed", *(f"{attack}, {sizes[attack]}" for attack in attacks), "training"]
        parts += [
            f"**{dataset}**, l_inf {eps:.4g}; {'; '.join(machines)}; {dates[0]}"
            + (f" to {dates[-1]}" if len(dates) > 1 else "")
            + ". Each row is a file in `notebooks/results/rows`; this command measures the last one anew: "
            + f"`{command(dataset, *(here[-1][key] for key in ('model', 'attack', 'seed', 'processes')))}`.",
            "\n".join(
                [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
                + [
                    f"| {model} | {seed} | "
                    + " | ".join(
                        _percent(found[attack], attacks[attack]) if attack in found else "" for attack in attacks
                    )
                    + f" | {_cost(next(iter(found.values())))} |"
                    for (model, seed), found in lines.items()
                ]
            ),
        ]
        if warned := [row for row in here if row.get("warnings")]:
            parts += [
                f"Warned of by the attacks themselves, batch of {BATCH} by batch: "
                + "; ".join(f"{row['model']}, seed {row['seed']}: {_said(row)}" for row in warned)
                + "."
            ]
    return "\n\n".join(parts)


def _said(row):
    """The warnings of a row, the first sentence of each, with how often it came."""
    counts = collections.Counter(warning.split(". ")[0].rstrip(".") for warning in row["warnings"])
    return ", ".join(sentence if n == 1 else f"{sentence} ({n} times)" for sentence, n in counts.items())


def _percent(row, head):
    """An entry of the table; it names its own n where that is not the one at the column's head."""
    value, low, high = (f"{100 * row[key]:.1f}" for key in ("accuracy", "low", "high"))
    return f"{value} [{low}, {high}]" + ("" if row["n"] == head["n"] else f", n = {row['n']:,}")


def _cost(row):
    passes = (row["forwards"] + row["backwards"]) / 1e6
    return f"{row['train_seconds'] / 60:.0f} min, {passes:.1f} M passes"


def verdicts(rows):
    """A figure of models by attacks: a line for each model and seed, a point with its interval for each attack.

    `rows` is {(model, seed): {attack: (accuracy, low, high)}}, drawn from the top; the attacks' order is that of their
    first appearance. The axis begins at the ten percent below the lowest interval.
    """
    left = np.floor(10 * min(low for found in rows.values() for _, low, _ in found.values())) / 10
    attacks = list(dict.fromkeys(attack for found in rows.values() for attack in found))
    looks = dict(zip(attacks, zip((*plots.ARM_COLORS, "#009E73"), "osD^v")))
    fig, ax = plt.subplots(figsize=(7.2, 0.9 + 0.32 * len(rows)), layout="constrained")
    for line, found in enumerate(rows.values()):
        for attack, (value, low, high) in found.items():
            color, marker = looks[attack]
            error = [[max(0, value - low)], [max(0, high - value)]]
            ax.errorbar(value, line, xerr=error, fmt=marker, color=color, markersize=5, capsize=2, linewidth=1)
    handles = [ax.plot([], [], marker, color=color, label=attack)[0] for attack, (color, marker) in looks.items()]
    ends = left - 0.02 * (1 - left), 1 + 0.02 * (1 - left)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=ends, xlabel="test accuracy, 95% intervals")
    ax.set_yticks(range(len(rows)), [f"{model}, seed {seed}" for model, seed in rows], fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # whole percents, as its labels are
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="x", linewidth=0.4, alpha=0.6)
    fig.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    return fig


def publish(folder=ROWS, home=HOME):
    """Write the table into its page of the book, between the two marks, and the figure beside the notebooks' others."""
    rows, page = load(folder), home / PAGE
    if not rows:
        sys.exit(f"{folder} holds no rows yet, so there is nothing to publish.")
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} must hold the lines '{BEGIN}' and '{END}' once each; the table goes between them.")
    found = {}
    for row in (row for row in rows if row["dataset"] == rows[0]["dataset"]):
        record = row["accuracy"], row["low"], row["high"]
        found.setdefault((row["model"], row["seed"]), {})[f"{row['attack']}, n = {row['n']:,}"] = record
    (home / FIGURE).parent.mkdir(parents=True, exist_ok=True)
    verdicts(found).savefig(home / FIGURE, dpi=90)
    before, rest = text.split(BEGIN)
    atomic_write(page, f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}".encode())


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python tests/tools/results.py",
        description="Measure robust accuracy on whole test sets, row by row, and keep each row as it is done.",
    )
    parser.add_argument("--dataset", choices=EPS, default="mnist")
    parser.add_argument("--model", choices=DEFENCES, action="append", help="may be repeated; all if left out")
    parser.add_argument("--attack", choices=ATTACKS, action="append", help="may be repeated; all if left out")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated; 0 if left out")
    parser.add_argument("--folder", type=Path, default=ROWS, help="where the rows are kept (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="show what is there and what is stale, and measure nothing")
    parser.add_argument("--renew", action="store_true", help="drop the rows of other versions or settings")
    parser.add_argument("--publish", action="store_true", help="make the table and the figure of the book")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.model or ()) - set(models_of(chosen.dataset)):
        parser.error(f"--model: got {', '.join(sorted(unknown))} on {chosen.dataset}; accepts one of "
                     f"{', '.join(models_of(chosen.dataset))}")  # fmt: skip
    distributed.init_process_group()
    rows = distributed.broadcast(load(chosen.folder))
    old = stale(rows)
    if chosen.list:
        for row in rows:
            record = f"{row['accuracy']:6.1%} [{row['low']:.1%}, {row['high']:.1%}] n={row['n']}"
            age = "stale  " if row in old else "current"
            print(f"{age} {row['dataset']}, {row['model']}, seed {row['seed']}, {row['attack']}: {record}")
        return
    if old and not chosen.renew:
        sys.exit(
            f"{chosen.folder} holds {len(old)} rows of another version, recipe, attack or radius, and rows are never "
            "mixed: --list shows them, --renew drops them and measures on."
        )
    if distributed.is_main_process():
        for row in old:
            (chosen.folder / file_name(row)).unlink(missing_ok=True)
    if chosen.publish:
        return publish(chosen.folder)
    done = {file_name(row) for row in rows if row not in old and row["processes"] == distributed.world_size()}
    for seed in chosen.seed or [0]:
        for model in chosen.model or models_of(chosen.dataset):
            for attack in chosen.attack or ATTACKS:
                if file_name(dict(dataset=chosen.dataset, model=model, attack=attack, seed=seed)) not in done:
                    row = measure(chosen.dataset, model, attack, seed)
                    if distributed.is_main_process():
                        add(row, chosen.folder)
                        parts_of(row["identity"]).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
