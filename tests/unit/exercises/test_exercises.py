"""Every exercise: its stub is told so kindly, its solution passes, its common mistakes each get their own words."""

import ast
from pathlib import Path

import exercises as tool
import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell
from torch.nn.functional import cross_entropy

from advutils import input_gradient, load_data, predict, trained
from advutils.exercises import check
from advutils.exercises.check import EXERCISES
from advutils.exercises.framework import NOT_WRITTEN, Choice, Exercise, expect

SOURCES = tool.sources()
NOTEBOOKS = {here.path.name: here for here in SOURCES}
ALL = [one for here in SOURCES for one in here.of_checks.values()]
WRITTEN = {one.name: one for one in ALL if one.kind == "write"}
PREDICTED = {one.name: one for one in ALL if one.kind == "predict"}
SEEDS = (0, 1, 7)  # 0 is what a learner's own check uses

each_notebook = pytest.mark.parametrize("here", SOURCES, ids=NOTEBOOKS)
each_written = pytest.mark.parametrize("one", WRITTEN.values(), ids=WRITTEN)
each_prediction = pytest.mark.parametrize("one", PREDICTED.values(), ids=PREDICTED)


def function_of(code, name):
    defined = {"torch": torch}
    exec(code.rsplit("\n\n\n", 1)[0], defined)
    return defined[f"my_{name}"]


def said(outcome):
    return next(iter(outcome.failed.values()), outcome.note)


def test_every_check_has_an_exercise_and_every_exercise_a_check():
    assert EXERCISES.keys() == WRITTEN.keys() | PREDICTED.keys()
    for here in SOURCES:
        assert all(EXERCISES[name].notebook == int(here.path.name[:2]) for name in here.of_checks)
        assert all(EXERCISES[name].kind == one.kind for name, one in here.of_checks.items())


@each_notebook
def test_a_notebook_has_something_to_predict_to_write_and_to_explain(here):
    kinds = [one.kind for one in here.exercises.values()]
    if here.bugs:  # test_bugs.py
        return
    assert 4 <= len(kinds) <= 6
    assert kinds.count("predict") == 1 and kinds.count("write") >= 2 and kinds.count("explain") == 1
    assert [one.early for one in here.exercises.values()].count(True) == 1


@each_written
def test_a_stub_is_told_so_kindly(one, capsys):
    exercise = EXERCISES[one.name]
    exercise(function_of(one.stub, one.name))
    assert capsys.readouterr().out == f"{one.name}: {NOT_WRITTEN}\n"

    def raises(*_):
        raise NotImplementedError

    assert exercise.run(raises).note == exercise.run(lambda *_: ...).note == NOT_WRITTEN


@each_written
def test_a_stub_has_at_most_15_lines_to_fill_in_and_three_hints(one):
    hole = tool.HOLE.search(one.marked())[0]
    assert len([line for line in hole.splitlines() if line.strip()]) - 2 <= 15
    assert len(one.hints) == 3 and all(one.hints)
    assert "BEGIN SOLUTION" not in one.solution + one.stub
    assert ast.get_docstring(ast.parse(one.stub).body[0])


@each_written
def test_a_solution_passes_on_any_data(one):
    for seed in range(8):
        outcome = EXERCISES[one.name].run(one.function, seed)
        assert outcome.right, (seed, outcome)
    assert len(EXERCISES[one.name].tests) >= 3


def share_of_the_data_set(model, loader, attack=None, eps=0.0):
    mode = model.training
    model.eval()
    read = ((model(attack(model, x, y, eps=eps) if attack else x).argmax(1) == y).sum().item() for x, y in loader)
    share = sum(read) / len(loader.dataset)
    model.train(mode)
    return share


def wholly_in_inference_mode(name):
    def attack(*args):
        images = WRITTEN[name].function(*args)
        with torch.inference_mode():
            return images.clone()

    return attack


OTHER_WAYS = {
    "the length of the data set": ("accuracy", share_of_the_data_set),
    "the length of the data set of an attack": ("robust_accuracy", share_of_the_data_set),
    "the length of the data set of a bug": ("bug_2", share_of_the_data_set),
    "the whole part of the change": ("save_levels", lambda a, x: (255 * x).round() + (255 * (a - x)).trunc()),
    "whole numbers": ("save_levels", lambda a, x: (255 * x).round().int() + (255 * (a - x)).int()),
    "a tensor of two": ("wilson", lambda *args: torch.tensor(WRITTEN["wilson"].function(*args))),
    "an array of two": ("wilson", lambda *args: np.array(WRITTEN["wilson"].function(*args))),
    "an average of NumPy": ("joined_gradient", lambda g, n: torch.tensor(np.average(g.double(), axis=0, weights=n))),
    **{f"{name} in double precision": (name, lambda *args, name=name: WRITTEN[name].function(*args).double())
       for name in ("fgsm", "targeted_fgsm")},
    **{f"{name} in inference mode": (name, wholly_in_inference_mode(name))
       for name in ("fgsm", "targeted_fgsm", "pgd")},
}  # fmt: skip


@pytest.mark.parametrize("name, function", OTHER_WAYS.values(), ids=OTHER_WAYS)
def test_other_ways_to_write_it_pass_on_any_data(name, function):
    for seed in range(25):
        outcome = EXERCISES[name].run(function, seed)
        assert outcome.right, (seed, outcome)


@each_written
def test_common_mistakes_fail_and_each_is_told_its_symptom(one):
    assert len(one.mistakes) >= 3 and len({words for _, words in one.mistakes}) >= 3
    for seed in SEEDS:
        for wrong, words in one.mistakes:
            outcome = EXERCISES[one.name].run(wrong, seed)
            assert not outcome.right and words in said(outcome), (wrong.__name__, seed, outcome)


@each_prediction
def test_a_prediction_gives_its_reason_after_an_answer_and_not_before(one, capsys):
    exercise = EXERCISES[one.name]
    exercise(...)
    before = capsys.readouterr().out
    assert "no answer yet" in before and len(before.splitlines()) == 1
    exercise(one.answer)
    assert "right" in capsys.readouterr().out and exercise.run(one.answer).right
    assert len(one.mistakes) >= 3
    for wrong, words in one.mistakes:
        exercise(wrong)
        told = capsys.readouterr().out
        assert words in told and "right." not in told and len(told.splitlines()) == 3, wrong


@each_written
def test_a_check_leaves_the_random_numbers_of_the_notebook_alone(one):
    before = torch.get_rng_state()
    EXERCISES[one.name].run(one.function)
    assert torch.equal(torch.get_rng_state(), before)


# the notebooks are what their sources say


def is_of_exercises(cell):
    return "exercise" in cell.metadata.get("tags", [])


@each_notebook
def test_the_notebook_holds_the_exercises_of_the_source(here):
    cells = [cell for cell in nbformat.read(here.path, as_version=4).cells if is_of_exercises(cell)]
    made = tool.exercise_cells(here)
    again = f"{here.path.name}: call `make exercises`"
    assert [(cell.id, cell.cell_type, cell.source) for cell in cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in made
    ], again
    for cell in cells:
        if cell.cell_type == "code" and cell.source != "from advutils.exercises import check":
            (output,) = cell.outputs
            assert "not written yet" in output.text or "no answer yet" in output.text


def test_an_early_exercise_stands_where_the_notebook_has_its_cells():
    here = next(here for here in SOURCES if tool.early_cells(here))
    cells = [new_code_cell("old", id=one.id, execution_count=7) for one in tool.early_cells(here)]
    tool.fill(cells, tool.early_cells(here))
    assert [cell.source for cell in cells] == [cell.source for cell in tool.early_cells(here)]
    assert {cell.execution_count for cell in cells if cell.cell_type == "code"} == {7}
    with pytest.raises(AssertionError, match="no cell exercise-check"):
        tool.fill([], tool.early_cells(here))


@each_notebook
def test_the_solutions_are_those_of_the_source_and_pass(here):
    path = tool.SOLUTIONS / here.path.name
    notebook = nbformat.read(path, as_version=4)
    made = tool.solution_notebook(here)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in made.cells], "call `make exercises`"
    for cell in notebook.cells:
        if cell.cell_type == "code" and "check." in cell.source:
            assert cell.outputs and ("right." in cell.outputs[0].text or "tests passed" in cell.outputs[0].text)
            assert not any("not yet" in output.get("text", "") for output in cell.outputs)
    assert path.stat().st_size < 400_000


@each_notebook
def test_the_names_that_a_solution_needs_are_at_hand_in_the_notebook(here):
    cells = [cell for cell in nbformat.read(here.path, as_version=4).cells if cell.cell_type == "code"]
    trees = [ast.parse(cell.source) for cell in cells]
    imported = {
        alias.asname or alias.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.parse(tool.imports(here)).body:
        assert {alias.asname or alias.name for alias in node.names} <= imported, ast.unparse(node)


def test_the_section_is_found_and_replaced_whole():
    old = [
        new_markdown_cell("## Summary\n\nIt was so.\n\n## Exercises\n\n1. Old.\n\n**Next:** [x](x.ipynb)", id="end"),
        new_markdown_cell("## References\n\n- one", id="references"),
    ]
    before, after = tool.split(old)
    assert [cell.source for cell in before] == ["## Summary\n\nIt was so."]
    assert [cell.source for cell in after] == ["**Next:** [x](x.ipynb)", "## References\n\n- one"]
    new = [*before, *tool.section_cells(SOURCES[0]), *after]
    before_again, after_again = tool.split(new)
    assert before_again == before and [cell.source for cell in after_again] == [cell.source for cell in after]


def test_solutions_cannot_be_imported_from_the_package():
    package = Path(check.__file__).parents[2]
    text = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    assert "BEGIN SOLUTION" not in text and "def my_" not in text


# what the framework says


add = Exercise("add", 0)


@add.test("the sum")
def _(mine, case):
    x = case.images()
    expect(torch.equal(mine(x, 1), x + 1), "It is another sum.")


def test_an_error_is_shown_short_with_its_line(capsys):
    def broken(x, n):
        return x + undefined  # noqa: F821

    add(broken)
    told = capsys.readouterr().out
    assert "your function stopped with an error" in told and "NameError" in told
    assert "of broken: return x + undefined" in told and "Traceback" not in told and len(told.splitlines()) == 3


def test_what_pytorch_has_not_implemented_is_an_error_and_no_stub():
    note = add.run(lambda x, n: (x > n).mean()).note
    assert "your function stopped with an error" in note and "NotImplementedError: mean()" in note


def test_a_changed_argument_and_an_odd_result_are_symptoms(capsys):
    def in_place(x, n):
        return x.add_(n)

    add(in_place)
    assert capsys.readouterr().out.splitlines() == [
        "add: 1 of 2 tests passed",
        "  passed   the sum",
        "  not yet  the arguments are left as they were",
        "What the first `not yet` saw: `x` was changed in place, so the caller has lost it; work on `x.clone()`.",
    ]
    assert "`argument 1` was changed" in said(add.run(lambda *args: args[0].add_(args[1])))
    assert "`x` was changed" in said(add.run(lambda x, n: (x.squeeze_(1) + n)[:, None]))
    assert "cannot use what your function gives back" in said(add.run(lambda x, n: "a text"))
    whole = Exercise("whole", 0)
    whole.test("a whole number")(lambda mine, case: expect(int(mine(1)["a"]) == 1, "Not one."))
    for odd in ({}, {"a": torch.inf}, {"a": None}, {"a": "one"}, 3):  # KeyError, OverflowError, TypeError, ValueError
        assert "cannot use what your function gives back" in said(whole.run(lambda n, odd=odd: odd))
    with pytest.raises(TypeError, match="mine: got int; accepts your function"):
        add(3)
    with pytest.raises(AttributeError, match="near it: .*targeted_fgsm"):
        check.targetd_fgsm  # noqa: B018
    assert "targeted_fgsm" in dir(check)


def test_the_lines_keep_their_order_whatever_fails(capsys):
    two = Exercise("two", 0)
    two.test("first")(lambda mine, case: expect(mine(1) == 1, "Not one."))
    two.test("second")(lambda mine, case: expect(mine(2) == 2, "Not two."))
    for wrong, marks in ((lambda n: 2, ["not yet", "passed"]), (lambda n: 1, ["passed", "not yet"])):
        two(wrong)
        lines = capsys.readouterr().out.splitlines()
        assert [line[:9].strip() for line in lines[1:3]] == marks and len(lines) == 4  # no tensor, no third test
        assert lines[3].startswith("What the first `not yet` saw: Not ")


def test_a_picture_is_drawn_of_what_carries_a_gradient_and_an_error_there_is_told(capsys):
    shown = Exercise("shown", 0, show=lambda mine: mine(torch.ones(2), 1).numpy())
    shown.tests = add.tests
    shown(lambda x, n: x.clone().requires_grad_() + n)
    assert "all 2 tests passed" in capsys.readouterr().out
    shown(lambda x, n: x + n if x.ndim == 4 else undefined)  # noqa: F821
    assert "On real digits: NameError" in capsys.readouterr().out


def test_an_answer_is_a_number_or_a_letter():
    choice = Choice("which", 0, lambda: "a", {"b": "Think again."}, "Because.")
    assert choice.run("a").right and said(choice.run("b")) == "Think again."
    with pytest.raises(ValueError, match="accepts one of a, b"):
        choice.run("z")
    with pytest.raises(TypeError, match="accepts a number"):
        check.best_at_half("ten")


# what the worked answers claim


def test_the_step_that_helps():
    x, y = load_data("mnist-5k", train=False).tensors
    vgg = trained("clean", width=0.25, epochs=8)

    def answers_after(images, labels):
        return predict(vgg, (images - 0.1 * input_gradient(vgg, images, labels).sign()).clamp(0, 1)).argmax(1)

    answers = predict(vgg, x).argmax(1)
    misread = answers != y
    assert abs((answers_after(x, y) == y).double().mean().item() - 0.997) < 0.005
    assert torch.equal(answers_after(x[misread], answers[misread]), answers[misread])
    white, black = predict(vgg, torch.ones(1, 1, 28, 28))[0], predict(vgg, torch.zeros(1, 1, 28, 28))[0]
    assert abs(white[8] - 0.61) < 0.02 and black[1] > 0.99
    images, labels = load_data("mnist-5k", train=True).tensors
    middle = torch.stack([images[labels == digit, :, 10:18, 10:18].mean() for digit in range(10)])
    assert middle.argmax() == 8 and abs(middle[8] - 0.54) < 0.005 and abs(middle[0] - 0.20) < 0.005
    ink = torch.stack([images[labels == digit].mean() for digit in range(10)])
    assert ink.argmax() == 0 and ink.argmin() == 1


def test_small_parts_of_a_batch_make_another_step_than_halves():
    digits, vgg = load_data("mnist-5k", train=False), trained("mixed-fgsm-0.1").train()

    def gradient(x, y):
        parts = torch.autograd.grad(cross_entropy(vgg(x), y), list(vgg.parameters()))
        return torch.cat([part.flatten() for part in parts])

    def apart(x, y, processes):
        joined = sum(gradient(x[first::processes], y[first::processes]) for first in range(processes)) / processes
        whole = gradient(x, y)
        return ((joined - whole).norm() / whole.norm()).item()

    batches = [digits[first:1000:20] for first in range(0, 20, 2)]
    assert all(len(y) == 50 and apart(x, y, 10) > apart(x, y, 2) for x, y in batches)
