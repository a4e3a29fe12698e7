"""The picture of the epsilon slider, drawn pixel by pixel so that it can follow a hand: a few milliseconds each.

A column a model: ten attacked images, then the chosen one larger, its perturbation and its class probabilities; below
them the accuracy of all models against epsilon, with a marker at the present one.
"""

import struct
import zlib
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from advutils.plots import MODEL_COLORS, MUTED, SPARE_COLORS, WRONG

TILE, GAP, ACROSS = 84, 5, 5  # pixels of an attacked image, between two of them, and how many are in a row
CAPTION, LARGE, CURVE = 17, 112, 150  # pixels: height of a line of text, side of the chosen image, height of the curve
COLUMN = ACROSS * TILE + (ACROSS - 1) * GAP
MARGIN, BETWEEN = 10, 26
GREY, INK, FRAME = "#BBBBBB", "#222222", "#000000"


class Panel:
    """Draws what a slider shows.

    Args:
        labels: the models' names, a column each.
        num_classes: K, the number of bars.
    """

    def __init__(self, labels, *, num_classes=10):
        self.labels, self.num_classes = list(labels), num_classes
        self.width = 2 * MARGIN + len(self.labels) * COLUMN + (len(self.labels) - 1) * BETWEEN
        spare = iter(SPARE_COLORS * len(self.labels))
        self.colors = {label: MODEL_COLORS.get(label) or next(spare) for label in self.labels}
        self._curves, self._plain = {}, None

    def set_curve(self, radii, curves, *, title=""):
        """Accuracies to draw below the images: {label: values}, one for each radius in pixel units."""
        self._radii, self._curves, self._title, self._plain = list(radii), curves, title, None

    def draw(self, x, y, x_advs, probabilities, *, eps, chosen=0):
        """The picture of n images x (n, C, H, W) of the classes y (n,), attacked at radius eps.

        Args:
            x, y: the images as they were, and their labels.
            x_advs: {label: attacked images (n, C, H, W)}.
            probabilities: {label: (n, K)}.
            eps: radius in pixel units, the end of the perturbation's colour scale.
            chosen: index of the image that is shown large.

        Returns:
            PIL.Image.Image, RGB.
        """
        rows = -(-len(x) // ACROSS)
        below = MARGIN + CAPTION + 6 + rows * (TILE + CAPTION + GAP)
        top = below + CAPTION + LARGE + 2 * CAPTION + 10
        picture = Image.new("RGB", (self.width, top + (CURVE if self._curves else 0)), "white")
        pen = ImageDraw.Draw(picture)
        for column, label in enumerate(self.labels):
            left = MARGIN + column * (COLUMN + BETWEEN)
            p = np.asarray(probabilities[label])
            predicted, x_adv = p.argmax(1), np.asarray(x_advs[label])
            right = int((predicted == np.asarray(y)).sum())
            _write(pen, (left, MARGIN), f"{label}: reads {right} of {len(y)}", self.colors[label], 14)
            for i, image in enumerate(x_adv):
                at = left + i % ACROSS * (TILE + GAP), MARGIN + CAPTION + 6 + i // ACROSS * (TILE + CAPTION + GAP)
                picture.paste(_grey(image, TILE), at)
                said = _read(int(y[i]), int(predicted[i]), p[i].max())
                _frame(pen, at, TILE, WRONG if predicted[i] != y[i] else INK if i == chosen else None)
                _write(pen, (at[0], at[1] + TILE + 1), said, WRONG if predicted[i] != y[i] else INK)
                if i == chosen:
                    pen.rectangle((at[0], at[1] + TILE + 15, at[0] + TILE - 1, at[1] + TILE + 16), fill=INK)
            self._large(picture, pen, left, below, x[chosen], x_adv[chosen], p[chosen], int(y[chosen]), eps)
        if self._curves:
            picture.paste(self._plain_curve(), (0, top))
            self._marker(pen, top, eps)
        return picture

    def _large(self, picture, pen, left, top, x, x_adv, p, y, eps):
        delta = np.asarray(x_adv - np.asarray(x)).mean(0)
        middle, bars = left + LARGE + 8, left + 2 * (LARGE + 8) + 8
        for at, words in ((left, "attacked"), (middle, f"perturbation ±{eps:.3f}"), (bars, "class probabilities")):
            _write(pen, (at, top), words, MUTED)
        picture.paste(_grey(x_adv, LARGE), (left, top + CAPTION))
        picture.paste(_signed(delta, max(eps, 1e-3), LARGE), (middle, top + CAPTION))
        _frame(pen, (middle, top + CAPTION), LARGE, GREY, width=1)
        floor, wide = top + CAPTION + LARGE, (COLUMN - 2 * (LARGE + 8) - 8) / self.num_classes
        predicted = int(p.argmax())
        for k, value in enumerate(p.tolist()):
            color = MODEL_COLORS["clean VGG"] if k == y else WRONG if k == predicted else GREY
            start, end = round(bars + k * wide) + 1, round(bars + (k + 1) * wide) - 2
            pen.rectangle((start, floor - round(value * (LARGE - 2)), max(start, end), floor), fill=color)
            if self.num_classes <= 10:
                _write(pen, ((start + end) / 2, floor + 3), str(k), INK if k in (y, predicted) else MUTED, align=0.5)
        pen.line((bars, floor + 1, bars + COLUMN - 2 * (LARGE + 8) - 8, floor + 1), MUTED)
        _write(pen, (left, floor + 3), _read(y, predicted, p.max()), WRONG if predicted != y else INK, 12)

    def _plain_curve(self):
        """The curve without its marker, drawn once: its lines at four times the size, which smooths them."""
        if self._plain is None:
            fine = Image.new("RGB", (4 * self.width, 4 * CURVE), "white")
            pen = ImageDraw.Draw(fine)
            for share in (0, 0.5, 1):
                ends = [self._at(radius, share) for radius in (0, self._radii[-1])]
                pen.line([4 * number for end in ends for number in end], "#E4E4E4", 4)
            for label, values in self._curves.items():
                points = [self._at(radius, value) for radius, value in zip(self._radii, values)]
                pen.line([4 * number for point in points for number in point], self.colors[label], 8, "curve")
            self._plain = fine.reduce(4)
            pen = ImageDraw.Draw(self._plain)
            for share in (0, 0.5, 1):
                _write(pen, (self._at(0, 0)[0] - 6, self._at(0, share)[1] - 7), f"{share:.0%}", MUTED, align=1)
            for part in range(7):
                radius = part * self._radii[-1] / 6
                _write(pen, (self._at(radius, 0)[0], self._at(0, 0)[1] + 4), f"{radius:.3g}", MUTED, align=0.5)
            _write(pen, (self._at(self._radii[-1], 0)[0], CURVE - 16), "epsilon", MUTED, align=1)
            _write(pen, (MARGIN, 0), self._title, MUTED)
            right = self.width - 24
            for label in reversed(self._curves):
                _write(pen, (right, 0), f"━ {label}", self.colors[label], align=1)
                right -= _letters(f"━ {label}", 11).width + 18
        return self._plain

    def _marker(self, pen, top, eps):
        across = self._at(eps, 0)[0]
        pen.line((across, top + self._at(0, 1)[1], across, top + self._at(0, 0)[1]), INK)
        for label, values in self._curves.items():
            level = top + self._at(0, float(np.interp(eps, self._radii, values)))[1]
            pen.ellipse((across - 4, level - 4, across + 4, level + 4), self.colors[label], "white")

    def _at(self, radius, share):
        """Where a radius and an accuracy lie on the curve."""
        left, right, low, high = MARGIN + 44, self.width - 24, CURVE - 34, 22
        return left + (right - left) * radius / self._radii[-1], low + (high - low) * share


def png(picture):
    """A picture as PNG bytes, packed lightly, as a slider sends many and keeps none.

    Without the filters that Pillow tries out on each line, it takes half of Pillow's time (6 ms in place of 12).
    """
    pixels = np.asarray(picture)
    high, wide, _ = pixels.shape
    lines = np.zeros((high, 1 + 3 * wide), dtype=np.uint8)  # the first byte of a line says that it is not filtered
    lines[:, 1:] = pixels.reshape(high, -1)
    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(lines.tobytes(), 1), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )


def _write(pen, at, words, color, size=11, align=0.0):
    """Words whose left end (align 0), middle (0.5) or right end (1) is at `at`, the top of the line."""
    mask = _letters(words, size)
    pen.bitmap((round(at[0] - align * mask.width), round(at[1])), mask, color)


@lru_cache(maxsize=4096)
def _letters(words, size):
    """Words as a mask: most of them come again, and to draw one takes longer than to place it."""
    font = _font(size)
    mask = Image.new("L", (max(1, round(font.getlength(words))), size + 6))
    ImageDraw.Draw(mask).text((0, 0), words, 255, font)
    return mask


def _read(y, predicted, p):
    return f"{'✗ ' if predicted != y else ''}{y} → {predicted} ({p:.2f})"


def _frame(pen, at, side, color, width=3):
    if color:
        pen.rectangle((at[0], at[1], at[0] + side - 1, at[1] + side - 1), outline=color, width=width)


def _grey(image, side):
    """An image (C, H, W) in [0, 1], one or three channels, as a square picture."""
    levels = (np.asarray(image) * 255).round().astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))
    return picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def _signed(values, limit, side):
    """Values (H, W) on the diverging scale from -limit, blue, to limit, red."""
    index = np.clip(np.round((values / limit + 1) * 127.5), 0, 255).astype(np.uint8)
    return Image.fromarray(_diverging()[index]).resize((side, side), Image.Resampling.NEAREST)


@cache
def _diverging():
    return (matplotlib.colormaps["RdBu_r"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@cache
def _font(size):
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
