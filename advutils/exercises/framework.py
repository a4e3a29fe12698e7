"""What answers a learner: an exercise is a list of tests against independent truths; a prediction is a number.

A test names what it holds in a sentence, and a *symptom* where it fails: what was seen, not how to mend it. Nothing
here draws from the global random generator, changes a notebook's variables or needs a network.
"""

import linecache
import numbers
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from advutils.exercises.cases import Case

PACKAGE = str(Path(__file__).parents[1])
NOT_WRITTEN = "not written yet: put your lines in place of the dots, and end with a `return`."
NO_ANSWER = "no answer yet: write {kind} in place of the dots."


class Symptom(Exception):
    """What a test saw that it should not have seen."""


class NotWritten(Exception):
    """The function is still a stub."""


class Stopped(Exception):
    """The learner's function raised an error; the message shows it, with its line."""


def expect(holds: object, symptom: str) -> None:
    """Raise the symptom unless the condition holds."""
    if not holds:
        raise Symptom(symptom)


def expect_like(result: object, like: torch.Tensor, what: str = "images") -> torch.Tensor:
    """The result, which must be a tensor of finite numbers shaped as the other one."""
    wanted = f"a tensor of {what} of shape {tuple(like.shape)}"
    expect(isinstance(result, torch.Tensor), f"Your function gives back a {type(result).__name__}, not {wanted}.")
    assert isinstance(result, torch.Tensor)
    expect(result.shape == like.shape, f"Your function gives back shape {tuple(result.shape)}, not {wanted}.")
    expect(result.isfinite().all(), "Some numbers that your function gives back are infinite or nan.")
    return result.detach()


def expect_images(result: object, like: torch.Tensor) -> torch.Tensor:
    """The result, which must be images shaped as the others."""
    images = expect_like(result, like)
    outside = ((images < 0) | (images > 1)).sum()
    expect(outside == 0, f"{outside} of {like.numel()} values are no image: they lie below 0 or above 1.")
    return images


class Outcome(NamedTuple):
    """What one run of the tests found: labels of those that passed, {label: symptom} of the others, or why none ran."""

    passed: list
    failed: dict
    note: str = ""

    @property
    def right(self):
        """Every test ran and passed."""
        return bool(self.passed) and not self.failed and not self.note


class Guarded:
    """The learner's function, watched: a stub, an error and a changed argument are told apart from a wrong result."""

    def __init__(self, mine: Callable):
        self.mine = mine

    def __call__(self, *args):
        given = [(place, arg, arg.clone()) for place, arg in enumerate(args, 1) if isinstance(arg, torch.Tensor)]
        try:
            result = self.mine(*args)
        except NotImplementedError as error:
            raise NotWritten from error
        except Stopped:
            raise
        except Exception as error:  # a learner's code may raise anything
            raise Stopped(f"{type(error).__name__}: {error}{line_of(error)}") from error
        if result is None or result is ...:
            raise NotWritten
        for place, arg, before in given:
            expect(
                arg.shape == before.shape and torch.equal(arg, before),
                f"Argument {place} is another tensor after your function than before it: whoever called it has lost "
                "the original.",
            )
        return result.detach() if isinstance(result, torch.Tensor) else result


def line_of(error):
    """The learner's line in which an error arose, as text; empty where it cannot be told."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith(PACKAGE)]
    frames = [frame for frame in frames if "site-packages" not in frame.filename]
    if not frames:
        return ""
    last = frames[-1]
    source = linecache.getline(last.filename, last.lineno or 0).strip()
    return f"\n    line {last.lineno} of {last.name}: {source}"


class Exercise:
    """A function to write: `check.NAME(mine)` runs its tests and prints what they found."""

    kind = "write"

    def __init__(self, name: str, notebook: int, show: Callable | None = None):
        self.name, self.notebook, self.show = name, notebook, show
        self.tests: list = []

    def test(self, label: str) -> Callable:
        """Add a test `(mine, case)` under the sentence that it holds."""

        def added(function):
            self.tests.append((label, function))
            return function

        return added

    def run(self, mine: Callable, seed: int = 0) -> Outcome:
        """What the tests find, on data drawn from the seed; the global random generator is left as it was."""
        passed, failed = [], {}
        for label, test in self.tests:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                try:
                    test(Guarded(mine), Case(seed))
                    passed.append(label)
                except Symptom as symptom:
                    failed[label] = str(symptom)
                except NotWritten:
                    return Outcome([], {}, NOT_WRITTEN)
                except Stopped as stopped:
                    return Outcome(passed, failed, f"your function stopped with an error:\n    {stopped}")
                except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:  # an odd result
                    failed[label] = f"The test cannot use what your function gives back ({error})."
        return Outcome(passed, failed)

    def __call__(self, mine: Callable) -> None:
        if not callable(mine):
            raise TypeError(f"mine: got {type(mine).__name__}; accepts your function, without calling it")
        outcome = self.run(mine)
        print(told(self.name, outcome))
        if outcome.right and self.show:
            try:
                self.show(Guarded(mine))
            except (Symptom, Stopped) as error:
                print(f"On real digits: {error}")


class Prediction:
    """A number to predict: `check.NAME(answer)` says how near it is, and then the reason.

    Args:
        name, notebook: as the notebook calls it.
        measure: () -> the number, measured or computed anew.
        within: how far a right answer may lie from it.
        remarks: {(low, high): what such an answer overlooks}, for wrong answers in that range.
        reason: the explanation; `{truth}` stands for the number.
    """

    kind = "predict"

    def __init__(self, name: str, notebook: int, measure: Callable, within: float, remarks: dict, reason: str):
        self.name, self.notebook, self.measure, self.within = name, notebook, measure, within
        self.remarks, self.reason = remarks, reason

    def run(self, answer, seed: int = 0) -> Outcome:
        """Whether the answer is near enough; a remark on what a wrong one overlooks."""
        if answer is None or answer is ...:
            return Outcome([], {}, NO_ANSWER.format(kind="a number"))
        if isinstance(answer, bool) or not isinstance(answer, numbers.Real):
            raise TypeError(f"answer: got {answer!r}; accepts a number, such as 50")
        if abs(answer - self.measure()) <= self.within:
            return Outcome(["near enough"], {})
        remark = next((text for (low, high), text in self.remarks.items() if low <= answer <= high), "")
        return Outcome([], {"near enough": remark})

    def __call__(self, answer=None) -> None:
        outcome = self.run(answer)
        if outcome.note:
            return print(f"{self.name}: {outcome.note}")
        truth = f"{self.measure():.3g}"
        verdict = "right" if outcome.right else "not near enough"
        print(f"{self.name}: your answer {answer:g}, the number {truth}: {verdict}.")
        for text in (*outcome.failed.values(), self.reason.format(truth=truth)):
            print(text)


class Choice:
    """A choice to predict: `check.NAME("b")` says whether it is right, and then the reason.

    Args:
        name, notebook: as the notebook calls it.
        measure: () -> the right letter, found anew by an experiment.
        remarks: {letter: what it overlooks} for each wrong one.
        reason: the explanation.
    """

    kind = "predict"

    def __init__(self, name: str, notebook: int, measure: Callable, remarks: dict, reason: str):
        self.name, self.notebook, self.measure, self.remarks, self.reason = name, notebook, measure, remarks, reason

    def run(self, answer, seed: int = 0) -> Outcome:
        """Whether the letter is the right one; a remark on what a wrong one overlooks."""
        if answer is None or answer is ...:
            return Outcome([], {}, NO_ANSWER.format(kind='a letter, such as "a",'))
        right = self.measure()
        if answer not in (right, *self.remarks):
            raise ValueError(f"answer: got {answer!r}; accepts one of {', '.join(sorted({right, *self.remarks}))}")
        return Outcome(["right"], {}) if answer == right else Outcome([], {"right": self.remarks[answer]})

    def __call__(self, answer=None) -> None:
        outcome = self.run(answer)
        if outcome.note:
            return print(f"{self.name}: {outcome.note}")
        print(f"{self.name}: {answer} is {'right' if outcome.right else 'not what happens'}.")
        for text in (*outcome.failed.values(), self.reason):
            print(text)


def told(name, outcome):
    """An outcome as the learner reads it: every test by its sentence, and the first symptom."""
    if outcome.note:
        return f"{name}: {outcome.note}"
    count = len(outcome.passed) + len(outcome.failed)
    all_of_them = f"all {count}" if outcome.right else f"{len(outcome.passed)} of {count}"
    lines = [f"{name}: {all_of_them} tests passed", *(f"  passed   {label}" for label in outcome.passed)]
    lines += [f"  not yet  {label}" for label in outcome.failed]
    if outcome.failed:
        lines.append(f"What the first of them saw: {next(iter(outcome.failed.values()))}")
    return "\n".join(lines)
