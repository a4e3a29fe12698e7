"""Builds the executed notebooks into a static site: `make book`, or python book/build.py FOLDER.

A network is needed once, for the packages of the laboratory: see lab.py.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from lab import lab
from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REFERENCE = re.compile(r"- (?P<authors>.+?): \*(?P<title>.+?)\*, (?P<year>\d{4})\. (?P<id>(?:arXiv|doi):\S+)")
INTERVAL = re.compile(r"(\[[\d.]+,) (?=[\d.]+\])")  # [97.3, 98.9], which no line should break
ADDRESSES = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}


def build(folder):
    """Assemble the sources in folder/source and turn them into folder/html; returns Sphinx's exit status."""
    source, site, made = folder / "source", folder / "html", folder / "made"
    for old in (source, site, made):
        shutil.rmtree(old, ignore_errors=True)
    lab(made)
    assemble(source)
    options = ["-c", HERE, "-d", folder / "doctrees", "-D", f"html_extra_path={made}", "-b", "html"]
    options += ["--fail-on-warning", "--keep-going"]
    return sphinx([str(option) for option in [*options, "--fresh-env", "--quiet", source, site]])


def assemble(source):
    """Lay the sources out as the repository has them, so that a link leads where it did; then write the made pages."""
    shutil.copytree(ROOT / "notebooks" / "figures", source / "notebooks" / "figures")
    for notebook in notebooks():
        shutil.copy(notebook, source / "notebooks")
    (source / "tests" / "benchmarks").mkdir(parents=True)
    for measured in ("table.md", "figure.png"):
        shutil.copy(ROOT / "tests" / "benchmarks" / measured, source / "tests" / "benchmarks")
    shutil.copy(ROOT / "README.md", source)
    for page in HERE.glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("../", "")  # on the site it lies one folder higher
        (source / page.name).write_text(INTERVAL.sub("\\1\N{NO-BREAK SPACE}", text), encoding="utf-8")
    for make in MADE:
        make(source)


def references(source):
    """references.md: what the notebooks cite at their ends, each paper once, with the notebooks that cite it."""
    mentions = {}
    for notebook in notebooks():
        for paper in cited(notebook):
            mentions.setdefault(paper["id"], []).append((paper, notebook))
    lines = [line for _, line in sorted(map(entry, mentions.values()))]
    text = "\n".join(["# References", "", "The papers that the notebooks cite, by first author.", "", *lines, ""])
    (source / "references.md").write_text(text, encoding="utf-8")


def cited(notebook):
    """The references at the end of a notebook, taken apart."""
    last = json.loads(notebook.read_text(encoding="utf-8"))["cells"][-1]
    for line in "".join(last["source"]).split("## References")[1].strip().splitlines():
        paper = REFERENCE.match(line)
        if not paper:
            raise ValueError(f"{notebook.name}: not written as the other references are: {line}")
        yield paper


def entry(mentions):
    """A paper's place in the list, and its line there, from all that mention it; some of these shorten the title."""
    paper = max((paper for paper, _ in mentions), key=lambda paper: len(paper[0]))
    authors, title, year, identifier = paper.groups()
    kind, number = identifier.split(":", 1)
    readers = ", ".join(f"[{int(path.name[:2])}](notebooks/{path.name})" for _, path in mentions)
    link = f"[{identifier}]({ADDRESSES[kind]}{number})"
    line = f"- {authors}: *{title}*, {year}. {link}. In {'notebook' + 's' * (len(mentions) > 1)} {readers}."
    surname = authors.split(",")[0].removesuffix(" et al.").split()[-1]
    return (surname, year), line


def notebooks():
    """The notebooks of the series, in order; a learner's own are left out."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


MADE = [references]  # each writes its page into the source folder, and index.md names the page

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "_build"
    status = build(folder)
    print(f"Open {folder / 'html' / 'index.html'}" if status == 0 else "The site has faults, named above.")
    sys.exit(status)
