"""Every rule of nbval_harness.py can fail and can pass, and `make run` leaves what it should: on tiny notebooks."""

import base64
import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import numpy as np
import pytest
import run_notebooks
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval_harness import changed_notebooks, differences, pixels, without_bars
from PIL import Image

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
DRAW = """
import base64, io, sys, warnings
import matplotlib.pyplot as plt
from IPython.display import Image, display

def figure(title, size=4, middle=3):
    axes = plt.Figure(figsize=(size, 3), dpi=100).subplots()
    axes.plot([1, middle, 2])
    axes.set_ylim(0, 4)
    axes.set_title(title)
    axes.figure.savefig(png := io.BytesIO(), format="png")
    return png.getvalue()
"""
here = {}
exec(DRAW, here)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(title, size=4):
    picture = base64.b64encode(here["figure"](title, size)).decode()
    return new_output("display_data", {"image/png": picture, "text/plain": "<IPython.core.display.Image object>"})


def bar(tail=""):
    return f"import tqdm\nfor _ in tqdm.tqdm(range(3), desc='training', leave=False):\n    pass\n{tail}"


def widget(value):
    slider = f"IntSlider(value={value}, description='k')"
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "of another day"}, "text/plain": slider}
    return new_output("execute_result", view, execution_count=1)


SLIDER = "import ipywidgets; ipywidgets.IntSlider(value={}, description='k')"
ACCURACY = "VGG-16:   0.98 [0.97, 0.99]\n"


def published(name, now, committed, expected=None):
    """A case for the rule for what attacks find on published weights."""
    return f"published, {name}", "published", f"print({now!r})", [printed(f"{committed}\n")], expected


# What the cell does, its tag, its code, the outputs committed with it, and what the test must say (None: it passes).
CELLS = [
    ("defines the figure", None, DRAW, [], None),
    ("same text", None, "print('eps 0.1')", [printed("eps 0.1\n")], None),
    ("other number", None, "print('eps 0.2')", [printed("eps 0.1\n")], "-eps 0.1\n+eps 0.2"),
    ("same value", None, "6 * 7", [new_output("execute_result", {"text/plain": "42"}, execution_count=1)], None),
    ("output no more", None, "pass", [printed("eps 0.1\n")], "stdout: 1 in the notebook, 0 now"),
    ("output unexpected", None, "print(1)", [], "stdout: 0 in the notebook, 1 now"),
    ("close number", "close", "print('loss 0.500001')", [printed("loss 0.5\n")], None),
    ("number not close", "close", "print('loss 0.5001')", [printed("loss 0.5\n")], "+loss 0.5001"),
    ("trained number", "trained", "print('VGG-16: 0.9812 [0.1, 1.0]')", [printed(ACCURACY)], None),
    (
        "trained word",
        "trained",
        "print('VGG-16: 0.98 [0.97, 0.99)')",
        [printed(ACCURACY)],
        "+VGG-16: 0.98 [0.97, 0.99)",
    ),
    ("trained name", "trained", "print('VGG-13: 0.98 [0.97, 0.99]')", [printed(ACCURACY)], "+VGG-13"),
    ("trained to nan", "trained", "print('VGG-16: nan [0.97, 0.99]')", [printed(ACCURACY)], "+VGG-16: nan"),
    ("trained, one more number", "trained", "print('VGG-16: 0.98 [0.97, 0.99] 3')", [printed(ACCURACY)], "+VGG-16"),
    ("trained verdict", "trained", "print('LOOK  Square finds 1%')", [printed("ok    Square finds 0%\n")], None),
    ("trained, verdict gone", "trained", "print('Square  LOOK')", [printed("Square  ok\n")], "+Square  LOOK"),
    ("close verdict", "close", "print('LOOK  Square')", [printed("ok    Square\n")], "+LOOK  Square"),
    (
        "trained, picture missing",
        "trained",
        "print('loss 1')",
        [printed("loss 2\n"), shown("a")],
        "image/png: 1 in the",
    ),
    published("the same", "FGSM leaves 61.3% of 500", "FGSM leaves 61.3% of 500"),
    published("a point more", "FGSM leaves 62.3%", "FGSM leaves 61.3%"),
    published("a point less", "FGSM leaves 0.0%", "FGSM leaves 1.0%"),
    published("more than a point", "FGSM leaves 62.4%", "FGSM leaves 61.3%", "+FGSM leaves 62.4%"),
    published("more than a point less", "FGSM leaves 60.2%", "FGSM leaves 61.3%", "+FGSM leaves 60.2%"),
    published("a point of a whole percentage", "FGSM leaves 62%", "FGSM leaves 61%"),
    published("two points of it", "FGSM leaves 63%", "FGSM leaves 61%", "+FGSM leaves 63%"),
    published("3% of a number", "loss 1.543", "loss 1.500"),
    published("more than 3% of a number", "loss 1.548", "loss 1.500", "+loss 1.548"),
    published("two images", "14 of 200 are fooled", "12 of 200 are fooled"),
    published("three images", "15 of 200 are fooled", "12 of 200 are fooled", "+15 of 200"),
    published("two of the last digit", "loss 0.04", "loss 0.02"),
    published("three of the last digit", "loss 0.05", "loss 0.02", "+loss 0.05"),
    published("of a power of ten", "loss 1.4e-05", "loss 1.2e-05"),
    published("another power of ten", "loss 1.2e-04", "loss 1.2e-05", "+loss 1.2e-04"),
    published("p-value", "12 against 7, p = 0.36", "12 against 7, p = 2.1e-08"),
    published("count beside a p-value", "22 against 7, p = 0.36", "12 against 7, p = 0.36", "+22 against 7"),
    published("p-value gone", "12 against 7", "12 against 7, p = 0.36", "+12 against 7"),
    published("another word", "PGD leaves 61.3%", "FGSM leaves 61.3%", "+PGD leaves"),
    published("one more number", "FGSM leaves 61.3% 4", "FGSM leaves 61.3%", "+FGSM leaves"),
    published("not a number", "loss nan", "loss 0.02", "+loss nan"),
    published("another sign", "-0.30 +- 0.01", "0.30 +- 0.01", "+-0.30"),
    published("verdict", "LOOK  Square finds 1%", "ok    Square finds 0%"),
    published("verdict gone", "Square  LOOK", "Square  ok", "+Square  LOOK"),
    ("published figure", "published", "display(Image(figure('clean')))", [shown("clean")], None),
    ("published line, moved", "published", "display(Image(figure('clean', middle=2.96)))", [shown("clean")], None),
    (
        "published line, far off",
        "published",
        "display(Image(figure('clean', middle=2.6)))",
        [shown("clean")],
        "look diff",
    ),
    ("published title", "published", "display(Image(figure('fooled')))", [shown("clean")], "look different"),
    ("published size", "published", "display(Image(figure('clean', 5)))", [shown("clean")], "(300, 500, 3) now"),
    ("line, moved", None, "display(Image(figure('clean', middle=2.96)))", [shown("clean")], "look different"),
    ("same figure", None, "display(Image(figure('clean')))", [shown("clean")], None),
    ("other title", None, "display(Image(figure('fooled')))", [shown("clean")], "of the pixels look different"),
    ("other size", None, "display(Image(figure('clean', 5)))", [shown("clean")], "image/png: (300, 400, 3) in the"),
    ("trained figure", "trained", "display(Image(figure('fooled', 4.2)))", [shown("clean")], None),
    (
        "trained figure, too large",
        "trained",
        "display(Image(figure('clean', 5)))",
        [shown("clean")],
        "(300, 500, 3) now",
    ),
    ("progress bar", None, bar(), [], None),
    ("warning beside a bar", None, bar("print('careful', file=sys.stderr)"), [], "stderr: 0 in the notebook, 1 now"),
    ("same warning", None, "print('careful', file=sys.stderr)", [printed("careful\n", "stderr")], None),
    ("widget of another day", None, SLIDER.format(3), [widget(3)], None),
    ("widget of another value", None, SLIDER.format(4), [widget(3)], "+IntSlider(value=4"),
    ("a cell that raises", None, "1 / 0", [], "ZeroDivisionError"),
    (
        "committed with an error",
        None,
        "pass",
        [new_output("error", ename="E", evalue="", traceback=[])],
        "with an error",
    ),
    ("never executed", None, "pass", [], "without being executed"),
]


def notebook(cells):
    made = [
        new_code_cell(code, outputs=outputs, execution_count=None if name == "never executed" else 1)
        | {"metadata": {"tags": [tag] if tag else []}}
        for name, tag, code, outputs, _ in cells
    ]
    return new_notebook(cells=[nbformat.from_dict(cell) for cell in made])


def git(*arguments, folder):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A run of all cells under the series' own configuration: what pytest wrote, and each cell's failure or None."""
    folder = tmp_path_factory.mktemp("series")
    path = folder / "notebooks" / "01_tiny.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(), path)
    git("init", folder=folder)
    git("add", ".", folder=folder)
    git("commit", "--message", "the series' version", folder=folder)
    nbformat.write(notebook(CELLS), path)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", folder, path]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "tools")}
    options = ["--junitxml=report.xml", "--color=no", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options], cwd=folder, env=environment, capture_output=True, text=True)
    cases = ElementTree.parse(folder / "report.xml").iter("testcase")
    return done.stdout, [case.findtext("failure") for case in cases]


@pytest.mark.parametrize("number", range(len(CELLS)), ids=[name for name, *_ in CELLS])
def test_cell(outcome, number):
    failure, expected = outcome[1][number], CELLS[number][-1]
    if expected is None:
        assert failure is None
    else:
        assert expected in (failure or "it passed")


def test_a_changed_notebook_is_met_with_kindness(outcome):
    assert "not the series' own version any more: notebooks/01_tiny.ipynb" in outcome[0]
    assert "cp notebooks/01_tiny.ipynb notebooks/mine/01_tiny-changed-1.ipynb && git checkout HEAD" in outcome[0]


def test_a_download_without_git_has_no_changed_notebooks(tmp_path):
    assert changed_notebooks(tmp_path) == []


def test_a_widget_is_compared_without_the_picture_in_it():
    def box(start, width):
        text = f"VBox(children=(Image(value=b'\\x89PNG{start}...', width='{width}'),))"
        return [new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": text})]

    assert not list(differences(box("a", 90), box("b\\'", 90), "letter"))
    assert list(differences(box("a", 90), box("a", 91), "letter"))


@pytest.mark.parametrize(
    "text, rest",
    [
        ("\r  0%|          | 0/8 [00:00<?, ?it/s]\r100%|██████| 8/8 [00:35<00:00, 4.4s/it, loss=0.1]\r      \r", ""),
        ("epoch 2:  50%|███   | 4/8 [00:01<00:01, 4it/s]Careful: [1, 2]\n", "Careful: [1, 2]\n"),
        ("50% | of it [sic]\n", "50% | of it [sic]\n"),
    ],
)
def test_only_bars_are_taken_from_stderr(text, rest):
    assert without_bars(text) == rest


def test_a_figure_keeps_its_looks_in_half_of_the_bytes_and_a_photograph_its_pixels():
    old = base64.b64encode(here["figure"]("a")).decode()
    new = run_notebooks.smaller(old)
    change = abs(pixels(new) - pixels(old)).max(axis=-1)
    assert (change > run_notebooks.VISIBLE).mean() < run_notebooks.SEEN and len(new) < 0.6 * len(old)
    assert run_notebooks.smaller(new) == new
    colours, photograph = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(colours).save(photograph, "PNG")
    assert (pixels(run_notebooks.smaller(base64.b64encode(photograph.getvalue()).decode())) == colours).all()


def saved(path, *codes):
    cells = [new_code_cell(code) for code in codes]
    cells[-1].metadata.tags = ["readme-figure"]
    nbformat.write(new_notebook(cells=cells), path)
    return path.read_bytes()


def test_make_run_writes_what_does_not_change_from_run_to_run(tmp_path, capsys):
    path = tmp_path / "01_tiny.ipynb"
    saved(path, DRAW, SLIDER.format(3), bar("print('careful', file=sys.stderr); print(2)"), "Image(figure('a'))")
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    run_notebooks.main([str(path)])
    after = nbformat.read(path, as_version=4)
    assert [cell.id for cell in after.cells] == ids
    assert [cell.execution_count for cell in after.cells] == [1, 2, 3, 4]
    assert {output.name: output.text for output in after.cells[2].outputs} == {"stderr": "careful\n", "stdout": "2\n"}
    assert after.metadata.kernelspec.name == "python3"
    assert "widgets" not in after.metadata and "version" not in after.metadata.language_info
    assert not [cell for cell in after.cells if "execution" in cell.metadata]
    kept, drawn = after.cells[3].outputs[0].data["image/png"], base64.b64encode(here["figure"]("a")).decode()
    assert np.array_equal(pixels(kept), pixels(run_notebooks.smaller(drawn)))
    assert base64.b64decode(kept) == (tmp_path / "figures" / "series.png").read_bytes() and len(kept) <= len(drawn)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["01_tiny.ipynb", "figures"]
    assert capsys.readouterr().out.startswith("1/1 01_tiny.ipynb  ")


def test_make_run_stops_at_an_error_and_leaves_the_file(tmp_path):
    path = tmp_path / "01_tiny.ipynb"
    before = saved(path, "print('fine')", "assert 1 > 2, 'a claim'")
    with pytest.raises(
        SystemExit, match=r"Code cell 2 of 01_tiny.ipynb failed(?s:.*)assert 1 > 2, 'a claim'(?s:.*)AssertionError"
    ):
        run_notebooks.main([str(path)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["01_tiny.ipynb"]
