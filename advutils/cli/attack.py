"""`advutils attack`: write adversarial images, and a sheet of what became of them."""

import csv
import glob
import inspect
import io
import json
from collections import Counter
from pathlib import Path

import torch

from advutils.cli import common
from advutils.data import device
from advutils.evaluation import predict, wilson
from advutils.utils import distributed
from advutils.utils.images import read_image, to_levels, write_png
from advutils.utils.storage import atomic_write, writable
from advutils.utils.traits import describe, seeded

KINDS = ("clean", "adversarial")  # folders that `attack` writes
COLUMNS = ("file", "label", "labelled_by", "clean_prediction", "adversarial_prediction", "linf", "l2", "success")


def attack_command(chosen):
    attack = common.attack_of(chosen.attack)
    _keep_apart(chosen)
    model, suits = common.model_of(chosen.model)
    data = common.data_of(chosen, suits, train=False)
    if chosen.target is not None and "target" not in inspect.signature(attack).parameters:
        raise ValueError(f"--target: got it with --attack {chosen.attack}; accepts pgd")
    [(name, times)] = Counter(common.image_name(data, at) for at in range(len(data))).most_common(1)
    if times > 1:
        raise ValueError(f"--data: got {times} images of the name {name!r}; accepts one, as each becomes a file")
    labelled, how = chosen.labels or "data", "not used: the labels are what the model reads"
    if labelled == "data":
        try:
            how = common.number_classes(data, chosen, suits.get("classes"), model)
        except ValueError as error:
            if chosen.labels:
                raise ValueError(f"--labels: got data, but {common.in_words(error)}; or model") from error
            labelled, how = "model", f"not used: the labels are what the model reads ({common.in_words(error)})"
    common.describe_data(data, chosen, how)
    about = dict(
        model=chosen.model, data=chosen.data, attack=describe(attack), eps=chosen.eps, target=chosen.target,
        labels=labelled, limit=chosen.limit, batch_size=chosen.batch_size, size=chosen.size, channels=chosen.channels,
        background=chosen.background,
    )  # fmt: skip
    _claim(chosen.out, about)
    found = {}
    for index, (x, y) in distributed.shard_batches(common.loader_of(data, chosen, batch_size=chosen.batch_size)):
        x = (255 * x).round() / 255  # the clean image as its file holds it
        x, y = x.to(device()), y.to(device())
        clean = predict(model, x).argmax(1)
        label = clean if labelled == "model" else y
        aimed = {} if chosen.target is None else dict(target=torch.full_like(label, chosen.target))
        levels = to_levels(seeded(attack, index)(model, x, label, eps=chosen.eps, **aimed), x).cpu()
        names = [common.image_name(data, index * chosen.batch_size + at) for at in range(len(x))]
        for name, image, original in zip(names, levels, (255 * x).round().to(torch.uint8).cpu()):
            write_png(chosen.out / "clean" / f"{name}.png", original)
            write_png(chosen.out / "adversarial" / f"{name}.png", image)
        found[index] = _reread(chosen, model, names, label, clean, labelled)
    rows = [row for part in distributed.all_gather(found).values() for row in part]
    if distributed.is_main_process():
        _write_sheet(chosen.out / "attack.csv", rows)
    goal = "taken for the target" if chosen.target is not None else f"no longer read as the {labelled}'s label"
    common.say(f"{chosen.out}: {wilson(torch.tensor([row['success'] for row in rows]))} of the files are {goal}")


def _keep_apart(chosen):
    """Raise where the folder to write and the data to read lie in each other."""
    sources = [Path(chosen.data)] if Path(chosen.data).exists() else map(Path, glob.glob(chosen.data))
    for source in (path.resolve() for path in sources):
        if source.is_dir() and chosen.out.resolve().is_relative_to(source):
            raise ValueError(
                f"--out: got {str(chosen.out)!r}, a folder inside --data, where its images would be read as data the "
                "next time; accepts one outside"
            )
        if any(source.is_relative_to((chosen.out / kind).resolve()) for kind in KINDS):
            raise ValueError(f"--out: got {str(chosen.out)!r}, where it would overwrite --data; accepts another folder")


def _write_sheet(path, rows):
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, sheet.getvalue().encode("utf-8", "surrogateescape"))  # names as on the disk


def _claim(out, about):
    """Write what the folder is to hold before it does; one that holds another attack's images is refused, not mixed."""
    there = distributed.broadcast((out / "attack.json").read_text() if (out / "attack.json").exists() else None)
    text = json.dumps(about, indent=1) + "\n"
    holds = distributed.broadcast([name for name in (*KINDS, "attack.csv") if (out / name).exists()])
    if holds and there != text:
        whose = "the images of another attack" if there else f"{' and '.join(holds)} of something else"
        raise ValueError(f"--out: got {str(out)!r}, which holds {whose}; accepts a new folder")
    if distributed.is_main_process():
        writable(out, "--out: ")
        (out / "attack.csv").unlink(missing_ok=True)  # of the same command, which may be broken off this time
        atomic_write(out / "attack.json", text.encode())


def _reread(chosen, model, names, label, clean, labelled):
    """A row of the sheet for each image, from what lies on the disk."""
    pairs = []
    for kind in KINDS:
        files = [chosen.out / kind / f"{name}.png" for name in names]
        pairs.append(torch.stack([read_image(file.read_bytes(), file) for file in files]).to(device()))
    x, x_adv = pairs
    after, delta = predict(model, x_adv).argmax(1), (x_adv - x).flatten(1)
    success = after != label if chosen.target is None else after == chosen.target
    columns = (names, label, [labelled] * len(x), clean, after, delta.abs().amax(1), delta.norm(dim=1), success)
    rows = zip(*(values.tolist() if isinstance(values, torch.Tensor) else values for values in columns))
    return [dict(zip(COLUMNS, row)) for row in rows]
