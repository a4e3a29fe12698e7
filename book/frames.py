"""The frames of the book's slider, which works without a kernel: python book/frames.py

They are what the live slider draws at each radius, kept as pictures beside what it says. It takes half a minute once
the two networks have been trained. The frames are committed, and a test says when they are out of date.
"""

import ast
import io
import json
from pathlib import Path

from PIL import Image

from advutils import fingerprint, load_data, panel, trained, widgets
from advutils.models import replace_file
from advutils.widgets import EpsilonSlider

FOLDER = Path(__file__).resolve().parent / "frames"
DEFENCE = "joined-fgsm-0.1"
RADII = [round(0.015 * part, 3) for part in range(21)]
ATTACKS = ("FGSM", "PGD")
COLORS = 64  # of a frame: enough for its greys and its diverging scale, and a third of the bytes


def main():
    models = {"clean VGG": trained("clean", progress=True), "defended VGG": trained(DEFENCE, progress=True)}
    dashboard = EpsilonSlider(models, load_data("mnist-5k", train=False), eps=0, eps_max=RADII[-1])
    dashboard.look.value = "8"  # a seven
    words = {attack: [] for attack in ATTACKS}
    for attack in ATTACKS:
        dashboard.attack.value = attack
        for number, eps in enumerate(RADII):
            dashboard.slider.value = eps
            data = io.BytesIO()
            picture = Image.open(io.BytesIO(dashboard.picture.value))
            picture.quantize(COLORS, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
            replace_file(FOLDER / f"{attack}-{number:02}.png", data.getvalue())
            words[attack].append(dashboard.words.removesuffix(" PGD runs when you let go of the slider."))
    about = dict(stamp=stamp(), eps=RADII, words=words, width=picture.width, height=picture.height)
    replace_file(FOLDER / "frames.json", (json.dumps(about, indent=1) + "\n").encode())


def stamp():
    """What the frames depend on: the package's numeric code, the code that draws, and the choices here."""
    drawn = [ast.dump(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))) for module in (panel, widgets)]
    return fingerprint(DEFENCE, RADII, ATTACKS, COLORS, *drawn)


if __name__ == "__main__":
    main()
