"""Runs the notebooks that train on other seeds, other numbers of threads and as other processors: an hour or more.

    python tests/tools/machines.py --notebook 07 --seed 0 --seed 1
    python tests/tools/machines.py --machine sse41,default,1

A machine is ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY and OMP_NUM_THREADS. A processor imitates only those below it: what
is above its own is what it is. Each run is a line: what held, or which cell failed and how, and the lines that the
cells with the tag `trained` printed.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
TRAINING = ("01", "04", "07", "08", "11", "12")
MACHINES = [",".join(parts) for parts in itertools.product(("sse41", "avx2"), ("default", "avx2"), ("1", "2"))]
HERE = "here,here,1"


def run(notebook, machine, seed):
    """One notebook, executed on one imitated machine: what to print about it."""
    isa, capability, threads = machine.split(",")
    told = {"ONEDNN_MAX_CPU_ISA": isa.upper(), "ATEN_CPU_CAPABILITY": capability}
    environment = {name: value for name, value in os.environ.items() if name not in told}
    environment |= {name: value for name, value in told.items() if value.lower() != "here"}
    path = next(NOTEBOOKS.glob(f"{notebook}*.ipynb"))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, path.name)
        command = [sys.executable, "-m", "papermill", "--cwd", NOTEBOOKS, path, out, "-p", "seed", str(seed)]
        environment |= {"OMP_NUM_THREADS": threads, "ADVUTILS_CACHE": folder}
        subprocess.run([*map(str, command), "--no-progress-bar"], env=environment, capture_output=True)
        cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    wrong = [f"{o.ename}: {o.evalue} in {cell.id}\n" + "\n".join(o.traceback[-1:]) for cell in cells
             for o in cell.outputs if o.output_type == "error"]  # fmt: skip
    printed = [o.text for cell in cells if "trained" in cell.metadata.get("tags", []) for o in cell.outputs
               if o.output_type == "stream" and o.name == "stdout"]  # fmt: skip
    verdict = "FAILED" if wrong else "held"
    head = f"## {path.name}, {machine}, seed {seed}: {verdict}, {time.monotonic() - start:.0f} s"
    return "\n".join([head, *wrong, "".join(printed).rstrip()])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebook", action="append", metavar="NN", help=f"of {', '.join(TRAINING)}; all if left out")
    parser.add_argument("--seed", action="append", type=int, help="on this machine; 1 to 4 if left out")
    parser.add_argument("--machine", action="append", help=f"with seed 0; {' '.join(MACHINES)} if left out")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    runs = [
        (HERE, seed) for seed in (range(1, 5) if chosen.seed is None and chosen.machine is None else chosen.seed or [])
    ]
    runs += [(m, 0) for m in (MACHINES if chosen.seed is None and chosen.machine is None else chosen.machine or [])]
    with ThreadPoolExecutor(chosen.at_once) as pool:
        cases = [(notebook, *one) for one in runs for notebook in chosen.notebook or TRAINING]
        failed = 0
        for text in pool.map(lambda case: run(*case), cases):
            failed += ": FAILED," in text.splitlines()[0]
            print(text, flush=True)
    print(f"{len(cases)} runs, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
