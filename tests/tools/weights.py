"""Trains the published networks anew and shows each beside the published one: `make weights`, a few minutes.

The two wide ones are trained only when they are named: an hour each, and full MNIST. Nothing is written without
--write, which replaces the files in advutils/published/ and book/lab/networks/.
"""

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path

from advutils import accuracy, certified, fgsm, load_data, load_weights, make_loader, pgd, save_weights, trained
from advutils.pretrained import PUBLISHED, file_name, machine

SMALL = dict(depth=11, width=0.125)
NETWORKS = [  # name for `trained`, and its settings
    ("clean", {}),
    ("clean", dict(seed=1)),  # the second VGG of notebook 9
    ("clean-small-cnn", {}),
    ("outsider-small-cnn", {}),
    ("mixed-fgsm-0.1", {}),
    ("fgsm-0.2", SMALL | dict(eps_warmup=0)),  # notebook 7: before the collapse
    ("fgsm-last-0.2", SMALL),  # and after it, of the same training
    ("random-fgsm-0.3", SMALL | dict(contrast=10)),  # notebook 8: a steep first layer
    ("certified-0.1", {}),
    ("certified-0.3", {}),
    ("certified-wide-0.1", dict(dataset="mnist")),
    ("certified-wide-0.3", dict(dataset="mnist")),
]
LAB = [("clean", SMALL), ("mixed-fgsm-0.1", SMALL)]  # the narrow twins in the book's laboratory, not in the package
BOOK = Path(__file__).resolve().parents[2] / "book" / "lab" / "networks"
JUDGES = {"clean": None, "FGSM": fgsm, "PGD-10": partial(pgd, steps=10)}  # at 0.1, or the radius in the name
LARGEST, LARGEST_WIDE = 12e6, 3e6  # bytes: of all files together without the wide networks, and of one of these


def judged(name, model):
    """The accuracy in percent on the test digits without an attack, under FGSM and PGD; the certified one."""
    test = make_loader(load_data(model.recipe["dataset"], train=False), batch_size=250)
    bounded = name.startswith("certified")
    eps = float(name.rpartition("-")[2]) if bounded else 0.1
    records = [accuracy(model, test, attack, eps=attack and eps) for attack in JUDGES.values()]
    records += [certified(model, test, eps=eps)] if bounded else []
    return [100 * record.value for record in records]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="clean, mixed-fgsm-0.1 and so on, or lab; if none, all but the wide ones",
    )
    parser.add_argument("--write", action="store_true", help="replace the published files by what was trained")
    chosen = parser.parse_args(arguments)
    names = {name for name, _ in NETWORKS} | {"lab"}
    if unknown := set(chosen.names) - names:
        parser.error(f"NAME: got {', '.join(sorted(unknown))}; accepts {', '.join(sorted(names))}")
    asked = chosen.names or [name for name in names if "wide" not in name]
    heads = "".join(f"{label:>10}" for label in (*JUDGES, "certified"))
    print(f"{'accuracy in percent on the test digits':54}{heads}", flush=True)
    every = [(name, name, settings) for name, settings in NETWORKS] + [("lab", *network) for network in LAB]
    for called, name, settings in every:
        if called not in asked:
            continue
        fresh = trained(name, retrain=True, **settings)
        path = BOOK / f"{name}.safetensors" if called == "lab" else PUBLISHED / file_name(fresh.recipe)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, path.name)
            about = dict(recipe=fresh.recipe, history=vars(fresh.history), machine=machine())
            save_weights(fresh, made, bits=8 if "wide" in name else 16, **about)
            packed = copy.deepcopy(fresh)
            load_weights(packed, made)
            shown = {"trained here": fresh, "the same, in fewer bits": packed}
            if path.exists():
                shown["published"] = copy.deepcopy(fresh)
                load_weights(shown["published"], path)
            print(path.name, flush=True)
            for label, model in shown.items():
                print(f"   {label:51}" + "".join(f"{share:10.1f}" for share in judged(name, model)), flush=True)
            if chosen.write:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(made.read_bytes())
    size = sum(path.stat().st_size for path in PUBLISHED.glob("*.safetensors") if "wide" not in path.name)
    print(f"advutils/published holds {size / 1e6:.1f} MB of at most {LARGEST / 1e6:.0f}, besides the wide networks")


if __name__ == "__main__":
    main()
