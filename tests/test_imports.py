"""The rooms of the package: imports only point downwards, and what is heavy waits until it is needed."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import advutils

PACKAGE = Path(advutils.__file__).parent


def test_imports_only_point_downwards():
    """The layers are those of pyproject.toml, where every module has its place."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"])
    placed = [name for layer in layers for name in layer.split(" | ")]
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        parts = name.split(".")
        above = {".".join(parts[: i + 1]) for i in range(1, len(parts))}
        assert name in ("advutils", "advutils.utils") or above & set(placed), f"{name} has no layer in pyproject.toml"
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=PACKAGE.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


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
