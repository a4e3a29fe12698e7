"""Points for a submitted notebook: its functions run in a process of their own, the tests run in this one.

A test calls a function over a pipe and gets numbers back, nothing else: whatever the submission prints, patches or
overrides, it does so where no test runs. What comes back is read without unpickling.
"""

import ast
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
from advutils.exercises.worker import parsed, serve

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
        ValueError: a file that is no notebook of the series, or one without exercises.
    """
    cells = code_cells(path)
    number = notebook or number_of(path)
    mine = {name: one for name, one in EXERCISES.items() if one.notebook == number}
    if not mine:
        numbers = sorted({one.notebook for one in EXERCISES.values()})
        raise ValueError(f"notebook: got {number}; accepts one of {numbers}")
    first = seed or 1 + secrets.randbelow(2**31)
    answers, found = answers_of(cells), {}
    with Process(cells, seconds) as process:
        for name, one in mine.items():
            found[name] = graded(one, process, answers.get(name, ...), range(first, first + ROUNDS))
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
    """The first outcome that is not right, or the last one."""
    process.restart_clock()
    outcome = Outcome([], {}, "not in the submission")
    try:
        if one.kind == "predict":
            return one.run(answer)
        for seed in seeds:
            if f"my_{one.name}" not in process.names:
                break
            outcome = one.run(process.function(f"my_{one.name}"), seed)
            if not outcome.right:
                break
    except (TypeError, ValueError, OverflowError) as error:  # an answer that is none
        return Outcome([], {}, str(error))
    return outcome


class Process:
    """The process that holds the submission's functions; one that hangs or dies is started anew."""

    def __init__(self, cells, seconds):
        self.cells, self.seconds = cells, seconds
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
        self.child = context.Process(target=serve, args=(theirs, self.cells, self.folder.name), daemon=True)
        self.child.start()
        theirs.close()
        self.until = time.monotonic() + START_SECONDS
        try:
            self.names = [name for name in self.receive().get("ready", ()) if isinstance(name, str)]
        except Stopped:  # its definitions hang or end the process: no function of it can be called
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
                self.channel.send_bytes(pickle.dumps((name, args)))
            except OSError as error:
                raise Stopped("the process has ended") from error
            said = self.receive()
            if "error" in said:
                raise Stopped(str(said["error"]))
            for arg, state in zip(args, said["args"]):
                restore(arg, state)
            return said["result"]

        return call

    def receive(self) -> dict[str, Any]:
        """The next message; Stopped if none comes in time, or none that can be read."""
        try:
            if not self.channel.poll(max(0.0, self.until - time.monotonic())):
                self.stop()
                raise Stopped("the time limit was reached")
            said = torch.load(io.BytesIO(self.channel.recv_bytes(LARGEST)), weights_only=True)
        except (EOFError, OSError) as error:
            self.stop()
            raise Stopped("the process ended in the middle of the call") from error
        except (RuntimeError, pickle.UnpicklingError, ValueError) as error:
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
    elif isinstance(arg, torch.Generator):
        arg.set_state(state)
    elif isinstance(arg, torch.Tensor):
        arg.detach().copy_(state)


def code_cells(path):
    """The sources of a notebook's code cells."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"submission: got {str(path)!r}; accepts a notebook, an .ipynb file") from error


def number_of(path):
    """A notebook's number in the series, from its title."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    titles = (re.match(r"# (\d+) ·", "".join(cell["source"])) for cell in cells)
    number = next((int(found[1]) for found in titles if found), None)
    if number is None:
        raise ValueError(f"submission: got {str(path)!r} without its title; accepts such a file with --notebook N")
    return number


def answers_of(cells):
    """{exercise: answer} of the last literal that is handed to each check."""
    answers = {}
    for _, _, tree in parsed(cells):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
                try:
                    answers[node.func.attr] = ast.literal_eval(node.args[0])
                except ValueError:
                    continue
    return answers
