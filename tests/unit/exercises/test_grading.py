"""Ten made submissions: what each of them earns, and what none of them can do."""

import json
import time

import exercises as tool
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from advutils.cli import main
from advutils.exercises.grading import grade

pytestmark = pytest.mark.integration
HERE = next(here for here in tool.sources() if here.path.name.startswith("05"))
SOLVED = {name: one.solution for name, one in HERE.of_checks.items()}
OF = len(SOLVED)
IMPORTS = "import torch\nfrom advutils import input_gradient"


@pytest.fixture
def submission(tmp_path):
    def made(*cells, title="# 5 · Attack it again"):
        path = tmp_path / "submission.ipynb"
        code = [new_code_cell(source) for source in (IMPORTS, *cells)]
        nbformat.write(new_notebook(cells=[new_markdown_cell(title), *code]), path)
        return path

    return made


def test_a_right_one_earns_every_point_whatever_else_it_holds(submission):
    other = "%matplotlib inline\nraise SystemExit", "this is no python", "while True:\n    pass"
    found = grade(submission(*SOLVED.values(), *other))
    assert found["points"] == found["of"] == OF and found["not_guaranteed"]
    json.dumps(found)


def test_half_of_it_earns_half_and_a_stub_is_named(submission):
    some = dict(list(SOLVED.items())[:2])
    stub = HERE.exercises["pgd"].stub
    found = grade(submission(*some.values(), stub))
    assert found["points"] == 2 and {name for name, row in found["exercises"].items() if row["points"]} == some.keys()
    assert "not written yet" in found["exercises"]["pgd"]["note"]
    assert found["exercises"]["random_start"]["note"] == "not in the submission"


def test_a_wrong_one_earns_nothing_and_its_symptoms_are_in_the_report(submission):
    wrong = "def my_project(x_adv, x, eps):\n    return x_adv.clamp(0, 1)"
    found = grade(submission(wrong, "check.small_steps(100)"))
    assert found["points"] == 0
    (symptom,) = [text for text in found["exercises"]["project"]["failed"].values() if "away from the image" in text]
    assert symptom and found["exercises"]["small_steps"]["failed"]


def test_a_number_without_end_costs_one_exercise(submission):
    huge = "def my_worse_of_two(*args):\n    return 10**400"
    found = grade(submission(huge, SOLVED["project"], f"check.small_steps(1{400 * '0'})"))
    assert found["points"] == 1 and found["exercises"]["worse_of_two"]["failed"]
    assert "too large" in found["exercises"]["small_steps"]["note"]


def test_a_crash_costs_one_exercise(submission):
    crash = "import os\n\n\ndef my_project(x_adv, x, eps):\n    os._exit(0)"
    error = "def my_random_start(x, eps, generator):\n    return x + nothing"
    leave = "def my_worse_of_two(*args):\n    raise SystemExit(0)"
    found = grade(submission(crash, error, leave, SOLVED["pgd"]))
    notes = {name: row["note"] for name, row in found["exercises"].items()}
    assert found["points"] == 1 and "ended in the middle of the call" in notes["project"]
    assert "NameError" in notes["random_start"] and "return x + nothing" in notes["random_start"]
    assert "SystemExit" in notes["worse_of_two"]


def test_an_endless_one_is_ended_and_the_others_are_graded(submission):
    endless = "def my_project(x_adv, x, eps):\n    while True:\n        pass"
    start = time.monotonic()
    found = grade(submission(endless, SOLVED["pgd"]), seconds=5)
    assert found["points"] == 1 and "time limit" in found["exercises"]["project"]["note"]
    assert time.monotonic() - start < 300


def test_it_cannot_patch_the_tests_or_print_its_points(submission, capfd):
    patch = """import advutils.exercises.framework as framework
from advutils.exercises.framework import Exercise, Outcome


class Patch:
    Exercise.run = lambda self, mine, seed=0: Outcome(["all"], {}, "")
    framework.expect = lambda *_: None
    torch.equal = lambda *_: True
    torch.Tensor.__lt__ = torch.Tensor.__le__ = lambda *_: torch.tensor(True)
    print('{"points": 5}')
"""
    wrong = "def my_project(x_adv, x, eps):\n    print('{\"points\": 5}')\n    return x_adv"
    found = grade(submission(patch, wrong))
    assert found["points"] == 0 and "points" not in capfd.readouterr().out


def test_a_result_that_agrees_with_everything_is_only_a_word(submission):
    agrees = """class Agrees(torch.Tensor):
    def __eq__(self, other):
        return True

    def __sub__(self, other):
        return torch.zeros(())


class Yes(float):
    def __le__(self, other):
        return True


def my_project(x_adv, x, eps):
    return x_adv.as_subclass(Agrees)


def my_worse_of_two(*args):
    return Yes(0.5)
"""
    assert grade(submission(agrees))["points"] == 0


def test_one_that_knows_the_learners_data_by_heart_fails_on_other_data(submission):
    by_heart = """SEEN = {}


def my_worse_of_two(model, x, y, first, second, eps):
    return {12: 0.25, 13: 3 / 13}.get(len(x), 0.3)
"""
    assert grade(submission(by_heart), seed=2)["points"] == 0


def test_a_forged_answer_is_no_answer(submission):
    forged = """import pickle, gc
from multiprocessing.connection import Connection


class Boom:
    def __reduce__(self):
        return (print, ("forged",))


def my_project(x_adv, x, eps):
    for one in gc.get_objects():
        if isinstance(one, Connection):
            one.send_bytes(pickle.dumps(Boom()))
    return x
"""
    found = grade(submission(forged, SOLVED["pgd"]))
    assert "no answer" in found["exercises"]["project"]["note"] and found["points"] == 1


def test_definitions_that_never_end_leave_no_function(submission, monkeypatch):
    monkeypatch.setattr("advutils.exercises.grading.START_SECONDS", 15)
    endless = "class Endless:\n    while True:\n        pass"
    found = grade(submission(endless, *SOLVED.values()), seconds=5)
    assert found["points"] == 1  # the prediction, which is no call


def test_the_command_prints_json_and_nothing_else(submission, tmp_path, capsys):
    main(["grade", str(submission(SOLVED["project"])), "--seed", "3", "--out", str(tmp_path / "points.json")])
    printed = capsys.readouterr().out
    assert (
        json.loads(printed) == json.loads((tmp_path / "points.json").read_text()) and json.loads(printed)["seed"] == 3
    )
    with pytest.raises(SystemExit, match="--notebook N"):
        main(["grade", str(submission(title="Mine"))])
    with pytest.raises(SystemExit, match="accepts one of"):
        main(["grade", str(submission()), "--notebook", "99"])
    (tmp_path / "no.ipynb").write_text("[]")
    with pytest.raises(SystemExit, match="accepts a notebook"):
        main(["grade", str(tmp_path / "no.ipynb")])
