"""The rooms of the package: imports only point downwards, and what is heavy waits until it is needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import advutils

PACKAGE = Path(advutils.__file__).parent
ROOMS = {
    "widgets": {"panel", "plots", "evaluation", "attacks", "models", "checks", "data"},
    "panel": {"plots"},
    "parameters": {"checks", "data", "models"},
    "checklist": {"evaluation", "attacks", "models", "data", "checks"},
    "__main__": {"commands"},
    "commands": {
        "results",
        "trained",
        "training",
        "objectives",
        "evaluation",
        "attacks",
        "files",
        "processes",
        "models",
        "data",
        "checks",
    },
    "results": {"trained", "evaluation", "processes", "models", "data", "attacks", "plots"},
    "trained": {"training", "objectives", "processes", "models", "data", "checks", "attacks"},
    "training": {"objectives", "evaluation", "processes", "models", "checks"},
    "objectives": {"attacks", "models", "checks"},
    "evaluation": {"attacks", "processes", "models", "checks"},
    "attacks": {"models", "checks"},
    "files": {"data", "models", "checks"},
    "processes": set(),
    "plots": set(),
    "models": {"checks"},
    "data": {"checks"},
    "predictions": set(),
    "measurements": set(),
    "checks": set(),
}


def imported(source):
    """The modules of this package that a module's text imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "advutils"}
        elif isinstance(node, ast.ImportFrom):
            whole = ["advutils"] * bool(node.level) + [node.module] * bool(node.module)
            if whole and whole[0].split(".")[0] == "advutils":
                base = ".".join(whole)
                found |= {base} if base != "advutils" else {f"advutils.{alias.name}" for alias in node.names}
    return {name.removeprefix("advutils.") for name in found}


def test_every_way_to_import_is_noticed():
    source = """
import advutils.plots as p
from advutils import checks
from advutils.models import vgg
from . import data
from .attacks import fgsm
def late():
    import advutils.training
import torch
from advutilsx import nothing
"""
    assert imported(source) == {"plots", "checks", "models", "data", "attacks", "training"}


def test_every_module_has_its_room():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_only_point_downwards(room):
    path = PACKAGE / f"{room}.py"
    if path.exists():
        assert imported(path.read_text(encoding="utf-8")) <= ROOMS[room]


def test_the_rooms_themselves_form_no_circle():
    left = dict(ROOMS)
    while left:
        bottom = [room for room in left if not left[room] & left.keys()]
        assert bottom, f"a circle among {sorted(left)}"
        left = {room: below for room, below in left.items() if room not in bottom}


def test_every_public_name_is_there():
    assert len(set(advutils.__all__)) == len(advutils.__all__)
    for name in advutils.__all__:
        assert callable(getattr(advutils, name)), name
    fixed = """load_data split make_loader vgg small_cnn input_gradient fgsm pgd predict accuracy accuracy_vs_eps fit
        save_weights load_weights trained worst_case"""
    assert set(fixed.split()) <= set(advutils.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(advutils, "nonsense")  # noqa: B009


HEAVY = ("matplotlib", "ipywidgets", "IPython", "pandas", "sklearn")
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
STARTED = f"""
import resource, sys, torch, advutils
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, [n for n in {HEAVY} if n in sys.modules])
"""


def start(**setting):
    """A program that imports the package, with no setting of the user's own but this one."""
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"} | setting
    return subprocess.Popen([sys.executable, "-c", STARTED], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def programs():
    """What two programs say: how many page faults a large tensor takes, and what heavy modules were loaded."""
    started = [start(), start(THP_MEM_ALLOC_ENABLE="0")]
    said = [program.communicate(timeout=300)[0].split(maxsplit=1) for program in started]
    assert [program.returncode for program in started] == [0, 0]
    return [(int(faults), loaded.strip()) for faults, loaded in said]


@pytest.mark.integration
def test_importing_the_package_loads_neither_matplotlib_nor_ipywidgets(programs):
    assert [loaded for _, loaded in programs] == ["[]", "[]"]


@pytest.mark.integration
@pytest.mark.skipif(not HUGE.exists() or "[madvise]" not in HUGE.read_text(), reason="no large pages on request")
def test_memory_comes_in_large_pages_unless_the_user_said_otherwise(programs):
    (faults, _), (otherwise, _) = programs
    assert faults < otherwise / 2
