"""The other side of `grading`: the process in which a submission's functions run. It judges nothing."""

import ast
import io
import linecache
import os
import pickle
import re

import torch
from torch import nn

from advutils.exercises.framework import line_of

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def serve(channel, cells, folder):
    """Define what the submission's cells define, say so, and then answer one call after the other.

    Args:
        channel: the end of a pipe; what goes back are bytes that `torch.load(weights_only=True)` reads.
        cells: the sources of the submission's code cells.
        folder: to work in.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.chdir(folder)
    defined: dict = {"__name__": "submission"}
    for number, source, tree in parsed(cells):
        name = f"cell {number}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        for node in filter(defines, tree.body):
            try:
                exec(compile(ast.Module([node], []), name, "exec"), defined)
            except Exception:  # what a call then misses is said by its own error
                continue
    send(channel, {"ready": [name for name, value in defined.items() if callable(value)]})
    while True:
        name, args = pickle.loads(channel.recv_bytes())  # from the grader
        send(channel, answer(defined[name], args))


def parsed(cells):
    """(number, source, tree) of each code cell that is Python, its magic lines left out."""
    for number, cell in enumerate(cells, 1):
        source = re.sub(r"^[ \t]*[%!].*$", "", cell, flags=re.MULTILINE)
        try:
            yield number, source, ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def defines(node):
    """An import, a function, a class or a plain constant: the other lines of a notebook are not run."""
    return isinstance(node, DEFINITIONS) or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))


def answer(function, args):
    """What a call gave back, or its error in words, and what it left of its arguments."""
    try:
        result = plain(function(*args))
    except NotImplementedError:
        return {"result": None, "args": []}
    except BaseException as error:  # `exit()` among them: the submission must not end the process with a result
        return {"error": f"{type(error).__name__}: {error}{line_of(error)}"[:2000]}
    return {"result": result, "args": [left(arg) for arg in args]}


def plain(value):
    """Numbers, tensors and tuples of them; anything else by the name of its type."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().as_subclass(torch.Tensor)
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if value is ...:
        return None
    return value if isinstance(value, bool | int | float | None) else f"<{type(value).__name__}>"


def left(arg):
    """The state of an argument after the call, as far as a test may look at it."""
    if isinstance(arg, nn.Module):
        return {"tensors": dict(arg.state_dict()), "modes": [module.training for module in arg.modules()]}
    if isinstance(arg, torch.Generator):
        return arg.get_state()
    return arg.detach() if isinstance(arg, torch.Tensor) else None


def send(channel, message):
    buffer = io.BytesIO()
    torch.save(message, buffer)
    channel.send_bytes(buffer.getvalue())
