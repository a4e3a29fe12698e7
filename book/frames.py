"""The frames of the book's slider, which works without a kernel: python book/frames.py

They are what the live slider shows at each radius, kept as numbers, which the same script draws. It takes half a minute
once the two networks have been trained. The frames are committed, and a test says when they are out of date.
"""

import ast
import json
import zlib
from pathlib import Path

from advutils import fingerprint, load_data, panel, trained, widgets
from advutils.models import replace_file
from advutils.panel import SCRIPT
from advutils.widgets import EpsilonSlider

FOLDER = Path(__file__).resolve().parent / "frames"
DEFENCE = "joined-fgsm-0.1"
RADII = [round(0.015 * part, 3) for part in range(21)]
ATTACKS = ("FGSM", "PGD")


def main():
    models = {"clean VGG": trained("clean", progress=True), "defended VGG": trained(DEFENCE, progress=True)}
    dashboard = EpsilonSlider(models, load_data("mnist-5k", train=False), eps=0, eps_max=RADII[-1])
    dashboard.look.value = "8"  # a seven
    picture, attacks, pixels = dashboard.picture, {}, []
    for attack in ATTACKS:
        dashboard.attack.value = attack
        frames = attacks[attack] = dict(scene=picture.scene, shown=[], words=[])
        for eps in RADII:
            dashboard.slider.value = eps
            frames["shown"].append(picture.shown)
            frames["words"].append(picture.words.removesuffix(" PGD runs when you let go of the slider."))
            pixels.append(picture.pixels)
    about = dict(stamp=stamp(), eps=RADII, attacks=attacks)
    replace_file(FOLDER / "frames.json", (json.dumps(about, separators=(",", ":")) + "\n").encode())
    replace_file(FOLDER / "pixels.zlib", zlib.compress(b"".join(pixels), 9))


def stamp():
    """What the frames depend on: the package's numeric code, the code that shows, and the choices here."""
    code = [ast.dump(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))) for module in (panel, widgets)]
    return fingerprint(DEFENCE, RADII, ATTACKS, *code, SCRIPT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
