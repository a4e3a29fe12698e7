"""One list of dependencies, and every file that leads to it; what pages promise; what may be in the repository."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import results
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec
from torch import nn
from torch.utils.data import TensorDataset

from advutils import load_data
from advutils.cli import parser

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOP_LEVEL = {
    "notebooks", "advutils", "book", "tests", "environment.yml", "README.md",
    "pyproject.toml", "constraints.txt", "Makefile", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    ".ci", ".editorconfig", ".gitattributes", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip
REGISTRIES = [".".join((name, "org")) for name in ("pypi", "pythonhosted", "anaconda", "npmjs", "debian")]


def requirements():
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [Requirement(line) for line in dict.fromkeys(lines) if not line.startswith(PROJECT["name"] + "[")]


def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def pins(file):
    lines = (ROOT / file).read_text().splitlines()
    return [line.split("==") for line in lines if line and not line.startswith("#")]


def test_conda_leads_to_the_one_list():
    python, pip, section = environment()["dependencies"]
    assert [MatchSpec(entry, strict=True).name.normalized for entry in (python, pip)] == ["python", "pip"]
    assert SpecifierSet(python.removeprefix("python").strip()) == SpecifierSet(PROJECT["requires-python"])
    assert section == {"pip": ["-c constraints.txt", "-e .[test]"]} and environment()["name"] == PROJECT["name"]


def test_constraints_pin_each_package_once_and_those_without_dependencies_alike():
    counts = Counter(canonicalize_name(name) for name, _ in pins("constraints.txt"))
    assert not [name for name, count in counts.items() if count > 1]
    without = pins("tests/without-deps.txt")
    assert without and all(pin in pins("constraints.txt") for pin in without)


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_constraints_pin_each_dependency_within_its_range(requirement):
    (version,) = (version for name, version in pins("constraints.txt") if canonicalize_name(name) == requirement.name)
    assert requirement.specifier.contains(version)


NEEDED = {
    "README.md": {"lab", "test"}, "CONTRIBUTING.md": {"run", "test"}, "book/results.md": {"results", "run", "weights"},
    "book/benchmark.md": {"bench"}, "book/install.md": {"lab", "test", "unit", "app", "book", "run", "bench", "help"},
}  # fmt: skip
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"book/{path.name}" for path in (ROOT / "book").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_commands_that_exist(page):
    needed = NEEDED.get(page, set())
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"```.*?```|`[^`]+`", (ROOT / page).read_text(), re.DOTALL)
    named = {target for snippet in code for target in re.findall(r"\bmake ([a-z]+)", snippet)}
    assert needed <= named <= targets


def blocks(page, language=""):
    """The blocks of code of a page, in one language."""
    found = re.findall(r"^```(.*?)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [code.replace("\\\n", " ") for written_in, code in found if written_in == language]


@pytest.mark.parametrize("page", ["README.md", "book/your_model.md"])
def test_the_lines_that_attack_a_model_of_ones_own_run_as_they_stand(page, capsys):
    (code,) = blocks(page, "python")
    assert len([line for line in code.splitlines() if line]) == 5
    yours = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["advutils"], "load_data", lambda name, *, train: first_digits(name, train))
        exec(code, dict(yours=yours))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(re.fullmatch(r" *[\d.]+% +\[.*\] +n=50", line) for line in lines)
    assert float(lines[0].split("%")[0]) >= float(lines[1].split("%")[0])


def first_digits(name, train):
    assert (name, train) == ("mnist-5k", False)
    return TensorDataset(*(part[::20] for part in load_data(name, train=train).tensors))


@pytest.mark.parametrize("page", ["book/command_line.md", "book/several_processes.md", "book/results.md"])
def test_the_commands_of_a_page_are_typed_as_the_command_line_reads_them(page):
    lines = [line for block in blocks(page) for line in block.splitlines() if " -m advutils " in line]
    assert lines
    for line in lines:
        program, _, arguments = line.partition(" -m advutils ")
        assert program.split()[0] in ("python", "torchrun", "accelerate")
        parser().parse_args(shlex.split(arguments))


def test_the_command_that_measures_a_row_is_typed_as_the_results_command_reads_it():
    (line,) = (line for block in blocks("book/results.md") for line in block.splitlines() if "make results" in line)
    (arguments,) = (word.removeprefix("ARGS=") for word in shlex.split(line) if word.startswith("ARGS="))
    results.main(["--list", *shlex.split(arguments)])


def test_the_notebook_on_other_data_sets_parameters_that_it_has():
    lines = [line for page in PAGES for block in blocks(page) for line in block.splitlines() if "papermill" in line]
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line)
        (notebook, *_) = (word for word in words if word.startswith("notebooks/") and word.endswith(".ipynb"))
        cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
        (cell,) = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        names = re.findall(r"^(\w+) =", "".join(cell["source"]), re.MULTILINE)
        used = [words[i + 1].partition(":")[0] for i, word in enumerate(words) if word in ("-p", "-y")]
        assert used and set(used) <= set(names)


def test_the_front_page_is_short_and_begins_with_a_picture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 400 <= len(text.split()) <= 700
    assert text.split("\n\n")[1].startswith("![")


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    made = {"references.md"}  # by book/build.py
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists() and link not in made] == []


@pytest.fixture(scope="module")
def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("a download without git: there is no list of what belongs to the series")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listing.stdout.split("\0") if name]


def test_top_level_holds_only_what_belongs_there(tracked):
    assert {name.split("/")[0] for name in tracked} <= TOP_LEVEL


def test_no_file_knows_this_machine_or_a_registry(tracked):
    folders = "|".join(re.escape(str(folder)) for folder in (ROOT, Path.home()) if len(folder.parts) > 1)
    hosts = "|".join(map(re.escape, REGISTRIES))
    foreign = re.compile(rf"(?<![\w./-])(?:{folders})(?![\w-])|{hosts}")
    present = [ROOT / name for name in tracked if (ROOT / name).exists()]
    # Of what is no text, weights have a header that is.
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in present}
    found = {str(path.relative_to(ROOT)): foreign.search(text) for path, text in texts.items()}
    assert not {name: match[0] for name, match in found.items() if match}
