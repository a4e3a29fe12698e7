"""Counts the package's lines of code, room by room: `make lines`. Docstrings, comments and blank lines are none.

The core, marked *, is what a learner reads; AutoAttack's adapter to another package is none of it. Functions of more
than 30 lines are named.
"""

import argparse
import ast
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "advutils"
CORE = {"attacks", "objectives.py", "models.py", "data.py", "evaluation.py", "training.py", "plots.py"}
ADAPTER = "attacks/auto.py"
LONG = 30
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(path):
    """The numbers of the lines of a file that hold code, and its functions."""
    with tokenize.open(path) as file:
        tokens = [token for token in tokenize.generate_tokens(file.readline) if token.type not in NO_CODE]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines, [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def in_core(name):
    """Whether a file, by its path in the package, is of the core."""
    return name.split("/")[0] in CORE and name != ADAPTER


def counted():
    """{path in the package: lines of code}, and a line of text for each long function."""
    files, long = {}, []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        lines, functions = code_lines(path)
        files[name] = len(lines)
        sizes = [(node.name, len(lines & set(range(node.lineno, node.end_lineno + 1)))) for node in functions]
        long += [f"{name}: {function}, {size} lines" for function, size in sizes if size > LONG]
    return files, long


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="count each file, not each room")
    chosen = parser.parse_args(arguments)
    files, long = counted()
    rooms = {}
    for name, lines in files.items():
        room = (name if chosen.files else name.split("/")[0]) + " *" * in_core(name)
        rooms[room] = rooms.get(room, 0) + lines
    for room, lines in rooms.items():
        print(f"{room:32}{lines:6}")
    core = sum(lines for name, lines in files.items() if in_core(name))
    print(f"{'the core':32}{core:6}\n{'all':32}{sum(files.values()):6}\n\nfunctions of more than {LONG} lines:")
    print(*long, sep="\n")


if __name__ == "__main__":
    main()
