"""What answers a learner: an exercise is a list of tests against independent truths; a prediction is a number.

A test names what it holds in a sentence, and a *symptom* where it fails: what was seen, not how to mend it. Nothing
here draws from the global random generator, changes a notebook's variables or needs a network.
"""

import inspect
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
UNCHANGED = "the arguments are left as they were"
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
    expect(isinstance(result, torch.Tensor), f"Your function gives back {kind_of(result)}, not {wanted}.")
    assert isinstance(result, torch.Tensor)
    expect(result.shape == like.shape, f"Your function gives back shape {tuple(result.shape)}, not {wanted}.")
    expect(result.isfinite().all(), "Some numbers that your function gives back are infinite or nan.")
    return result.detach()


def kind_of(result: object) -> str:
    """What a result is, in words."""
    name = type(result).__name__
    return f"the pair (values, indices) of `{name}`" if hasattr(result, "indices") else f"a {name}"


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
    """The learner's function, watched: a stub, an error and a changed argument are told apart from a wrong result.

    It works on copies of the tensors, so that a changed argument is one failed test and spoils no other one.
    """

    def __init__(self, mine: Callable):
        self.mine = mine
        self.changed: list = []  # the names of the arguments that it has changed in place
        self.given = False  # whether it has been handed a tensor at all

    def __call__(self, *args):
        copies = [copy_of(arg) for arg in args]
        try:
            result = self.mine(*copies)
        except Stopped:
            raise
        except Exception as error:  # a learner's code may raise anything
            if is_stub(error):
                raise NotWritten from error
            raise Stopped(f"{type(error).__name__}: {error}{line_of(error)}") from error
        if result is None or result is ...:
            raise NotWritten
        for place, (arg, copy) in enumerate(zip(args, copies)):
            if isinstance(arg, torch.Tensor):
                self.given = True
                if arg.shape != copy.shape or not torch.equal(arg, copy):
                    self.changed.append(self.name_of(place))
        return result.detach().clone() if isinstance(result, torch.Tensor) else result  # also of inference mode

    def name_of(self, place: int) -> str:
        """An argument's name in the learner's function; its number, from 1, where that takes any arguments."""
        names = [name for name, one in inspect.signature(self.mine).parameters.items() if one.kind < one.VAR_POSITIONAL]
        return names[place] if place < len(names) else f"argument {place + 1}"


def is_stub(error):
    """Whether the error is a stub's `raise NotImplementedError`; PyTorch's own ones say what is not implemented."""
    return isinstance(error, NotImplementedError) and not str(error)


def copy_of(arg):
    """A tensor's copy; anything else as it is."""
    return arg.detach().clone().requires_grad_(arg.requires_grad) if isinstance(arg, torch.Tensor) else arg


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
        passed, failed, guarded = [], {}, Guarded(mine)
        for label, test in self.tests:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                try:
                    test(guarded, Case(seed))
                    passed.append(label)
                except Symptom as symptom:
                    failed[label] = str(symptom)
                except NotWritten:
                    return Outcome([], {}, NOT_WRITTEN)
                except Stopped as stopped:
                    return Outcome(passed, failed, f"your function stopped with an error:\n    {stopped}")
                except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
                    # an odd result
                    failed[label] = f"The test cannot use what your function gives back ({error})."
        if guarded.changed:
            name = guarded.changed[0]
            failed[UNCHANGED] = f"`{name}` was changed in place, so the caller has lost it; work on `{name}.clone()`."
        elif guarded.given:
            passed.append(UNCHANGED)
        return Outcome(passed, failed)

    def __call__(self, mine: Callable) -> None:
        if not callable(mine):
            raise TypeError(f"mine: got {type(mine).__name__}; accepts your function, without calling it")
        outcome = self.run(mine)
        print(told(self.name, outcome, [*(label for label, _ in self.tests), UNCHANGED]))
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


def told(name, outcome, order):
    """An outcome as the learner reads it: every test by its sentence, in the same order each time, and one symptom."""
    if outcome.note:
        return f"{name}: {outcome.note}"
    count = len(outcome.passed) + len(outcome.failed)
    all_of_them = f"all {count}" if outcome.right else f"{len(outcome.passed)} of {count}"
    lines = [f"{name}: {all_of_them} tests passed"]
    for label in order:
        if label in outcome.passed or label in outcome.failed:
            lines.append(f"  {'not yet' if label in outcome.failed else 'passed '}  {label}")
    if outcome.failed:
        lines.append(f"What the first `not yet` saw: {next(iter(outcome.failed.values()))}")
    return "\n".join(lines)
