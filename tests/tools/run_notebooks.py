"""Executes the notebooks in place and in order: `make run`, or `make run NOTEBOOKS="notebooks/03_visualize.ipynb ..."`.

A notebook is replaced only when all of its cells ran. What would differ from run to run for no reason stays out of it:
times of execution, widget state, progress bars. The picture of the cell tagged `readme-figure` is also the README's.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbval_harness import without_bars
from PIL import Image

from advutils.pretrained import VERSIONS

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CELL_SECONDS = 900
FOLDED = {"check", "drawing"}  # tags of the cells that a reader need not open
VISIBLE, SEEN = 16, 2e-4  # of 255 levels; the share of pixels that may differ by more, at the edges of lines


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="all if none")
    parser.add_argument("--normalise", action="store_true", help="only bring the files into their form")
    chosen = parser.parse_args(arguments)
    every = [*sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), *sorted(NOTEBOOKS.glob("app/*.ipynb"))]
    paths = [path.resolve() for path in chosen.notebooks] or every
    if chosen.normalise:
        return [save(normalised(nbformat.read(path, as_version=4)), path) for path in paths]
    start = time.monotonic()
    for number, path in enumerate(paths, 1):
        print(f"{number}/{len(paths)} {path.name}", end="", flush=True)
        seconds = run(path)
        print(f"  {seconds:.0f} s", flush=True)
    print(f"all in {time.monotonic() - start:.0f} s")


def run(path):
    """Execute one notebook and write it, and its figure for the README, back; the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    execute(notebook, path)
    seconds = time.monotonic() - start
    notebook = normalised(notebook)
    notebook.metadata["made_with"] = stamp(notebook)
    save(notebook, path)
    return seconds


def execute(notebook, path):
    started = []
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_SECONDS,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # its warnings would fall between the lines of progress
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: started.append(cell),
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        number = sum(cell.cell_type == "code" for cell in started)
        sys.exit(f"\nCode cell {number} of {path.name} failed; the file is as it was.\n\n{error}")


def normalised(notebook):
    """The notebook in place, without what would differ from run to run for no reason; checks and drawings folded."""
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if FOLDED & set(cell.metadata.get("tags", [])):
            cell.metadata.jupyter = {"source_hidden": True}
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(without_bar, cell.outputs) if output.get("text") != ""]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])
    return notebook


def save(notebook, path):
    nbformat.validate(notebook)
    write(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())
    for figure in readme_figures(notebook):
        write(path.parent / "figures" / "series.png", figure)


def without_bar(output):
    if output.output_type == "stream" and output.name == "stderr":
        output.text = without_bars(output.text)
    return output


def smaller(picture):
    """The picture in half of the bytes: 256 colours where that changes next to nothing, as in a figure of lines.

    A photograph keeps its colours, and a picture its transparency.
    """
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if "A" in image.getbands() and image.getextrema()[-1] == (255, 255):
        image = image.convert("RGB")
    if image.mode == "RGB":
        few = image.quantize(256, kmeans=3)
        change = np.abs(np.asarray(image, dtype=np.int16) - np.asarray(few.convert("RGB"))).max(axis=-1)
        image = few if (change > VISIBLE).mean() < SEEN else image
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(min(buffer.getvalue(), base64.b64decode(picture), key=len)).decode()


def stamp(notebook):
    """What a notebook's outputs were made with: its code cells, and the versions of the recipes that it names.

    Those of the exercises do not count: `make exercises` writes and runs them by themselves.
    """
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    code = "\n\n".join(cell.source for cell in cells if "exercise" not in cell.metadata.get("tags", []))
    kinds = "|".join(sorted(VERSIONS, key=len, reverse=True))
    named = re.findall(rf"""trained\(\s*f?["']({kinds})\b""", code)
    digest = hashlib.sha256(code.encode()).hexdigest()
    return {"code": digest[:16], "recipes": {name: VERSIONS[name] for name in sorted(set(named))}}


def readme_figures(notebook):
    for cell in notebook.cells:
        if "readme-figure" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    yield base64.b64decode(output.data["image/png"])


def write(path, content):
    """Whoever reads the file meanwhile, and whoever breaks this off, finds the old one or the new one."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


if __name__ == "__main__":
    main()
