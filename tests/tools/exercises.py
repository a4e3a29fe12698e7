"""Writes the exercises into the notebooks, and their solutions beside them: `make exercises`.

The one source of both is notebooks/solutions/source/NN_*.py, which describes the exercises in their order:

    here = Notebook(__file__)
    here.predict("name", task, answer=..., wrong={answer: "words of the remark"})
    here.write("name", task, hints)(function)   # its solution stands between ### BEGIN SOLUTION and ### END SOLUTION
    here.write("name", task, hints, early=True)(function)  # before the others: it stands where the notebook needs it
    here.bug("name", words)(function)            # in notebook 13: the function as it came, shown above the one to write
    here.mistake("name", "words of the symptom")(wrong_function)
    here.explain("name", task, answer, contains)
    here.more(text)                              # open ones, without an answer

What checks them is `advutils.exercises.check`. A notebook's section is what lies between its heading `## Exercises` and
the line of the next notebook. An early exercise has its cells among those that teach: put in cells with the ids
`exercise-check`, `exercise-NAME-task` and `exercise-NAME` once, in this order, and this program fills them.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from run_notebooks import normalised, save, stamp

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SOLUTIONS = NOTEBOOKS / "solutions"
SECTION = re.compile(r"^## Exercises\n.*?(?=^\*\*(?:Next|See also):|^## References)", re.DOTALL | re.MULTILINE)
HOLE = re.compile(r"( *)### BEGIN SOLUTION\n.*?### END SOLUTION\n", re.DOTALL)
KINDS = {"predict": "Predict", "write": "Write", "explain": "Explain"}
INTRODUCTION = (
    "## Exercises\n\n"
    "The first stands above, in the text. Take the others in order, or begin with the one that you like. `check` "
    "answers: it runs your function on small data of its own, and says what it saw. Above each function to write there "
    "are three hints. Open the first one when you are stuck, and the next one when you still are. All solutions lie in "
    "`notebooks/solutions/{name}`."
)
EARLY = (
    "*Write your lines, run the cell, and read what `check` says. Or go on without it: the cells below do not need "
    "your function.*"
)
PLACE = "*Your answer (a double click opens this cell):*"


@dataclass
class Source:
    """One exercise as its source has it. What checks it has the same name in `advutils.exercises.check`."""

    name: str
    kind: str
    task: str
    hints: tuple = ()
    function: object = None
    answer: object = None
    contains: tuple = ()
    explanation: str = ""  # what was wrong, for those who have tried
    early: bool = False
    mistakes: list = field(default_factory=list)  # (wrong function or answer, words of what the check says to it)

    @property
    def solution(self):
        """The code that solves it."""
        if self.kind == "predict":
            return f"check.{self.name}({json.dumps(self.answer)})"
        return f"{plain(self.function)}\n\n\ncheck.{self.name}(my_{self.name})"

    @property
    def stub(self):
        """The code that the learner starts from."""
        if self.kind == "predict":
            return f"check.{self.name}(...)"
        return HOLE.sub(r"\1...\n", self.marked())

    def marked(self):
        return f"{source_of(self.function)}\n\n\ncheck.{self.name}(my_{self.name})"


class Notebook:
    """The exercises of one notebook, in their order."""

    def __init__(self, file, introduction=INTRODUCTION):
        self.path = NOTEBOOKS / f"{Path(file).stem}.ipynb"
        self.introduction = introduction.format(name=self.path.name)
        self.source, self.exercises, self.open = Path(file), {}, ""
        self.bugs = {}  # {name: function as it came}, where exercises stand between the other cells

    def predict(self, name, task, *, answer, wrong):
        self.exercises[name] = Source(name, "predict", task, answer=answer, mistakes=list(wrong.items()))

    def write(self, name, task, hints, explanation="", early=False):
        assert not early or all(one.early for one in self.exercises.values()), f"{name}: early ones come first"

        def added(function):
            assert function.__name__ == f"my_{name}" and len(hints) == 3, name
            self.exercises[name] = Source(name, "write", task, hints, function, explanation=explanation, early=early)
            return function

        return added

    def bug(self, name, words):
        def added(function):
            assert function.__name__ == name, name
            self.bugs[name] = function
            return self.mistake(name, words)(function)

        return added

    def mistake(self, name, words):
        def added(function):
            self.exercises[name].mistakes.append((function, words))
            return function

        return added

    def explain(self, name, task, answer, contains):
        self.exercises[name] = Source(name, "explain", task, answer=answer, contains=contains)

    def more(self, text):
        self.open = text

    @property
    def of_checks(self):
        """The exercises that a check answers."""
        return {name: one for name, one in self.exercises.items() if one.kind != "explain"}


def load(path):
    """The `Notebook` that a source file describes."""
    spec = importlib.util.spec_from_file_location(f"source_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its functions can be sent to another process
    spec.loader.exec_module(module)
    return module.here


def sources():
    """Every notebook that has a source, in order."""
    return [load(path) for path in sorted(SOLUTIONS.glob("source/[0-9]*.py"))]


def source_of(function):
    """A function's source without its decorators."""
    text = textwrap.dedent(inspect.getsource(function))
    first = ast.parse(text).body[0].lineno
    return "\n".join(text.splitlines()[first - 1 :])


def plain(function):
    return re.sub(r" *### (?:BEGIN|END) SOLUTION\n?", "", source_of(function)).rstrip()


def folded(summary, text):
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def cell(make, name, text):
    made = make(text, id=f"exercise-{name.replace('_', '-')}"[:64])
    made.metadata["tags"] = ["exercise"]
    return made


def exercise_cells(here):
    """All cells of the exercises, in their order in the notebook."""
    return [*early_cells(here), *section_cells(here)]


def early_cells(here):
    """The cells that stand among those that teach."""
    made = [made for number, one in numbered(here) if one.early for made in task_cells(number, one)]
    return [imported(), *made] if made else []


def section_cells(here):
    """The cells of the section."""
    introduction = cell(new_markdown_cell, "introduction", here.introduction)
    made = [made for number, one in numbered(here) if not one.early for made in task_cells(number, one)]
    if here.open:
        made.append(cell(new_markdown_cell, "open", f"### To try on your own\n\n{here.open}"))
    return [introduction, *([] if early_cells(here) else [imported()]), *made]


def numbered(here):
    return enumerate(here.exercises.values(), 1)


def imported():
    return cell(new_code_cell, "check", "from advutils.exercises import check")


def task_cells(number, one):
    """The task with its folded hints, and the stub or the place for an answer."""
    parts = [heading(number, one), *([EARLY] if one.early else [])]
    parts += [folded(f"Hint {i}", hint) for i, hint in enumerate(one.hints, 1)]
    parts += [folded("A worked answer", answered(one))] if one.kind == "explain" else []
    parts += [folded("What was wrong (for when you have tried)", one.explanation)] if one.explanation else []
    task = cell(new_markdown_cell, f"{one.name}-task", "\n\n".join(parts))
    if one.kind == "explain":
        return [task, cell(new_markdown_cell, one.name, PLACE)]
    return [task, cell(new_code_cell, one.name, one.stub)]


def heading(number, one):
    title, _, task = one.task.strip().partition("\n\n")
    return f"### {'Mend' if one.explanation else KINDS[one.kind]} {number}: {title}\n\n{task}"


def answered(one):
    points = "\n".join(f"- {point}" for point in one.contains)
    return f"{one.answer.strip()}\n\n*A good answer contains:*\n\n{points}"


def solution_notebook(here):
    """The same exercises, solved; not yet executed."""
    title = nbformat.read(here.path, as_version=4).cells[0].source.splitlines()[0]
    cells = [new_markdown_cell(f"{title}: solutions", id="title")]
    cells.append(new_code_cell(imports(here), id="imports"))
    for number, one in numbered(here):
        after = answered(one) if one.kind == "explain" else one.explanation
        text = f"{heading(number, one)}\n\n{after}".strip()
        cells.append(new_markdown_cell(text, id=f"{one.name.replace('_', '-')}-task"))
        if one.kind != "explain":
            cells.append(new_code_cell(one.solution, id=one.name.replace("_", "-")))
    return new_notebook(cells=cells)


def imports(here):
    """The imports that the solutions need, of those in the source file."""
    used = {name for one in here.of_checks.values() for name in names(one.solution)}
    lines = []
    for node in ast.parse(here.source.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "module", "") != "exercises":
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
            lines += [ast.unparse(node)] if node.names else []
    first = [line for line in lines if "advutils" not in line]
    last = [line for line in lines if "advutils" in line] + ["from advutils.exercises import check"]
    return "\n".join([*first, "", *last] if first else last)


def names(code):
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def write_notebook(here):
    """Replace the notebook's section of exercises by the one of the source, executed by itself."""
    notebook = nbformat.read(here.path, as_version=4)
    if here.bugs:
        return save(filled(notebook, here), here.path)
    before, after = split(notebook.cells)
    ran = executed(new_notebook(cells=exercise_cells(here))).cells
    start = len(early_cells(here))
    fill(before, ran[:start])
    counts = sum(one.cell_type == "code" for one in before)
    for count, one in enumerate((one for one in ran[start:] if one.cell_type == "code"), counts + 1):
        one.execution_count = count
    for output in (output for one in ran if one.cell_type == "code" for output in one.outputs):
        output.pop("execution_count", None)
    notebook.cells = [*before, *ran[start:], *after]
    save(normalised(notebook), here.path)


def fill(cells, made):
    """Replace the cells that have the ids of the made ones; their counts stay."""
    places = {one.id: place for place, one in enumerate(cells)}
    for one in made:
        assert one.id in places, f"no cell {one.id}: it stands where the notebook needs the exercise"
        if one.cell_type == "code":
            one.execution_count = cells[places[one.id]].execution_count
        cells[places[one.id]] = one


def filled(notebook, here):
    """The notebook with each bug and each exercise in its place: the cell that has its id; `make run` executes them."""
    made = {one.id: one for one in exercise_cells(here)}
    made |= {
        one.id: one for one in (new_code_cell(source_of(bug), id=code_id(name)) for name, bug in here.bugs.items())
    }
    assert made.keys() <= {one.id for one in notebook.cells}, made.keys() - {one.id for one in notebook.cells}
    for one in notebook.cells:
        if one.id in made:
            one.source, one.metadata["tags"] = made[one.id].source, made[one.id].metadata.get("tags", [])
    return normalised(notebook)


def code_id(name):
    return f"code-{name.replace('_', '-')}"


def split(cells):
    """The cells before the section and those after it; a cell that holds more than the section is cut."""
    start = next(i for i, one in enumerate(cells) if re.search("^## Exercises$", one.source, re.MULTILINE))
    end = next(
        i
        for i, one in enumerate(cells)
        if i >= start and re.search(r"^\*\*(?:Next|See also):|^## References", one.source, re.MULTILINE)
    )
    before, after = list(cells[:start]), list(cells[end + 1 :])
    head = re.split("^## Exercises$", cells[start].source, flags=re.MULTILINE)[0].strip()
    found = re.search(r"^(?:\*\*(?:Next|See also):|## References).*", cells[end].source, re.MULTILINE | re.DOTALL)
    tail = found[0].strip()
    if head:
        before.append(new_markdown_cell(head, id=cells[start].id))
    name = "text-next" if cells[end].id == cells[start].id or not head else cells[end].id
    return before, [new_markdown_cell(tail, id=name), *after]


def executed(notebook):
    """Run the cells in a fresh kernel."""
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    return notebook


def write_solutions(here):
    notebook = normalised(executed(solution_notebook(here)))
    notebook.metadata["made_with"] = stamp(notebook)
    save(notebook, SOLUTIONS / here.path.name)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, metavar="N", help="of notebooks; all if none")
    chosen = parser.parse_args(arguments)
    for here in sources():
        if not chosen.numbers or int(here.path.name[:2]) in chosen.numbers:
            print(here.path.name, flush=True)
            write_notebook(here)
            write_solutions(here)


if __name__ == "__main__":
    main()
