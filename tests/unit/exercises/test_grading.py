"""Ten made submissions: what each of them earns, and what none of them can do."""

import ast
import json
import re
import time

import exercises as tool
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from advutils.cli import main
from advutils.exercises.check import EXERCISES
from advutils.exercises.framework import Prediction
from advutils.exercises.grading import Process, grade, graded

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


WORKED_OUT = [
    "(100 / 5)", "(answer=20)", "(percent(PART))", "(math.sqrt(400))", "(np.float32(20))", "(steps * 1)",
    "(21); check.NAME(20)",
]  # fmt: skip
NO_ANSWERS = {
    "(accuracy(model))": "name 'accuracy' is not defined",
    "(10**400)": "too large",
    "([20])": "accepts a number",
    "({[1]: 2})": "unhashable",
    "(exit())": "SystemExit",
    "(20, 30)": "no answer yet",
}


def test_an_answer_may_be_worked_out_and_one_that_is_none_is_told():
    names = "import math\nimport numpy as np\n\nPART: float = 0.2\n\n\ndef percent(share):\n    return 100 * share"
    twenty = {f"asked_{n}": Prediction(f"asked_{n}", 0, lambda: 20.0, 0.1, {}, "") for n in range(13)}
    cells = [f"check.{name}{given}".replace("NAME", name) for name, given in zip(twenty, [*WORKED_OUT, *NO_ANSWERS])]
    with Process([names, "steps = 4\nsteps *= 5", *cells], 60, list(twenty)) as process:
        found = [graded(one, process, ..., range(1, 2)) for one in twenty.values()]
    assert all(outcome.right for outcome in found[: len(WORKED_OUT)]), found
    for outcome, words in zip(found[len(WORKED_OUT) :], NO_ANSWERS.values(), strict=True):
        assert words in outcome.note, outcome


def test_a_name_is_what_it_was_at_the_answer_and_an_odd_line_costs_nothing(submission):
    here, other = "answer = 10 + 10\ncheck.small_steps(answer)", "answer = 7\nother.method({[1]: 2})"
    assert grade(submission(here, other))["points"] == 1


def test_what_numpy_gives_counts_as_in_the_notebook(submission):
    made = """import numpy as np


def my_worse_of_two(model, x, y, first_attack, second_attack, eps):
    read = [(model(attack(model, x, y, eps=eps)).argmax(1) == y).numpy() for attack in (first_attack, second_attack)]
    return np.mean(np.logical_and(*read))


def my_project(x_adv, x, eps):
    return np.clip(x_adv.numpy(), x.numpy() - eps, x.numpy() + eps)


def several(x):
    return np.array([x, x])[::-1], np.float32(x), np.bool_(x), x
"""
    rows = grade(submission(made))["exercises"]
    assert rows["worse_of_two"]["points"] == 1 and "gives back a ndarray" in str(rows["project"])  # as in the notebook
    with Process([made], 60) as process:
        results = process.function("several")(2.5)
    assert [type(one).__name__ for one in results] == ["ndarray", "float32", "bool", "float"]


def test_an_error_of_pytorch_is_no_stub_and_a_number_too_large_ends_nothing(submission):
    share = "def my_worse_of_two(model, x, y, *_):\n    return (model(x).argmax(1) == y).mean()"
    large = "def my_project(x_adv, x, eps):\n    return 10**400"
    found = grade(submission(share, large, SOLVED["pgd"]))
    assert found["points"] == 1 and "NotImplementedError: mean()" in found["exercises"]["worse_of_two"]["note"]


def test_definitions_are_kept_and_a_cell_that_is_no_python_is_named(submission):
    names = "LOW, HIGH = 0, 1\nSIGN = -1.0\nSTEP: float = 1 / 1\nlowest = lambda x: x.clamp(min=LOW)"
    project = """def my_project(x_adv, x, eps):
    near = torch.clamp(x_adv, min=x + SIGN * eps, max=x - SIGN * eps)
    return STEP * lowest(near).clamp(max=HIGH)
"""
    help_and_shell = f"%%time\n{SOLVED['pgd']}\nmy_pgd?\nfiles = !ls"
    ends = "class Ends:\n    raise SystemExit"
    remainder = SOLVED["random_start"].replace("(2 * u - 1)", "(2 * u - (9\n    % 2))")
    assert "% 2" in remainder
    rows = grade(submission(names, project, help_and_shell, ends, remainder, SOLVED["worse_of_two"] + "\nprint 1"))
    rows = rows["exercises"]
    assert [name for name, row in rows.items() if row["points"]] == ["project", "random_start", "pgd"], rows
    assert re.search(r"cannot be read: .*\(cell 7, line \d+\)", rows["worse_of_two"]["note"])


def definitions(here):
    """A source file's imports and functions as a submission has them, their names with the notebook's number."""
    tree = ast.parse(here.source.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom)]
    functions = [node for node in kept if isinstance(node, ast.FunctionDef)]
    for node in functions:
        node.decorator_list = []
    code = "\n".join(ast.unparse(node) for node in kept if getattr(node, "module", "") != "exercises")
    names = "|".join(node.name for node in functions)
    return re.sub(rf"\b({names})\b", rf"\1_{here.path.name[:2]}", code)


def test_the_grader_passes_the_solutions_and_refuses_each_mistake():
    sources = tool.sources()
    with Process([definitions(here) for here in sources], 60) as process:
        for here in sources:
            for one in (one for one in here.of_checks.values() if one.kind == "write"):
                for function in (one.function, *(wrong for wrong, _ in one.mistakes)):
                    name = f"{function.__name__}_{here.path.name[:2]}"
                    assert name in process.names
                    process.restart_clock()
                    outcome = EXERCISES[one.name].run(process.function(name), 11)
                    assert outcome.right == (function is one.function), (one.name, name, outcome)


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
    with pytest.raises(SystemExit, match="seed: got 0; accepts"):
        main(["grade", str(submission()), "--seed", "0"])
    with pytest.raises(SystemExit, match="submission: got .*no.ipynb', where there is no file"):
        main(["grade", str(tmp_path / "no.ipynb")])
    for content, reason in (("[]", "TypeError"), ('{"cells": [', "Expecting value"), ("\xff", "codec can't decode")):
        (tmp_path / "no.ipynb").write_bytes(content.encode("latin-1"))
        with pytest.raises(SystemExit, match=f"{reason}.*accepts a notebook"):
            main(["grade", str(tmp_path / "no.ipynb")])


def test_what_other_programs_save_is_read_and_half_a_character_printed(submission, capsys):
    path = submission('def my_project(x_adv, x, eps):\n    raise ValueError("\\ud83d")')
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cells"].insert(0, dict(cell_type="markdown", metadata={}))
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    main(["grade", str(path)])
    assert "ValueError: \ud83d" in json.loads(capsys.readouterr().out)["exercises"]["project"]["note"]
