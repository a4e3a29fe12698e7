"""One list of dependencies, and every file that leads to it; what may be in the repository, and what may not."""

import re
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec

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


def test_every_conda_entry_is_a_strict_match_spec():
    specs = [MatchSpec(entry, strict=True) for entry in environment()["dependencies"] if isinstance(entry, str)]
    assert [spec.name.normalized for spec in specs] == ["python", "pip"]


def test_conda_and_pip_agree_on_name_and_python():
    assert environment()["name"] == PROJECT["name"]
    python = environment()["dependencies"][0].removeprefix("python").strip()
    assert SpecifierSet(python) == SpecifierSet(PROJECT["requires-python"])


def test_conda_leads_to_the_one_list():
    (section,) = (entry for entry in environment()["dependencies"] if isinstance(entry, dict))
    assert section == {"pip": ["-c constraints.txt", "-e .[test]"]}


def test_the_list_holds_what_the_series_promises():
    names = {Requirement(line).name for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebooks"]}
    assert names >= {"torch", "torchvision", "jupyterlab", "matplotlib", "ipywidgets", "nbval"}


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_constraints_pin_each_dependency_within_its_range(requirement):
    (version,) = (version for name, version in pins("constraints.txt") if canonicalize_name(name) == requirement.name)
    assert requirement.specifier.contains(version)


def test_constraints_pin_each_package_once():
    counts = Counter(canonicalize_name(name) for name, _ in pins("constraints.txt"))
    assert not [name for name, count in counts.items() if count > 1]


def test_packages_without_their_dependencies_are_pinned_alike():
    without = pins("tests/without-deps.txt")
    assert without and all(pin in pins("constraints.txt") for pin in without)


@pytest.mark.parametrize("page, needed", [("README.md", {"lab", "test"}), ("CONTRIBUTING.md", {"run", "test"})])
def test_pages_name_only_commands_that_exist(page, needed):
    n_target_classes = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"```.*?```|`[^`]+`", (ROOT / page).read_text(), re.DOTALL)
    named = {target for snippet in code for target in re.findall(r"\bmake ([a-z]+)", snippet)}
    assert needed <= named <= n_target_classes


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
