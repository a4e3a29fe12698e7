"""The slider as a learner has it: in JupyterLab and as an app, in a real Chromium, moved by keys and by hand."""

import io
import json
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from chromium import decoded, drawn, tile
from PIL import Image
from programs import serving

from advutils import load_data, read_digit, trained
from advutils.widgets.slider import EpsilonSlider

pytestmark = [pytest.mark.browser, pytest.mark.integration]
PATIENCE = 240_000  # milliseconds: on a busy machine a kernel takes its time


NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the cells of notebook 3 that lead to the slider, the app, and nobody's settings but their own."""
    home = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(NOTEBOOKS / "03_visualize.ipynb", as_version=4)
    needed = re.compile(r"^(import|from) |\btrained\(|\bdashboard\b", re.MULTILINE)  # the others take a minute
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code" and (
        needed.search(cell.source) or "parameters" in cell.metadata.get("tags", []))]  # fmt: skip
    nbformat.write(notebook, home / "03_visualize.ipynb")
    shutil.copy(NOTEBOOKS / "app" / "slider.ipynb", home)
    (home / "lab").mkdir()
    (home / "lab" / "overrides.json").write_text(json.dumps(QUIET))
    return home


@pytest.fixture(scope="module")
def environment(home):
    """Nothing is there but what is published, so that nothing has to be trained."""
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    return os.environ | {name: str(home / name.lower()) for name in (*folders, "ADVUTILS_CACHE")}


@pytest.fixture(scope="module")
def lab(home, environment):
    """The address of a JupyterLab that was started as `make lab` starts it, with its token."""
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    flags = [
        f"--ServerApp.root_dir={home}",
        "--LabApp.extension_manager=readonly",
        "--ServerApp.port=0",
        "--no-browser",
    ]
    flags += [f"--LabApp.app_settings_dir={home / 'lab'}", "--ip=127.0.0.1"]
    command = [sys.executable, "-m", "jupyterlab", *flags, *root]
    with serving(command, environment, r"http://127\.0\.0\.1:\d+/lab\?token=\w+") as address:
        yield address


@pytest.fixture(scope="module")
def app(home, environment):
    """The address of the app, started as `make app` starts it."""
    command = [sys.executable, "-m", "voila", str(home / "slider.ipynb"), "--Voila.ip=127.0.0.1", "--no-browser"]
    command += [f"--port={free_port()}"]
    with serving(command, environment, r"http://127\.0\.0\.1:\d+/?") as address:
        yield address


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def mine():
    """The same slider on the same networks, in this process: what the browser has to show."""
    models = {"clean VGG": trained("clean"), "defended VGG": trained("mixed-fgsm-0.1")}
    return EpsilonSlider(models, load_data("mnist-5k", train=False), eps=0.2)


def picture(page):
    """The pixels of the slider's picture, as the browser shows them."""
    return decoded(page.evaluate("document.querySelector('canvas[role=img]').toDataURL()"))


def alike(a, b):
    """Whether two pictures are the same but for the last digits of numbers, which differ between numbers of threads."""
    return a.shape == b.shape and (abs(a - b).max(2) > 8).mean() < 0.02


def until(holds, seconds=120):
    """Wait for the browser to catch up with the kernel."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the picture did not become what Python computes"
        time.sleep(0.1)


def follows(page, mine):
    """The picture and the words in the page become those of the slider here, its images and bars one by one."""
    with page.context.new_page() as blank:
        expected = drawn(blank, mine.picture)
    until(lambda: alike(picture(page), expected))
    radius = mine.picture.words.split(". ")[0]
    until(lambda: radius in page.get_by_role("status").first.inner_text())
    (x_adv, probabilities), seen, inner = next(iter(mine.shown.values())), picture(page), np.s_[2:-2, 2:-2]
    for i in range(len(x_adv)):
        wanted = (255 * x_adv[i, 0]).round().numpy()[inner]
        assert (abs(tile(seen, i)[inner] - wanted) > 1).mean() < 0.02
    assert bars(seen) == pytest.approx(probabilities[int(mine.look.value) - 1].tolist(), abs=0.03)


def bars(seen):
    """The class probabilities of the chosen image, as the bars of the first model say: their heights in a picture."""
    floor, top = 33 + 4 + 2 * 106 + 17 + 112, 33 + 4 + 2 * 106 + 17 + 2
    columns = seen[top:floor, [round(258 + (k + 0.5) * 19.2) for k in range(10)]]
    return (columns != 255).any(2).sum(0) / 110


def exercise(page, mine):
    """Keys, a drag, other images, another attack: after each the page shows what Python computes."""
    handle = page.get_by_role("slider", name="epsilon", exact=True).first
    for group in ("digits", "look at", "attack", "model"):
        assert page.get_by_role("group", name=group, exact=True).get_by_role("button").count() > 1
    handle.scroll_into_view_if_needed()
    follows(page, mine)
    before = picture(page)
    handle.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    mine.slider.value = min(0.2 + 10 * mine.slider.step, mine.slider.max)
    follows(page, mine)
    assert not alike(picture(page), before)

    bar = page.locator(".noUi-target").first.bounding_box()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for part in (0.6, 0.4, 0.2, 0.1):
        page.mouse.move(bar["x"] + part * bar["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    until(lambda: abs(float(page.locator(".widget-readout").first.inner_text()) - 0.03) < 0.012)
    mine.slider.value = float(page.locator(".widget-readout").first.inner_text())
    follows(page, mine)

    page.get_by_role("button", name="near the boundary").first.click()
    mine.images.value = "near the boundary"
    follows(page, mine)
    page.get_by_role("button", name="noise", exact=True).first.click()
    mine.attack.value = "noise"
    follows(page, mine)
    page.get_by_role("button", name="next example").first.click()
    mine.further.click()
    follows(page, mine)
    page.get_by_role("button", name="FGSM", exact=True).first.click()
    mine.attack.value = "FGSM"
    follows(page, mine)


def draw(page, mine):
    """A vertical stroke on the pad, with the mouse, is read as one drawn here is."""
    pad = page.locator("canvas.jupyter-widgets, .jupyter-widgets canvas").last
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    before = picture(page)
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(middle, box["y"] + 180, steps=6)
    page.mouse.up()
    until(lambda: picture(page).shape != before.shape or not alike(picture(page), before))
    bright = "canvas => canvas.getContext('2d').getImageData(112, 100, 1, 1).data[0]"
    dark = bright.replace("112, 100", "20, 20")
    assert pad.evaluate(bright) == 255 and pad.evaluate(dark) == 0
    assert "of 1 correctly" in page.get_by_role("status").first.inner_text()
    ink = Image.new("L", (224, 224))
    ink.paste(255, (103, 31, 122, 190))
    file = io.BytesIO()
    ink.save(file, "PNG")
    x = read_digit(file, invert=False)
    said = mine.first_reads(x)
    mine.show(x, torch.tensor([said]))
    expected = 255 * next(iter(mine.shown.values()))[0][0, 0].numpy()
    assert np.corrcoef(tile(picture(page), 0).ravel(), expected.ravel())[0, 1] > 0.8


def test_in_jupyterlab_the_slider_follows_keys_hand_and_pen(visit, lab, mine):
    page = visit.page
    page.set_viewport_size({"width": 1400, "height": 1100})
    page.goto(lab.replace("/lab?", "/doc/tree/03_visualize.ipynb?"))
    page.locator(".jp-KernelName", has_text="Python").first.wait_for(timeout=PATIENCE)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    last = page.get_by_role("group", name="digits", exact=True).locator("button.mod-active", has_text=re.compile("^7$"))
    last.wait_for(timeout=PATIENCE)  # the last cell chose it; what that cell printed was on the page before it ran
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=PATIENCE)
    mine.images.value = "7"
    exercise(page, mine)
    draw(page, mine)
    assert not visit.errors, "\n".join(visit.errors)


def test_as_an_app_no_code_is_seen_and_the_slider_follows(visit, app, mine):
    page = visit.page
    page.set_viewport_size({"width": 1100, "height": 1100})
    page.goto(app, timeout=PATIENCE)
    page.locator("canvas[role=img]").first.wait_for(timeout=PATIENCE)
    assert "import" not in page.inner_text("body")
    mine.slider.value = 0.1
    page.locator(".noUi-handle").first.focus()
    follows(page, mine)
    mine.slider.value = 0.2
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    exercise(page, mine)
    draw(page, mine)
    ours = [error for error in visit.errors if "net::ERR_" not in error]
    assert not ours, "\n".join(ours)
    assert all("font-awesome" in address.lower() or "fontawesome" in address.lower() for address in visit.elsewhere())
