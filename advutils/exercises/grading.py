"""Points for a submitted notebook: its functions run in a process of their own, the tests run in this one.

A test calls a function over a pipe and gets numbers back, nothing else: whatever the submission prints, patches or
overrides, it does so where no test runs. What comes back is read without unpickling.
"""

import ast
import contextlib
import io
import json
import multiprocessing
import pickle
import re
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advutils.exercises.check import EXERCISES
from advutils.exercises.framework import Outcome, Stopped
from advutils.exercises.worker import answers, gradients, parsed, read, serve, set_gradients
from advutils.utils import validation

ROUNDS = 3  # of data; an exercise earns its point if it passes in each
START_SECONDS = 180.0  # for PyTorch to be imported
LARGEST = 64_000_000  # bytes of one answer
NOT_GUARANTEED = (
    "that the learner wrote the code: it may be another person's, call the same function of a library, or be copied "
    "from the solutions",
    "that the process is a sandbox: it may read and write files and use the network as you may. Grade strangers' work "
    "in a container or a virtual machine",
    "that memory and disk are limited: only time is",
    "that a function is right on data unlike that of the tests",
    "anything about the exercises called Explain: a person reads them",
)


def grade(path: Path, *, notebook: int | None = None, seed: int | None = None, seconds: float = 60.0) -> dict:
    """The points of a submitted notebook, with data that the learner's own checks did not use.

    Args:
        path: the submission, an .ipynb file.
        notebook: its number in the series; that of its title if None.
        seed: of the data, at least 1; drawn anew if None.
        seconds: time limit of each exercise.

    Returns:
        A dict that JSON can hold: points, of, and for each exercise what passed and what did not.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no notebook of the series, or one without exercises.
    """
    whole = cells_of(path)
    cells = [source for kind, source in whole if kind == "code"]
    number = notebook or number_of(whole, path)
    if seed is not None:
        validation.count(seed, "seed", most=2**32)
    mine = {name: one for name, one in EXERCISES.items() if one.notebook == number}
    if not mine:
        numbers = sorted({one.notebook for one in EXERCISES.values()})
        raise ValueError(f"notebook: got {number}; accepts one of {numbers}")
    first = seed or 1 + secrets.randbelow(2**31)
    predictions, found = [name for name, one in mine.items() if one.kind == "predict"], {}
    literals = literals_of(cells, predictions)
    with Process(cells, seconds, predictions) as process:
        for name, one in mine.items():
            found[name] = graded(one, process, literals.get(name, ...), range(first, first + ROUNDS))
    rows = {name: {"points": int(outcome.right), "of": 1, **outcome._asdict()} for name, outcome in found.items()}
    return {
        "submission": Path(path).name,
        "notebook": number,
        "points": sum(row["points"] for row in rows.values()),
        "of": len(rows),
        "seed": first,
        "exercises": rows,
        "not_guaranteed": list(NOT_GUARANTEED),
    }


def graded(one, process, answer, seeds):
    """The first outcome that is not right, or the last one; the answer is for where the process cannot give it."""
    process.restart_clock()
    outcome = Outcome([], {}, missing(process.cells, one.name))
    try:
        if one.kind == "predict":
            name = f"check.{one.name}"
            return one.run(process.function(name)() if name in process.names else answer)
        for seed in seeds:
            if f"my_{one.name}" not in process.names:
                break
            outcome = one.run(process.function(f"my_{one.name}"), seed)
            if not outcome.right:
                break
    except Stopped as error:  # of a prediction
        return Outcome([], {}, f"the answer could not be worked out, so write the number itself: {error}")
    except Exception as error:  # an answer that is none; a submission may give back anything
        return Outcome([], {}, str(error))
    return outcome


def missing(cells, name):
    """Why a function is not there: no cell defines it, or the cell that does is no Python."""
    for number, cell in enumerate(cells, 1):
        error = read(cell, number)[2]
        if error and re.search(rf"\bdef\s+my_{name}\b", cell):
            return f"not in the submission, as its cell cannot be read: {error}"
    return "not in the submission"


class Process:
    """The process that holds the submission's functions; one that hangs or dies is started anew."""

    def __init__(self, cells, seconds, predictions=()):
        self.cells, self.seconds, self.predictions = cells, seconds, predictions
        self.names: list = []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.start()
        return self

    def __exit__(self, *_):
        self.end()
        self.folder.cleanup()

    def start(self):
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        args = (theirs, self.cells, self.folder.name, self.predictions)
        self.child = context.Process(target=serve, args=args, daemon=True)
        self.child.start()
        theirs.close()
        self.until = time.monotonic() + START_SECONDS
        try:
            self.names = [name for name in self.receive().get("ready", ()) if isinstance(name, str)]
        except (Stopped, TypeError):  # its definitions hang or end the process: no function of it can be called
            self.names = []

    def stop(self):
        self.child.kill()
        self.child.join()

    def end(self):
        self.stop()
        self.channel.close()

    def restart_clock(self):
        """Give the next exercise its time, and a living process if there can be one."""
        if self.names and not self.child.is_alive():
            self.end()
            self.start()
        self.until = time.monotonic() + self.seconds

    def function(self, name):
        """A function that calls the submission's one of that name, over there."""

        def call(*args):
            try:
                self.channel.send_bytes(pickle.dumps((name, args, [gradients(arg) for arg in args])))
            except OSError as error:
                raise Stopped("the process has ended") from error
            said = self.receive()
            if "error" in said:
                raise Stopped(str(said["error"]))
            for arg, state in zip(args, said["args"]):
                restore(arg, state)
            return revived(said["result"])

        return call

    def receive(self) -> dict[str, Any]:
        """The next message; Stopped if none comes in time, or none that can be read."""
        try:
            if not self.channel.poll(max(0.0, self.until - time.monotonic())):
                self.stop()
                raise Stopped("the time limit was reached")
            said = torch.load(io.BytesIO(self.channel.recv_bytes(LARGEST)), weights_only=True)
        except Stopped:
            raise
        except (EOFError, OSError) as error:
            self.stop()
            raise Stopped("the process ended in the middle of the call") from error
        except Exception as error:  # forged bytes may lead to any
            self.stop()
            raise Stopped("the process sent something that is no answer") from error
        if not isinstance(said, dict) or not said.keys() & {"ready", "error", "result"}:
            self.stop()
            raise Stopped("the process sent something that is no answer")
        return {"args": [], **said}


def restore(arg, state):
    """Bring an argument on this side into the state in which the call left its copy."""
    if isinstance(arg, nn.Module):
        arg.load_state_dict(state["tensors"])
        for module, mode in zip(arg.modules(), state["modes"]):
            module.training = bool(mode)
        set_gradients(arg, state["gradients"])
    elif isinstance(arg, torch.Generator):
        arg.set_state(state)
    elif isinstance(arg, torch.Tensor):
        arg.detach().copy_(state)


def revived(result):
    """What a call gave back, with NumPy's arrays and numbers as such again."""
    if isinstance(result, tuple):
        return tuple(map(revived, result))
    return result["numpy"].numpy()[()] if isinstance(result, dict) else result


def cells_of(path):
    """(type, source) of a notebook's cells."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"submission: got {str(path)!r}, where there is no file; accepts an .ipynb file")
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8-sig"))["cells"]
        return [(cell["cell_type"], "".join(cell.get("source", ""))) for cell in cells]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        got = f"submission: got {str(path)!r}, which cannot be read ({type(error).__name__}: {error})"
        raise ValueError(f"{got}; accepts a notebook, an .ipynb file") from error


def number_of(cells, path):
    """A notebook's number in the series, from its title."""
    titles = (re.match(r"# (\d+) ·", source) for _, source in cells)
    number = next((int(found[1]) for found in titles if found), None)
    if number is None:
        raise ValueError(f"submission: got {str(path)!r} without its title; accepts such a file with --notebook N")
    return number


def literals_of(cells, predictions):
    """{exercise: answer} of the last literal that is handed to each check."""
    found = {}
    for _, _, tree in parsed(cells):
        for name, expression in answers(tree, predictions):
            with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                found[name] = ast.literal_eval(expression)
    return found
