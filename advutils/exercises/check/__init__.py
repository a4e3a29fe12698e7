"""`check.NAME(mine)` answers the exercise of that name: `from advutils.exercises import check`."""

import difflib

from advutils.exercises.check import (
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
    notebook_08,
    notebook_09,
    notebook_10,
    notebook_11,
    notebook_12,
    notebook_13,
    notebook_15,
)
from advutils.exercises.check.notebook_13 import bugs_found as bugs_found
from advutils.exercises.framework import Choice, Exercise, Prediction

MODULES = (
    notebook_01, notebook_02, notebook_03, notebook_04, notebook_05, notebook_06, notebook_07, notebook_08, notebook_09,
    notebook_10, notebook_11, notebook_12, notebook_13, notebook_15,
)  # fmt: skip
EXERCISES = {
    value.name: value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, (Exercise, Prediction, Choice))
}


def __getattr__(name):
    if name in EXERCISES:
        return EXERCISES[name]
    near = difflib.get_close_matches(name, EXERCISES, 3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise AttributeError(f"there is no exercise {name!r}{hint}")


def __dir__():
    return sorted(EXERCISES)
