"""The anatomy of each notebook, read from its file; nbval executes them (nbval_harness.py)."""

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from run_notebooks import FOLDED, stamp

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
MACHINE_PATH = re.compile(r"(?<![\w.<>/)\]])/[A-Za-z][\w.-]*/[\w.-]+|\b[A-Z]:\\\w")


@pytest.fixture(params=PATHS, ids=lambda path: path.name)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def kinds(cell):
    return {kind for output in cell["outputs"] for kind in output.get("data", {})}


def printed(cell):
    """All text among a cell's outputs."""
    for output in cell["outputs"]:
        yield "".join(output.get("text", []))
        for kind, value in output.get("data", {}).items():
            if kind not in PICTURES:
                yield "".join(value) if isinstance(value, list) else json.dumps(value)


def test_there_are_notebooks():
    assert PATHS


def test_begins_with_title_question_and_measured_time(notebook):
    opening = notebook["cells"][0]
    assert opening["cell_type"] == "markdown" and source(opening).startswith("# ")
    assert "?" in source(opening)
    assert re.search(r"\d\s*(?:s|seconds|min|minutes)\b", source(opening)), "say how long it runs on two cores"


def test_one_cell_holds_the_parameters(notebook):
    assert sum("parameters" in tags(cell) for cell in cells(notebook, "code")) == 1


def lines(cell):
    return [line for line in source(cell).splitlines() if line.strip()]


def test_a_teaching_cell_is_short_and_its_lines_fit_the_page(notebook):
    teaching = [cell for cell in cells(notebook, "code") if "check" not in tags(cell)]
    rewritten = any("check" in tags(cell) for cell in cells(notebook, "code"))
    long, wide = (15, 100) if rewritten else (20, 120)
    assert not [cell["id"] for cell in teaching if len(lines(cell)) > long]
    assert not [cell["id"] for cell in teaching if any(len(line) > wide for line in lines(cell))]


def test_what_teaches_is_open_and_all_else_is_folded(notebook):
    for cell in cells(notebook, "code"):
        hidden = cell["metadata"].get("jupyter", {}).get("source_hidden", False)
        assert hidden == bool(FOLDED & tags(cell)), cell["id"]
        assert not ("drawing" in tags(cell) and re.search(r"\bassert\b", source(cell))), cell["id"]
        if "check" in tags(cell):
            assert not cell["outputs"], f"{cell['id']}: what a check prints is seen by nobody"
            assert re.search(r"\bassert\b|check_parameters", source(cell)), cell["id"]


def test_text_comes_between_the_code(notebook):
    teaching = [cell for cell in notebook["cells"] if "check" not in tags(cell)]
    runs = [len(list(run)) for kind, run in groupby(cell["cell_type"] for cell in teaching) if kind == "code"]
    assert len(cells(notebook, "code")) >= 10 and max(runs) <= 2


def test_number_of_words(notebook):
    assert sum(len(source(cell).split()) for cell in cells(notebook, "markdown")) >= 800


def test_executed_in_order_without_an_error(notebook):
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]


def test_runs_as_it_is_read(notebook):
    code = "\n".join(source(cell) for cell in cells(notebook, "code"))
    assert not re.search(r"sys\.path|\bif FAST\b", code)


def test_cells_are_told_apart(notebook):
    assert not [name for name, count in Counter(cell["id"] for cell in notebook["cells"]).items() if count > 1]


def test_links_lead_to_a_notebook_beside_it(notebook):
    """Only there do they also work in a learner's copy, which lies in another folder."""
    links = [link for cell in cells(notebook, "markdown") for link in re.findall(r"\]\(([^)\s]+)", source(cell))]
    local = {link.split("#")[0] for link in links if not re.match(r"https?:|#|attachment:", link)}
    assert local <= {path.name for path in PATHS}


def test_its_references_are_written_as_the_book_reads_them(notebook):
    for line in source(notebook["cells"][-1]).split("## References")[1].strip().splitlines():
        assert re.match(r"- .+?: \*.+?\*, \d{4}\. (arXiv|doi):\S+", line), line


def test_outputs_tell_nothing_of_this_machine(notebook):
    texts = [text for cell in cells(notebook, "code") for text in printed(cell)]
    assert not [match[0] for text in texts for match in [ADDRESS.search(text) or MACHINE_PATH.search(text)] if match]


def test_no_output_goes_uncompared_but_that_of_a_widget(notebook):
    code = cells(notebook, "code")
    ignored = [cell for cell in code if "nbval-ignore-output" in tags(cell)]
    assert len(ignored) <= 2 and all(WIDGET in kinds(cell) for cell in ignored)
    assert not [cell for cell in code if tags(cell) & {"nbval-skip", "raises-exception"} or "NBVAL_" in source(cell)]


def test_some_output_is_compared_to_the_letter(notebook):
    assert [
        cell
        for cell in cells(notebook, "code")
        if cell["outputs"] and not tags(cell) & {"trained", "published", "close", "nbval-ignore-output"}
    ]


def test_the_figure_of_the_readme_is_the_one_in_the_notebook():
    code = [cell for path in PATHS for cell in cells(json.loads(path.read_text(encoding="utf-8")), "code")]
    outputs = [output for cell in code if "readme-figure" in tags(cell) for output in cell["outputs"]]
    (figure,) = (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    assert (FOLDER / "figures" / "series.png").read_bytes() == base64.b64decode("".join(figure))


# what is committed was made by what is committed: one look each, and a word about what to do

COMMITTED = [*PATHS, *sorted(FOLDER.glob("app/*.ipynb"))]
committed = pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)


@committed
def test_outputs_were_made_by_this_code(path):
    notebook = nbformat.read(path, as_version=4)
    again = f"make run NOTEBOOKS={path.relative_to(FOLDER.parent)}"
    assert notebook.metadata.get("made_with") == stamp(notebook), (
        f"{path.name} is stale, as its code or the version of a recipe has changed: {again}"
    )


@committed
def test_no_output_is_an_error_and_nothing_is_left_of_a_run(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [output for cell in cells(notebook, "code") for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "widgets" not in notebook["metadata"]
    assert not [cell for cell in notebook["cells"] if "execution" in cell["metadata"]]


@committed
def test_a_notebook_is_small(path):
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_code_and_notebooks_are_formatted(command):
    folders = [FOLDER.parent / name for name in ("advutils", "book", "notebooks", "tests")]
    call = [sys.executable, "-m", "ruff", *command.split(), *folders]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
