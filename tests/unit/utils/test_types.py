"""Type hints on the public surface, and a type checker that finds nothing wrong."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import advutils

CALLABLES = [getattr(advutils, name) for name in advutils.__all__]
FUNCTIONS = [value for value in CALLABLES if inspect.isfunction(value)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_public_function_says_its_types(function):
    signature = inspect.signature(function)
    untyped = [name for name, one in signature.parameters.items() if one.annotation is inspect.Parameter.empty]
    assert not untyped and signature.return_annotation is not inspect.Signature.empty


@pytest.mark.integration
def test_the_type_checker_finds_nothing():
    command = [sys.executable, "-m", "mypy", "--no-incremental"]
    done = subprocess.run(command, cwd=Path(advutils.__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (Path(advutils.__file__).parent / "py.typed").exists()
