"""How the notebooks are tested: nbval executes the cells, this says what may differ from the committed outputs.

A cell's tag chooses the rule:

    (none)     everything to the letter, pictures by their pixels
    close      the same words, numbers within 1e-4 of each other
    published  what attacks find on published weights: the same words, percentages within 1 point, other numbers within
               3% or 2 units of their last digit (2 images, of a count); pictures by their pixels, which may lie up
               to 2 pixels beside where they were. A p-value follows from the counts beside it, the ok or LOOK of a
               checklist from its line.
    trained    what was trained on this machine, where a random search on it ended, or a picture of single signs, of
               which another number of threads turns some: the same words and as many numbers, each finite; pictures
               as many and about as large. Another processor, or another number of threads, trains other weights and
               finds other squares: what such a cell claims is held by an assert in the notebook.

nbval alone passes a cell that was never executed, and any picture.
"""

import base64
import io
import json
import math
import re
import shutil
import subprocess
import time
from collections import defaultdict
from difflib import unified_diff
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile
from PIL import Image

LEVELS, SHARE = 48, 0.0005  # fonts are drawn a little differently from machine to machine; a changed title exceeds both
REACH = 2  # pixels by which a line may have moved on published weights
POINTS, RELATIVE, LAST_DIGITS = 1.0, 0.03, 2  # what may differ on published weights
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS_BAR = re.compile(r"(?:[^\r\n|]*: *)? *\d+%\|[^|\r\n]*\|[^\[\r\n]*\[[^\]\r\n]*\]|\x1b\[A")
BYTES = re.compile(r"""\bb(['"])(?:\\.|(?!\1).)*\1""")
# Digits in a name, such as those of VGG-16 or x2, are part of the word.
NUMBER = re.compile(
    r"""(?<![\w.]) (?<![A-Za-z]-)  [-+]?
        (?: (?: \d+(?:,\d{3})+ (?:\.\d*)? | \d+ (?:\.\d*)? | \.\d+ ) (?:[eE][-+]?\d+)? | (?:nan|inf)(?!\w) )""",
    re.VERBOSE,
)
VERDICT = re.compile(r"^(?:ok|LOOK)(?=  )", re.MULTILINE)
P_VALUE = re.compile(r"\bp = [\d.e+-]+")


def pytest_configure(config):
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Running(config.pluginmanager))


class Running:
    """Says which file begins and when, as several workers together show only dots."""

    def __init__(self, plugins):
        self.plugins, self.seen, self.started = plugins, set(), time.time()

    def pytest_runtest_logstart(self, nodeid):
        file = nodeid.partition("::")[0]
        if file not in self.seen:
            self.seen.add(file)
            minutes, seconds = divmod(int(time.time() - self.started), 60)
            self.plugins.get_plugin("terminalreporter").write_line(f"\n{minutes}:{seconds:02} {file}")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(parent):
    collectors = yield
    return [Notebook.from_parent(parent, path=c.path) if isinstance(c, IPyNbFile) else c for c in collectors]


class Notebook(IPyNbFile):
    def collect(self):
        for item in super().collect():
            yield Cell.from_parent(self, name=item.name, cell_num=item.cell_num, cell=item.cell, options=item.options)


class Cell(IPyNbCell):
    def runtest(self):
        if self.cell.execution_count is None:
            self.raise_cell_error("This cell was committed without being executed; `make run` executes the notebook")
        if any(output.output_type == "error" for output in self.cell.outputs):
            self.raise_cell_error("This cell was committed with an error as its output")
        super().runtest()

    def compare_outputs(self, test, ref, skip_compare=None):
        tags = self.cell.metadata.get("tags", [])
        rule = next((tag for tag in ("trained", "published", "close") if tag in tags), "letter")
        self.comparison_traceback = list(differences(ref, test, rule))
        return not self.comparison_traceback


def differences(committed, now, rule):
    """What the rule does not allow, as lines to read; outputs of one kind are compared in their order."""
    committed, now = by_kind(committed), by_kind(now)
    for kind in sorted(committed.keys() | now.keys()):
        if len(committed[kind]) != len(now[kind]):
            yield f"{kind}: {len(committed[kind])} in the notebook, {len(now[kind])} now"
            continue
        for old, new in zip(committed[kind], now[kind]):
            compare = picture_difference if kind == "image/png" else text_difference
            if difference := compare(old, new, rule):
                yield f"{kind}: {difference}"


def by_kind(outputs):
    kinds = defaultdict(list)
    for output in outputs:
        if output.output_type == "stream":
            text = without_bars(output.text) if output.name == "stderr" else output.text
            if text:
                kinds[output.name].append(text)
        else:
            for kind, value in output.data.items():
                if kind == WIDGET:
                    value = ""  # a model's id, which is random
                elif WIDGET in output.data:
                    value = BYTES.sub("b''", value)  # the first bytes of a picture that the widget shows
                kinds[kind].append(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
    return kinds


def without_bars(text):
    """Text on stderr without tqdm's bars, which differ from run to run; a warning between them stays."""
    lines = (line.rstrip() for line in re.split(r"[\r\n]", PROGRESS_BAR.sub("", text)))
    return "".join(f"{line}\n" for line in lines if line)


def text_difference(old, new, rule):
    if rule == "published":
        old, new = (P_VALUE.sub("p", text) for text in (old, new))
    if rule == "letter":
        alike = old == new
    else:
        alike = words(old, rule) == words(new, rule) and all(map(NUMBERS_AGREE[rule], numbers(old), numbers(new)))
    if not alike:
        return "\n" + "\n".join(unified_diff(old.splitlines(), new.splitlines(), "in the notebook", "now", lineterm=""))


class Number(NamedTuple):
    value: float
    unit: float  # of its last digit
    share: bool  # whether it is a percentage


def published_numbers_agree(old, new):
    if old.share:
        return abs(old.value - new.value) < POINTS + 1e-9
    last_digits = LAST_DIGITS * 1.01 * max(old.unit, new.unit)
    return math.isclose(old.value, new.value, rel_tol=RELATIVE, abs_tol=last_digits)


NUMBERS_AGREE = {
    "close": lambda old, new: math.isclose(old.value, new.value, rel_tol=1e-4, abs_tol=1e-6),
    "published": published_numbers_agree,
    "trained": lambda old, new: math.isfinite(new.value),
}


def words(text, rule):
    """The text with a mark for each number; without white space, as a column aligns to its numbers."""
    text = VERDICT.sub("", text) if rule in ("published", "trained") else text
    return re.sub(r"\s+", "", NUMBER.sub("#", text))


def numbers(text):
    found = []
    for match in NUMBER.finditer(text):
        digits, _, exponent = match[0].replace(",", "").lower().partition("e")
        decimals = len(digits.partition(".")[2])
        unit = 10.0 ** (int(exponent or 0) - decimals)
        found.append(Number(float(match[0].replace(",", "")), unit, text[match.end() : match.end() + 1] == "%"))
    return found


def picture_difference(old, new, rule):
    old, new = (pixels(picture) for picture in (old, new))
    within = 0.1 if rule == "trained" else 0  # labels that name other numbers are wider or narrower
    if any(abs(a - b) > within * a for a, b in zip(old.shape, new.shape)):
        return f"{old.shape} in the notebook, {new.shape} now"
    if rule != "trained":
        differing = (abs(old - new) > LEVELS).any(axis=-1)
        if rule == "published":
            differing = without_like(old, new) | without_like(new, old)
        if differing.mean() > SHARE:
            return f"{differing.mean():.2%} of the pixels look different"


def without_like(old, new):
    """Where the old picture has a pixel like which there is none nearby in the new one."""
    padded = np.pad(new, ((REACH, REACH), (REACH, REACH), (0, 0)), mode="edge")
    alone = np.ones(old.shape[:2], dtype=bool)
    for down, across in product(range(2 * REACH + 1), repeat=2):
        moved = padded[down : down + old.shape[0], across : across + old.shape[1]]
        alone &= (abs(old - moved) > LEVELS).any(axis=-1)
    return alone


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), dtype=np.int16)


def pytest_report_header(config):
    changed = changed_notebooks(config.rootpath)
    return [f"not the series' own version any more: {', '.join(changed)}"] if changed else []


def pytest_terminal_summary(terminalreporter, config):
    failed = " ".join(report.nodeid for report in terminalreporter.getreports("failed"))
    for notebook in map(Path, changed_notebooks(config.rootpath)):
        if notebook.name in failed:
            mine = free_name(config.rootpath, notebook)
            terminalreporter.section(f"{notebook} has been changed", sep="-")
            terminalreporter.line(
                "What failed in it may simply be your changes, and those are welcome. To keep them under another name\n"
                f"and bring the series' own version back:\n\n    mkdir -p {mine.parent} && cp {notebook} {mine}"
                f" && git checkout HEAD -- {notebook}\n"
            )


def changed_notebooks(root):
    """Notebooks that differ from the last commit; none where there is no git or no repository, as in a download."""
    if shutil.which("git") is None:
        return []
    command = ["git", "diff", "--name-only", "--relative", "--diff-filter=M", "HEAD", "--", "notebooks/*.ipynb"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def free_name(root, notebook):
    names = (Path("notebooks/mine", f"{notebook.stem}-changed-{number}.ipynb") for number in count(1))
    return next(name for name in names if not (root / name).exists())
