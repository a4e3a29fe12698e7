"""The other side of `grading`: the process in which a submission's functions run. It judges nothing."""

import ast
import io
import linecache
import os
import pickle
import re

import numpy as np
import torch
from torch import nn

from advutils.exercises.framework import is_stub, line_of

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
PLAIN = (
    ast.Constant, ast.Name, ast.expr_context, ast.Tuple, ast.List, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator,
)  # fmt: skip
IPYTHON = re.compile(
    r"^[ \t]*(?:(?:\w+[ \t]*=[ \t]*)?[%!].*|\?.*|[\w.]+\?\??[ \t\r]*)$", re.MULTILINE
)  # magic, shell, help


def serve(channel, cells, folder, predictions):
    """Define what the submission's cells define, say so, and then answer one call after the other.

    Args:
        channel: the end of a pipe; what goes back are bytes that `torch.load(weights_only=True)` reads.
        cells: the sources of the submission's code cells.
        folder: to work in.
        predictions: names of checks; what is handed to check.NAME is the answer of a function of that name.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.chdir(folder)
    defined: dict = {"__name__": "submission"}
    for number, source, tree in parsed(cells):
        name = f"cell {number}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        for node in tree.body:
            try:
                defined |= {f"check.{one}": later(value, name, defined) for one, value in answers(node, predictions)}
                if defines(node):
                    exec(compile(ast.Module([node], []), name, "exec"), defined)
            except BaseException:  # `exit()` among them; what a call then misses is said by its own error
                continue
    send(channel, {"ready": [name for name, value in defined.items() if callable(value)]})
    while True:
        name, args, slopes = pickle.loads(channel.recv_bytes())  # from the grader
        for arg, grads in zip(args, slopes):
            set_gradients(arg, grads)
        send(channel, answer(defined[name], args))


def parsed(cells):
    """(number, source, tree) of each code cell that is Python, if need be without its lines for IPython."""
    for number, cell in enumerate(cells, 1):
        source, tree, _ = read(cell, number)
        if tree:
            yield number, source, tree


def read(cell, number):
    """A cell's source and its tree; the error in place of the tree where it is no Python."""
    for source in (cell, IPYTHON.sub("", cell)):
        try:
            return source, ast.parse(source, f"cell {number}"), None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = error
    return source, None, why


def defines(node):
    """An import, a function, a class or numbers with a name: the other lines of a notebook are not run."""
    if not isinstance(node, ASSIGNMENTS) or node.value is None:
        return isinstance(node, DEFINITIONS)
    return isinstance(node.value, ast.Lambda) or all(isinstance(part, PLAIN) for part in ast.walk(node.value))


def answers(node, predictions):
    """(name, expression) of what a statement hands to the checks of predictions."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in predictions:
            given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "answer")]
            if len(given) == 1:
                yield call.func.attr, given[0]


def later(expression, cell, defined):
    """A function that finds an expression's value, with the names as they are now."""
    code, names = compile(ast.Expression(expression), cell, "eval"), dict(defined)
    return lambda: eval(code, names)


def answer(function, args):
    """What a call gave back, or its error in words, and what it left of its arguments."""
    try:
        result = plain(function(*args))
    except BaseException as error:  # `exit()` among them: the submission must not end the process with a result
        if is_stub(error):
            return {"result": None, "args": []}
        return {"error": f"{type(error).__name__}: {error}{line_of(error)}"[:2000]}
    return {"result": result, "args": [left(arg) for arg in args]}


def plain(value):
    """Numbers, texts, tensors, arrays as {"numpy": tensor}, and tuples of these; of anything else its type's name."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().as_subclass(torch.Tensor)
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return {"numpy": torch.from_numpy(np.array(value, order="C"))}
    if value is None or value is ...:
        return None
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    return kind(value) if kind else f"<{type(value).__name__}>"


def left(arg):
    """The state of an argument after the call, as far as a test may look at it."""
    if isinstance(arg, nn.Module):
        modes = [module.training for module in arg.modules()]
        return {"tensors": dict(arg.state_dict()), "modes": modes, "gradients": gradients(arg)}
    if isinstance(arg, torch.Generator):
        return arg.get_state()
    return arg.detach() if isinstance(arg, torch.Tensor) else None


def gradients(arg):
    """Of a model's parameters, in their order; a parameter does not take its gradient along to another process."""
    found = [one.grad for one in arg.parameters()] if isinstance(arg, nn.Module) else []
    return [grad if grad is None else grad.detach() for grad in found]


def set_gradients(arg, grads):
    for one, grad in zip(arg.parameters() if isinstance(arg, nn.Module) else (), grads):
        one.grad = grad


def send(channel, message):
    buffer = io.BytesIO()
    torch.save(message, buffer)
    channel.send_bytes(buffer.getvalue())
