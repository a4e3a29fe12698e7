"""The picture of the epsilon slider as numbers, which panel.js draws in the page, some milliseconds after a hand."""

import re
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from advutils.plots import MODEL_COLORS, MUTED, PROVED, SPARE_COLORS, WRONG

SCRIPT = Path(__file__).with_suffix(".js")
DRAWING = SCRIPT.with_name("drawing.js")  # the book's laboratory draws with it too
IMPORT = re.compile(r'import \{[^}]*\} from "./drawing.js";\n')


def whole_script():
    """panel.js with drawing.js in place of its import: a widget sends one script, beside which there is no other."""
    script, drawing = (path.read_text(encoding="utf-8") for path in (SCRIPT, DRAWING))
    return IMPORT.sub(lambda _: drawing, script, count=1)


class Panel(anywidget.AnyWidget):
    """Shows what models make of attacked images; panel.js says how it looks.

    Attributes:
        scene: what stays while a slider moves. models: a list of {label, color}; right, wrong, muted, proved: colours;
            curve: None or {radii, values: a list for each model, title}.
        shown: what is shown now. eps, chosen; y: labels (n,); size: (C, H, W); for each model predicted (n,),
            confidence (n,) of it, bars (K,), the class probabilities of the chosen image, and proved, the radius up to
            which no attack can change what the model reads in that image (0 if nothing is proved).
        pixels: for each model the n attacked images, grey levels or colours as bytes, then the perturbation of the
            chosen one as places on a scale (H, W), from -eps at 0 to eps at 255.
        words: the picture in words, which stand above it and are its label.
    """

    _esm = whole_script()
    scene = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    pixels = traitlets.Bytes().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)

    def set_scene(self, colors, *, curve=None):
        """The models from left to right, {label: colour}, and the accuracies below them, as `scene` has them."""
        models = [dict(label=label, color=color) for label, color in colors.items()]
        right = MODEL_COLORS["clean VGG"]
        colors = dict(right=right, wrong=WRONG, muted=MUTED, proved=PROVED)
        self.scene = dict(models=models, curve=curve, **colors)

    def show(self, x, y, x_advs, probabilities, *, eps, chosen=0, proved=(), words=""):
        """Show n images x (n, C, H, W) of the classes y (n,), attacked at radius eps.

        Args:
            x, y: the images as they were, and their labels.
            x_advs: attacked images (n, C, H, W), for each model of the scene.
            probabilities: (n, K), for each model.
            eps: radius in pixel units, the end of the perturbation's colour scale.
            chosen: index of the image that is shown large.
            proved: for each model the radius up to which nobody can change what it reads in that image, 0 for none.
            words: the picture in words, for those who do not see it.
        """
        x, x_advs, probabilities = np.asarray(x), list(map(np.asarray, x_advs)), list(map(np.asarray, probabilities))
        parts = []
        for x_adv in x_advs:
            delta = (x_adv[chosen] - x[chosen]).mean(0) / max(eps, 1e-3)
            parts += [_bytes(255 * x_adv.transpose(0, 2, 3, 1)), _bytes(127.5 * (delta + 1))]
        with self.hold_sync():  # one message, one redrawing
            self.shown = dict(
                eps=eps, chosen=chosen, y=np.asarray(y).tolist(), size=list(x.shape[1:]),
                predicted=[p.argmax(1).tolist() for p in probabilities],
                confidence=[p.max(1).tolist() for p in probabilities],
                bars=[p[chosen].tolist() for p in probabilities], proved=list(proved),
            )  # fmt: skip
            self.pixels, self.words = b"".join(parts), words


def colors_of(labels):
    """{label: colour}: that of the series for its models, and one of their own for others."""
    spare = iter(SPARE_COLORS * len(labels))
    return {label: MODEL_COLORS.get(label) or next(spare) for label in labels}


def _bytes(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()
