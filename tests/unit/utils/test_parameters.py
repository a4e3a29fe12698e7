"""A notebook's parameters, as papermill hands them over: checked at once, and turned into numbers."""

import ast
import json
import time
from pathlib import Path

import pytest
from helpers import refused

from advutils import check_parameters
from advutils.utils.parameters import RULES

NOTEBOOKS = sorted((Path(__file__).resolve().parents[3] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def code(request):
    """The sources of a notebook's parameters cell and of the code cell after it."""
    cells = [cell for cell in json.loads(request.param.read_text())["cells"] if cell["cell_type"] == "code"]
    at = next(n for n, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    return tuple("".join(cells[at + step]["source"]) for step in (0, 1))


def test_the_cell_after_the_parameters_begins_by_checking_them_all(code):
    first = ast.parse(code[1]).body[0]
    assert ast.unparse(first) == "check_parameters(globals())"
    targets = [target for line in ast.parse(code[0]).body for target in line.targets]
    names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    assert names and names <= RULES.keys()


def test_the_parameters_that_stand_there_are_left_and_bad_ones_refused_by_name_in_no_time(code):
    names = {}
    exec(code[0], names)
    before = dict(names)
    check_parameters(names)
    assert names == before
    for name in names.keys() & RULES.keys():
        started = time.monotonic()
        with pytest.raises((TypeError, ValueError, OSError), match=f"^{name}: got .*; accepts "):
            check_parameters(names | {name: "eight"})
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("name, typed, value", [
    ("eps", "8/255", 8 / 255), ("eps", "0.1", 0.1), ("eps", 1, 1.0), ("eps", "None", None),
    ("eps_values", "[0, 8/255, 0.1]", [0, 8 / 255, 0.1]), ("eps_values", [0, "8/255"], [0, 8 / 255]),
    ("epochs", "3", 3), ("seed", "0", 0), ("depth", "16", 16), ("width", "0.5", 0.5), ("average", "0.99", 0.99),
    ("flops_per_second", "100e12", 1e14), ("dataset", "mnist", "mnist"),
])  # fmt: skip
def test_what_is_typed_becomes_what_is_meant(name, typed, value):
    names = {name: typed, "another": typed}
    check_parameters(names)
    assert names == {name: value, "another": typed}


@pytest.mark.parametrize("name, typed, fragment", [
    ("eps", "8", "8/255"), ("eps", "8/0", "a fraction"), ("eps_values", "", "a number"), ("eps_values", 0.1, "a list"),
    ("epochs", "2.5", "whole number"), ("depth", "12", "11, 13, 16, 19"), ("dataset", "svhn", "mnist-5k"),
    ("quality", "96", "1 to 95"), ("seed", -1, "at least 0"),
])  # fmt: skip
def test_what_cannot_be_is_refused(name, typed, fragment):
    with refused(name, fragment):
        check_parameters({name: typed})
