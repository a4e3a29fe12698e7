"""Notebook 13: the bug that it shows is the one that its check refuses, with four other wrong repairs at least."""

import exercises as tool
import nbformat
import pytest

from advutils.exercises import check
from advutils.exercises.check import EXERCISES, notebook_13

HERE = tool.load(tool.SOLUTIONS / "source" / "13_find_the_bug.py")
BUGS = {name: HERE.exercises[name] for name in HERE.bugs}
each = pytest.mark.parametrize("name", BUGS)


def test_there_are_ten_and_each_is_mended_below():
    assert list(BUGS) == list(HERE.exercises) == [f"bug_{number}" for number in range(1, 11)]


@each
def test_the_notebook_shows_the_bug_that_the_check_refuses(name):
    cells = {cell.id: cell for cell in nbformat.read(HERE.path, as_version=4).cells}
    bug = HERE.bugs[name]
    assert cells[tool.code_id(name)].source == tool.source_of(bug), "call `make exercises`"
    assert 6 <= len([line for line in tool.source_of(bug).splitlines() if line.strip()]) <= 15
    ours, shown = tool.plain(BUGS[name].function), tool.source_of(bug)
    assert ours.splitlines()[0] == shown.splitlines()[0].replace(name, f"my_{name}")


@each
@pytest.mark.parametrize("seed", range(20, 24))
def test_the_bug_and_other_repairs_fail_and_the_mended_one_passes(name, seed):
    exercise, one = EXERCISES[name], BUGS[name]
    assert exercise.run(one.function, seed).right
    assert len(one.mistakes) >= 5 and len({words for _, words in one.mistakes}) >= 5
    assert one.mistakes[0][0] is HERE.bugs[name]
    outcomes = {wrong.__name__: exercise.run(wrong, seed) for wrong, _ in one.mistakes}
    assert all(outcome.failed and not outcome.note for outcome in outcomes.values())
    first = [next(iter(outcome.failed.values())) for outcome in outcomes.values()]
    assert len(set(first)) >= 5, first


@each
def test_a_symptom_does_not_name_the_solution(name):
    told = " ".join(exercise for exercise in EXERCISES[name].run(HERE.bugs[name]).failed.values())
    assert not any(word in told for word in ("clamp(", "eval()", "deepcopy", "cross_entropy", "2.5 *", "Normalize("))


@each
def test_what_was_wrong_names_its_numbers_and_a_public_report(name):
    text = BUGS[name].explanation
    assert text.count("%") >= 2 and "https://github.com/" in text
    assert "*Where it happened:*" in text and "*How to see it:*" in text
    references = nbformat.read(HERE.path, as_version=4).cells[-1].source
    reports = {word.strip("().,") for word in text.replace("](", " ").split() if word.startswith("https://")}
    assert all(report in references or "/pull/" in report for report in reports), reports


def test_the_check_keeps_count_of_those_that_are_found(monkeypatch, capsys):
    monkeypatch.setattr(notebook_13, "FOUND", set())
    assert check.bugs_found() == "You have found 0 of 10 bugs."
    check.bug_4(HERE.bugs["bug_4"])
    for name in ("bug_4", "bug_9", "bug_4"):
        EXERCISES[name](BUGS[name].function)
    assert check.bugs_found() == "You have found 2 of 10 bugs."
    assert capsys.readouterr().out.count("You have found") == 3
