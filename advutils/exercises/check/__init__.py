"""`check.NAME(mine)` answers the exercise of that name: `from advutils.exercises import check`."""

import difflib
import importlib
import pkgutil

from advutils.exercises.check.notebook_13 import bugs_found as bugs_found
from advutils.exercises.framework import Choice, Exercise, Prediction

MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
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
