"""The learner's own board: scores, hints taken and the best images, as files in the cache folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from advutils.exercises.arena.defences import DEFENCES
from advutils.exercises.arena.judge import HINT, Verdict, judge, open_defence
from advutils.utils.storage import atomic_write, cache_dir
from advutils.utils.weights import read_tensors, write_tensors


class Text(str):
    """Text that a notebook shows as it is, with its lines."""

    __repr__ = str.__str__


def folder() -> Path:
    """Where the board and the best images lie: what a learner hands in."""
    return cache_dir() / "arena"


def read_board() -> dict:
    """{name: {"hints": taken, "tries": submissions, "best": score or None}} of all defences."""
    path, rows = folder() / "board.json", {}
    if path.exists():
        try:
            rows = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: got a board that cannot be read ({error}); delete it and begin anew") from error
    return {name: {"hints": 0, "tries": 0, "best": None} | rows.get(name, {}) for name in DEFENCES}


def write_board(board: dict) -> None:
    atomic_write(folder() / "board.json", (json.dumps(board, indent=1) + "\n").encode())


def submit(name: str, submission: torch.Tensor | Callable, *, seed: int | None = None) -> Verdict:
    """Judge images or an attack, and enter the score on the board; the images of the best score are kept as a file.

    Args:
        name: as in `table()`.
        submission: images (N, 1, 28, 28), float32 in [0, 1], each within eps of its original; or an attack
            `(model, x, y, *, eps) -> images`, which must keep the budget of the defence.
        seed: of the noise of a randomised defence; drawn anew if None.

    Returns:
        Verdict, which prints as a small table.

    Raises:
        TypeError, ValueError: what is no such submission, or an attack beyond its budget; the message says which.

    Taught in 14_break_the_defence.ipynb.
    """
    board = read_board()
    verdict, images = judge(name, submission, hints=board[name]["hints"] if name in board else 0, seed=seed)
    row = board[name]
    row["tries"] += 1
    if row["best"] is None or verdict.score > row["best"]:
        row["best"] = verdict.score
        about = dict(defence=name, sealed=open_defence(name).sha256, hints=verdict.hints)
        write_tensors(folder() / f"{name}.safetensors", {"images": images}, about)
    write_board(board)
    return replace(verdict, best=row["best"])


def judge_file(path: Path, *, seed: int | None = None) -> Verdict:
    """Judge the images of a file that `submit` wrote.

    Raises:
        FileNotFoundError, TypeError, ValueError: no such file, or one that is refused; the message says why.
    """
    tensors, about = read_tensors(path)
    if tensors.keys() != {"images"} or not {"defence", "sealed", "hints"} <= about.keys():
        raise ValueError(f"path: got {str(path)!r}; accepts a file that `arena.submit` wrote")
    if about["sealed"] != open_defence(about["defence"]).sha256:
        raise ValueError(f"path: got images for another version of {about['defence']!r}; accepts those for this one")
    return judge(about["defence"], tensors["images"], hints=about["hints"], seed=seed)[0]


def hint(name: str) -> Text:
    """The next of the three hints of a defence, below those taken before. Each takes 0.05 off all later scores.

    Args:
        name: as in `table()`.

    Returns:
        Text; running the same line again takes the next hint.

    Raises:
        ValueError: a name that is not in the table.

    Taught in 14_break_the_defence.ipynb.
    """
    hints, board = open_defence(name).hints, read_board()
    taken = board[name]["hints"] = min(len(hints), board[name]["hints"] + 1)
    write_board(board)
    lines = [f"hint {number} of {len(hints)}: {text}" for number, text in enumerate(hints[:taken], 1)]
    return Text("\n".join([*lines, f"They take {HINT * taken:.2f} off every later score of {name!r}."]))


def table() -> Text:
    """All defences with their claims and budgets, and what is on the board.

    Returns:
        Text, a line for each defence.

    Taught in 14_break_the_defence.ipynb.
    """
    board = read_board()
    wide = max(map(len, DEFENCES)) + 2
    lines = [f"   {'defence':{wide}}claim    eps  gradients  queries  hints  tries  best   claimed with"]
    for number, name in enumerate(DEFENCES, 1):
        one, row = open_defence(name), board[name]
        best = "-" if row["best"] is None else f"{row['best']:.2f}"
        lines.append(
            f"{number:2} {name:{wide}}{one.claim:4.0f}%  {one.eps:5.3g}  {one.gradients:9,}  {one.queries:7,}  "
            f"{row['hints']:5}  {row['tries']:5}  {best:>4}   {one.claimed_with}"
        )
    return Text("\n".join(lines))
