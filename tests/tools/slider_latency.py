"""Key press to changed picture, in a real Chromium: `make latency`, some minutes, on an idle machine.

Both sliders show the same ten digits, two networks and FGSM: ours, and the one that a tutorial would build with
`interact` and `plt.show`. They stand in one notebook and are pressed in turn. Playwright opens and runs the notebook
and is then gone, as it would have every message between page and kernel sent to it as well; keys come as they do from
a keyboard (Input.dispatchKeyEvent).
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat
from chromium import executable
from playwright.sync_api import sync_playwright
from programs import serving
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

OURS = """
from advutils import fgsm, load_data, predict, trained
from advutils.widgets import EpsilonSlider
models = {"clean VGG": trained("clean"), "defended VGG": trained("mixed-fgsm-0.1")}
dashboard = EpsilonSlider(models, load_data("mnist-5k", train=False))
dashboard
"""
PLAIN = """
import ipywidgets
import matplotlib.pyplot as plt
def show(eps=0.1):
    fig, axes = plt.subplots(4, 10, figsize=(9, 5))
    for row, model in enumerate(models.values()):
        x_adv = fgsm(model, dashboard.x, dashboard.y, eps=eps)
        p = predict(model, x_adv)
        for i in range(10):
            axes[2 * row, i].imshow(x_adv[i, 0], cmap="gray", vmin=0, vmax=1)
            axes[2 * row, i].set_title(int(p[i].argmax()), fontsize=8)
            axes[2 * row, i].axis("off")
            axes[2 * row + 1, i].bar(range(10), p[i])
            axes[2 * row + 1, i].axis("off")
    plt.show()
_ = ipywidgets.interact(show, eps=(0.0, 0.3, 0.005))
"""
CLOCK = """([scope, number]) => new Promise((resolve) => {
    const root = document.querySelectorAll(scope)[number];
    const handle = root.querySelector(".noUi-handle");
    const picture = () => root.querySelector("img, canvas[role=img]");
    const shown = () => picture()?.src || picture()?.getAttribute("aria-label");
    const before = shown();
    let start = null;
    handle.addEventListener("keydown", () => { start = performance.now(); }, {once: true, capture: true});
    const watcher = new MutationObserver(async () => {
        if (start === null || !shown() || shown() === before) return;
        watcher.disconnect();
        if (picture().decode) await picture().decode();
        requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));  // painted
    });
    watcher.observe(root, {subtree: true, childList: true, attributes: true, attributeFilter: ["src", "aria-label"]});
    handle.focus();
})"""


def main(presses=40):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (OURS, PLAIN)])
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    with tempfile.TemporaryDirectory() as home:
        nbformat.write(notebook, Path(home) / "both.ipynb")
        lab = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={home}", "--no-browser", "--allow-root"]
        lab += ["--ServerApp.port=0", "--ip=127.0.0.1"]
        chromium = [executable(), "--headless", "--no-sandbox", "--remote-debugging-port=0", "--window-size=1440,900"]
        chromium += [f"--user-data-dir={home}/profile", "about:blank"]
        with (
            serving(lab, dict(os.environ), r"http://127\.0\.0\.1:\d+/lab\?token=\w+") as address,
            serving(chromium, dict(os.environ), r"ws://127\.0\.0\.1:\d+/devtools/\S+") as browser,
        ):
            host = browser.split("/")[2]
            open_notebook(f"http://{host}", address.replace("/lab?", "/doc/tree/both.ipynb?"))
            taken = asyncio.run(press(host, presses))
    for label, times in taken.items():
        times = sorted(times[5:])
        late = times[round(0.95 * (len(times) - 1))]
        print(f"{label:24} median {statistics.median(times):5.0f} ms, 95th percentile {late:5.0f} ms, n = {len(times)}")


def open_notebook(browser, address):
    with sync_playwright() as playwright:
        page = playwright.chromium.connect_over_cdp(browser).contexts[0].pages[0]
        page.goto(address)
        idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first
        page.locator(".jp-KernelName", has_text="Python").first.wait_for(timeout=120_000)
        idle.wait_for(timeout=120_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-child img").wait_for(timeout=400_000)
        idle.wait_for(timeout=120_000)


async def press(host, presses):
    """Milliseconds of each press, for each slider."""
    pages = json.loads((await AsyncHTTPClient().fetch(f"http://{host}/json")).body)
    address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
    socket, numbers = await websocket_connect(address), itertools.count()

    async def call(method, **params):
        number = next(numbers)
        await socket.write_message(json.dumps(dict(id=number, method=method, params=params)))
        while (answer := json.loads(await socket.read_message())).get("id") != number:
            pass
        return answer["result"]

    async def evaluate(script, wait=False):
        said = await call("Runtime.evaluate", expression=script, awaitPromise=wait, returnByValue=True)
        return said["result"].get("value")

    taken = {"EpsilonSlider": [], "interact and plt.show": []}
    for number in range(presses):
        key = "ArrowRight" if number % 30 < 15 else "ArrowLeft"
        code = dict(key=key, code=key, windowsVirtualKeyCode=39 if key == "ArrowRight" else 37)
        for cell, times in enumerate(taken.values()):
            await evaluate(f"window.taken = ({CLOCK})(['.jp-CodeCell', {cell}]); null")
            await asyncio.sleep(0.3)
            await call("Input.dispatchKeyEvent", type="rawKeyDown", **code)
            await call("Input.dispatchKeyEvent", type="keyUp", **code)
            times.append(await evaluate("window.taken", wait=True))
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presses", type=int, default=40, help="of a key, on each slider (default: %(default)s)")
    main(parser.parse_args().presses)
