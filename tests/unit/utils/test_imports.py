"""The package as a house: imports point downwards, heavy ones wait, public functions say their types."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import count_lines
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
        assert name in ("advutils", "advutils.utils", "advutils.exercises") or above & set(placed), (
            f"{name} has no layer in pyproject.toml"
        )
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=PACKAGE.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_documented_argument_is_one():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                listed = re.search(r"^Args:\n((?:    .*\n|\n)*)", f"{ast.get_docstring(node)}\n", re.MULTILINE)
                told = re.findall(r"^    (\S[^:\n]*?):", listed[1] if listed else "", re.MULTILINE)
                taken = {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
                fields = [one.target for one in ast.iter_child_nodes(node) if isinstance(one, ast.AnnAssign)]
                taken |= {one.id for one in fields if isinstance(one, ast.Name)}  # of a dataclass
                assert {name.strip(" *") for names in told for name in names.split(",")} <= taken, (path, node.name)


def test_lines_of_code_are_counted_without_what_is_said_about_them(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(
        '"""Two\nlines."""\n\n# a comment\nx = """two\nlines"""\n\n\ndef f():\n    """One."""\n    return [\n    ]\n'
    )
    lines, (function,) = count_lines.code_lines(path)
    assert lines == {5, 6, 9, 11, 12} and function.name == "f"


def test_the_core_can_be_held_in_the_head():
    files, long = count_lines.counted()
    assert 0 < sum(lines for name, lines in files.items() if count_lines.in_core(name)) <= 900
    assert all(int(line.split()[-2]) <= 50 for line in long), long


def test_every_public_name_is_there():
    assert len(set(advutils.__all__)) == len(advutils.__all__)
    for name in advutils.__all__:
        assert callable(getattr(advutils, name)), name
    fixed = """load_data split make_loader vgg small_cnn input_gradient fgsm pgd predict accuracy accuracy_vs_eps fit
        save_weights load_weights trained worst_case"""
    assert set(fixed.split()) <= set(advutils.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(advutils, "nonsense")  # noqa: B009


FUNCTIONS = [value for value in map(vars(advutils).get, advutils.__all__) if inspect.isfunction(value)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_public_function_says_its_types(function):
    signature = inspect.signature(function)
    untyped = [name for name, one in signature.parameters.items() if one.annotation is inspect.Parameter.empty]
    assert not untyped and signature.return_annotation is not inspect.Signature.empty


def test_the_package_says_that_it_has_types():
    assert (Path(advutils.__file__).parent / "py.typed").exists()


@pytest.mark.integration
def test_importing_the_package_loads_neither_matplotlib_nor_ipywidgets():
    heavy = ("matplotlib", "ipywidgets", "IPython", "pandas", "sklearn")
    program = f"import sys, advutils; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=300)
    assert said.stdout.strip() == "[]"
