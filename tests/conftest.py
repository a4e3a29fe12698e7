"""For the unit tests; what concerns notebooks is in nbval_harness.py, which pyproject.toml loads for both folders."""

import re
import sys
from pathlib import Path

import chromium
import matplotlib
import pytest
import torch
from hypothesis import settings

# In this process only: the notebooks' kernels must go on drawing inline, so this is no environment variable.
matplotlib.use("Agg")

# A learner's `make test` must not depend on luck, nor on how busy the machine is.
settings.register_profile("series", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("series")

SCREENSHOTS = Path(__file__).parent / "screenshots"
FAILED = pytest.StashKey[bool]()
WHOLE = re.compile(r"^pytestmark = .*\bmark\.integration\b", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """Files of which `-m "not integration"` leaves out all are not imported, which takes longer than many tests."""
    if "not integration" in config.option.markexpr and collection_path.suffix == ".py":
        return bool(WHOLE.search(collection_path.read_text(encoding="utf-8"))) or None


@pytest.fixture(autouse=True)
def seeded():
    """A network that a test builds starts from the same weights, whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def trainings(monkeypatch):
    """A list that gets the settings of each training that `trained` begins."""
    module, done = sys.modules["advutils.pretrained"], []
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda *given, **settings: done.append(settings) or fit(*given, **settings))
    return done


@pytest.fixture(scope="module")
def browser():
    """A Chromium for the tests of one file; it is not kept longer, as no event loop can run beside it."""
    with chromium.running() as started:
        yield started


@pytest.fixture
def visit(browser, request):
    """A page with a record of its errors and requests; a failed test leaves a picture of it in tests/screenshots."""
    with chromium.visiting(browser) as opened:
        yield opened
        if request.node.stash.get(FAILED, False):
            opened.page.screenshot(path=SCREENSHOTS / (re.sub(r"\W+", "-", request.node.name) + ".png"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report
