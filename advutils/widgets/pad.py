"""A pad on which a reader draws a digit, which the slider attacks."""

import io

import ipywidgets
import numpy as np
import torch
from PIL import Image, ImageDraw

from advutils.utils.images import read_digit


class DigitPad(ipywidgets.VBox):
    """A black pad to draw a digit on with a mouse, a pen or a finger; an `EpsilonSlider` reads and attacks it.

    What is drawn is brought into the form of MNIST's digits (`read_digit`) after each stroke. Its true class is what
    the reader says that it is; until then, what the first model reads.

    Args:
        dashboard: the EpsilonSlider that shows the drawn digit.

    Attributes:
        canvas, meant, wipe: the pad, the class that was meant ("?" for what the first model reads), and the button.
        ink: what is drawn, as a PIL image in grey levels.

    Taught in 03_visualize.ipynb.
    """

    SIDE, PEN = 224, 18

    def __init__(self, dashboard):
        import ipycanvas

        self._dashboard, self._last = dashboard, None
        self.canvas = ipycanvas.Canvas(width=self.SIDE, height=self.SIDE, sync_image_data=False)
        self._other = ipycanvas.Canvas(width=1, height=1)
        self.canvas.layout.border = "1px solid #666666"
        self.wipe = ipywidgets.Button(description="wipe", layout={"width": "80px"})
        self.meant = ipywidgets.ToggleButtons(
            options=["?", *map(str, range(10))],
            description="I drew a",
            style={"button_width": "42px", "description_width": "70px"},
        )
        hint = ipywidgets.HTML("Draw a digit; it is read, and attacked above, when you lift the pen.")
        super().__init__([hint, ipywidgets.HBox([self.canvas, ipywidgets.VBox([self.meant, self.wipe])])])
        self.canvas.on_mouse_down(self.down), self.canvas.on_mouse_move(self.move), self.canvas.on_mouse_up(self.up)
        self.canvas.on_mouse_out(self.up)
        self.canvas.on_touch_start(lambda touches: self.down(*touches[0]))
        self.canvas.on_touch_move(lambda touches: self.move(*touches[0]))
        self.canvas.on_touch_end(lambda touches: self.up())
        self.canvas.on_client_ready(self._show_ink)
        self.wipe.on_click(self._clear)
        self.meant.observe(self._read, "value")
        self._clear()

    def _clear(self, _=None):
        self.ink = Image.new("L", (self.SIDE, self.SIDE))
        self.meant.value = "?"  # the next digit may be another
        self._show_ink()

    def _show_ink(self):
        """Bring the pad in the page to what is drawn: a page that is opened later has missed all that came before."""
        self._other.clear()  # so that ipycanvas says anew which canvas it draws on
        self.canvas.put_image_data(np.repeat(np.asarray(self.ink)[:, :, None], 3, axis=2))
        self.canvas.stroke_style = "white"
        self.canvas.line_width, self.canvas.line_cap = self.PEN, "round"

    def down(self, x, y):
        """The pen touches the pad at pixel (x, y)."""
        self._last = x, y
        self.move(x, y)

    def move(self, x, y):
        """The pen moves to (x, y); it draws if it touches the pad."""
        if self._last is None:
            return
        self.canvas.stroke_line(*self._last, x, y)
        pen, half = ImageDraw.Draw(self.ink), self.PEN / 2
        pen.line((*self._last, x, y), 255, self.PEN)
        pen.ellipse((x - half, y - half, x + half, y + half), 255)
        self._last = x, y

    def up(self, *_):
        """The pen is lifted: what is drawn is read and attacked."""
        if self._last is not None:
            self._last = None
            self._read()

    def _read(self, _=None):
        if self.ink.getbbox() is None:
            return
        file = io.BytesIO()
        self.ink.save(file, "PNG")
        x = read_digit(file, invert=False)
        said = self._dashboard.first_reads(x) if self.meant.value == "?" else int(self.meant.value)
        self._dashboard.show(x, torch.tensor([said]))
