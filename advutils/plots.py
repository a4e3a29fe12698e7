"""Figures: data in, figure out. Nothing here runs a model or calls show.

One colour per model and one line style per attack through the whole series; errors are marked by more than colour.
"""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

MODEL_COLORS = {  # Okabe and Ito's palette, told apart by colour-blind readers too
    "clean VGG": "#0072B2",
    "small CNN": "#E69F00",
    "defended VGG": "#009E73",
}
ATTACK_LINES = {"FGSM": "-", "PGD": "--", "noise": ":", "worst case": "-."}
ATTACK_MARKERS = {"FGSM": "o", "PGD": "s", "noise": "^", "worst case": "D"}
SPARE_COLORS = ("#56B4E9", "#D55E00", "#000000", "#CC79A7")
ARM_COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#000000")
WRONG, MUTED, PROVED = "#D55E00", "#666666", "#009E73"


def style(label):
    """Colour and line style of a curve whose label names a model, an attack, or both ("clean VGG, PGD")."""
    colors = [color for name, color in MODEL_COLORS.items() if name in label]
    lines = [line for name, line in ATTACK_LINES.items() if name in label]
    return dict(color=colors[0] if colors else None, linestyle=lines[0] if lines else "-")


def curves(*histories, labels=None):
    """Loss (left) and accuracy (right) of one `History` or several, an epoch a point: training dashed.

    `labels` holds a text for each history; None for no texts.
    """
    labels = [""] * len(histories) if labels is None else labels
    if len(labels) != len(histories):
        raise ValueError(f"labels: got {len(labels)}; accepts {len(histories)}, one for each history")
    colors = cycle((MODEL_COLORS["clean VGG"], *SPARE_COLORS[1:]))
    fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    longest = max(len(history.val_loss) for history in histories)
    for label, history, color in zip(labels, histories, colors):
        epochs = range(1, len(history.val_loss) + 1)
        for ax, what in zip(axes, ("loss", "accuracy")):
            train, val = (getattr(history, f"{side}_{what}") for side in ("train", "val"))
            muted = MUTED if len(histories) == 1 else color
            ax.plot(epochs, train, "o--", color=muted, markersize=4, label=f"{label} training".strip())
            ax.plot(epochs, val, "o-", color=color, markersize=4, label=f"{label} validation".strip())
    for ax, what in zip(axes, ("loss", "accuracy")):
        ax.set(xlabel="epoch", title=what, xticks=range(1, longest + 1))
    axes[1].legend(frameon=False, fontsize=8)
    axes[0].set_yscale("log")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _finish(fig)


def gallery(images, titles=None, *, rows=None, wrong=None, columns=5):
    """A grid of images (N, C, H, W) in [0, 1], filled row by row.

    Args:
        images: at most rows x columns of them; `None` in a list leaves a cell empty.
        titles: a text over each image.
        rows: a label for each row, shown at its left.
        wrong: a bool for each image; a misclassified one gets a frame and a cross in its title.
        columns: images in a row.
    """
    n = len(images)
    fig, axes = _grid(n, columns, 1.35, 1.5)
    for i, ax in enumerate(axes.flat):
        if i >= n or images[i] is None:
            ax.axis("off")
        else:
            _image(ax, images[i])
            bad = wrong is not None and bool(wrong[i])
            if titles is not None:
                ax.set_title(("✗ " if bad else "") + titles[i], fontsize=8, color=WRONG if bad else "black")
            _frame(ax, bad)
        if rows is not None and i % columns == 0:
            ax.axis("on")
            ax.set_ylabel(rows[i // columns], fontsize=9)
    return fig


def equation(x, delta, x_adv, titles, *, scale):
    """x + delta = x_adv as three pictures a row: images (N, C, H, W), the perturbation times `scale` for the eye.

    `titles` holds a pair of texts for each row, over the clean and over the adversarial image.
    """
    fig, axes = _grid(3 * len(x), 3, 1.8, 1.9)
    for i, row in enumerate(axes):
        _image(row[0], x[i])
        _signed(row[1], delta[i] * scale)
        _image(row[2], x_adv[i])
        for ax, title in zip(row, (titles[i][0], f"perturbation × {scale:g}", titles[i][1])):
            ax.set_title(title, fontsize=9)
    return fig


def signed(maps, titles, *, columns=5):
    """Signed maps (N, C, H, W) on one diverging scale, symmetric about zero, the same for all."""
    fig, axes = _grid(len(maps), columns, 1.5, 1.75)
    limit = float(max(abs(m).max() for m in maps)) or 1.0
    for ax in axes.flat:
        ax.axis("off")
    for ax, values, title in zip(axes.flat, maps, titles):
        picture = _signed(ax, values, limit)
        ax.set_title(title, fontsize=8)
    fig.colorbar(picture, ax=axes, shrink=0.8)
    return fig


def sweep(eps_values, results, *, floor=None, trained_at=None, apart=0.0):
    """Accuracy against epsilon: a curve with Wilson intervals for each label of `results`.

    Args:
        eps_values: radii in pixel units.
        results: {label: list of Accuracy, one for each eps}; a label names its model and attack ("clean VGG, PGD").
        floor: share of the most frequent class, drawn as a line.
        trained_at: the radius that a defence was trained for, drawn as a line.
        apart: how far beside each other the intervals of one radius stand, in pixel units; the points stay in place.
    """
    fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    spare = iter(SPARE_COLORS * 5)
    for number, (label, records) in enumerate(results.items()):
        value, low, high = (np.array([getattr(r, part) for r in records]) for part in ("value", "low", "high"))
        bars = np.clip([value - low, high - value], 0, 1)
        look = style(label)
        look["color"] = look["color"] or next(spare)
        look["marker"] = next((marker for name, marker in ATTACK_MARKERS.items() if name in label), "o")
        beside = np.asarray(eps_values) + apart * (number - (len(results) - 1) / 2)
        ax.errorbar(beside, value, bars, markersize=5, capsize=3, label=label, **look)[0].set_xdata(eps_values)
    if floor is not None:
        ax.axhline(floor, color=MUTED, linewidth=1)
        ax.annotate("always the same class", (eps_values[0], floor), va="bottom", fontsize=8, color=MUTED)
    if trained_at is not None:
        ax.axvline(trained_at, color=MUTED, linewidth=1, linestyle=(0, (1, 3)))
        ax.annotate(" trained for", (trained_at, 1.02), fontsize=8, color=MUTED)
    ax.set(xlabel="epsilon (pixel units)", ylabel="accuracy", xticks=eps_values, ylim=(-0.03, 1.08))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    fig.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _finish(fig)


def lines(x, series, *, xlabel, ylabel, percent=False, styles=None):
    """One or more curves over common x values: {label: values}, coloured by the model that the label names."""
    fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    spare = iter(SPARE_COLORS * 5)
    for label, values in series.items():
        look = style(label) | (styles or {}).get(label, {})
        look["color"] = look["color"] or next(spare)
        ax.plot(x, values, label=label, **look)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(frameon=False, fontsize=9)
    return _finish(fig)


def surface(x, y, height, marks, *, xlabel, ylabel, limit=None):
    """A signed quantity over a plane, red below zero and blue above, with the zero line drawn: height[row of y, x].

    `marks` is {label: (x, y)}, points drawn on it; `limit` is the end of the colour scale, the largest value if None.
    """
    fig, ax = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    height = np.asarray(height)
    limit = limit or float(abs(height).max()) or 1.0
    picture = ax.pcolormesh(x, y, height, cmap="RdBu", vmin=-limit, vmax=limit, shading="nearest", rasterized=True)
    if height.min() < 0 < height.max():
        ax.contour(x, y, height, levels=[0], colors="black", linewidths=1.5)
    for label, at in marks.items():
        ax.plot(*at, "o", color="black", markersize=5, markeredgecolor="white")
        readable = dict(fontsize=9, weight="bold", path_effects=[withStroke(linewidth=3, foreground="white")])
        ax.annotate(label, at, xytext=(5, 5), textcoords="offset points", **readable)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    fig.colorbar(picture, ax=ax, label="margin; below 0 the network is fooled")
    return fig


def units(eps):
    """One radius in the three units that tutorials use."""
    return f"epsilon = {eps:.3f} of the pixel range = {255 * eps:.1f}/255 = {2 * eps:.3f} on inputs in [-1, 1]"


def _grid(n, columns, width, height):
    """A figure of n cells or a few more, each so many inches wide and high, with `columns` of them in a row."""
    rows = -(-n // columns)
    size, bare = (width * columns, height * rows), dict(xticks=[], yticks=[])
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, subplot_kw=bare)


def _image(ax, image):
    return ax.imshow(_hwc(image), cmap="gray", vmin=0, vmax=1)


def _signed(ax, values, limit=1.0):
    return ax.imshow(np.asarray(values).mean(0), cmap="RdBu_r", vmin=-limit, vmax=limit)


def _hwc(image):
    image = np.asarray(image)
    return image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)


def _frame(ax, wrong):
    for spine in ax.spines.values():
        spine.set(edgecolor=WRONG if wrong else "#BBBBBB", linewidth=2 if wrong else 0.8)


def _finish(fig):
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return fig
