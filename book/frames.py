"""The frames of the book's slider, which works without a kernel: python book/frames.py

They are what the live slider shows at each radius, kept as numbers, which the same script draws. It takes half a
minute. The frames are committed, and tests/browser/test_book.py computes some of them anew.
"""

import json
import zlib
from pathlib import Path

from advutils import load_data, trained
from advutils.utils.storage import atomic_write
from advutils.widgets.slider import EpsilonSlider

FOLDER = Path(__file__).resolve().parent / "frames"
NETWORKS = {"clean VGG": "clean", "defended VGG": "mixed-fgsm-0.1"}
RADII = [round(0.015 * part, 3) for part in range(21)]
ATTACKS = ("FGSM", "PGD")


def main():
    models = networks()
    attacks, pixels = {attack: dict(scene={}, shown=[], words=[]) for attack in ATTACKS}, []
    for attack, _, picture in pictures(models, [(attack, eps) for attack in ATTACKS for eps in RADII]):
        attacks[attack]["scene"] = picture.scene
        attacks[attack]["shown"].append(picture.shown)
        attacks[attack]["words"].append(picture.words.removesuffix(" PGD runs when you let go of the slider."))
        pixels.append(picture.pixels)
    about = dict(made_with=choices(models), eps=RADII, attacks=attacks)
    atomic_write(FOLDER / "frames.json", (json.dumps(about, separators=(",", ":")) + "\n").encode())
    atomic_write(FOLDER / "pixels.zlib", zlib.compress(b"".join(pixels), 9))


def networks():
    """The networks that are attacked, by the labels above them."""
    return {label: trained(name) for label, name in NETWORKS.items()}


def choices(models):
    """What decides over the frames: the radii, the attacks, and of each network its name and its recipe's version."""
    recipes = {label: {key: model.recipe[key] for key in ("name", "version")} for label, model in models.items()}
    return dict(eps=RADII, attacks=list(ATTACKS), networks=recipes)


def pictures(models, wanted):
    """(attack, radius, the Panel that shows it) for each (attack, radius) of the list."""
    dashboard = EpsilonSlider(models, load_data("mnist-5k", train=False), eps=0, eps_max=RADII[-1])
    dashboard.look.value = "8"  # a seven
    for attack, eps in wanted:
        dashboard.attack.value = attack
        dashboard.slider.value = eps
        yield attack, eps, dashboard.picture


if __name__ == "__main__":
    main()
