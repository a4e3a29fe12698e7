"""The parameters of a notebook, checked before anything is computed: papermill hands over what was typed, as text."""

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from advutils.data import DATASETS
from advutils.models import VGG_BLOCKS
from advutils.utils import validation


def check_parameters(names: dict[str, Any]) -> None:
    """Check the parameters of a notebook and turn text into numbers, in place: "8/255" becomes 0.0314.

    Args:
        names: `globals()` of the notebook. Those that no notebook has as a parameter are left alone.

    Raises:
        TypeError, ValueError: a parameter that cannot be; the message names it, what it got and what it accepts.
    """
    for name in names.keys() & RULES.keys():
        names[name] = RULES[name](_number(names[name]), name)


def _number(value):
    """What the text means in Python, where it means something: 3, 0.1 or [0, 1]; anything else as it is."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _radius(value, name):
    return validation.eps(validation.typed(value, name) if isinstance(value, str) else value, name)


def _radius_or_none(value, name):
    return None if value is None else _radius(value, name)


def _radii(value, name):
    values = value.strip().strip("[]").split(",") if isinstance(value, str) else value
    return [_radius(one, name) for one in validation.radii(values, name)]


def _photo(value, name):
    if value is not None and not Path(str(value)).is_file():
        raise FileNotFoundError(f"{name}: got {value!r}, where there is no file; accepts None or an image file")
    return value


RULES: dict[str, Callable] = {
    "dataset": partial(validation.one_of, choices=DATASETS),
    "depth": partial(validation.one_of, choices=VGG_BLOCKS),
    "weights": partial(validation.one_of, choices=("series", "imagenet")),
    "eps": _radius_or_none,
    "eps_values": _radii,
    "average": validation.share,
    "photo": _photo,
    "quality": partial(validation.count, most=95),
}
RULES |= dict.fromkeys(("width", "contrast", "flops_per_second", "bytes_per_second"), validation.positive)
RULES |= dict.fromkeys(("seed", "cnn_seed"), partial(validation.count, least=0))
EPOCHS = ("epochs", "own_epochs", "defence_epochs")
COUNTS = ("passes", "n", "queries", "images", "batch", "threads", "steps", "handful")
RULES |= dict.fromkeys(EPOCHS + COUNTS, validation.count)
