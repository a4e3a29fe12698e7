"""Key press to changed picture, in a real Chromium: python tests/measure_slider.py, some minutes, on an idle machine.

Both sliders show the same ten digits, two networks and FGSM: ours, and the one that a tutorial would build with
`interact` and `plt.show`. They stand in one notebook and are pressed in turn.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat
from browser import running, visiting
from test_slider_in_browser import serving

OURS = """
from advutils import fgsm, load_data, predict, trained
from advutils.widgets import EpsilonSlider
models = {"clean VGG": trained("clean"), "defended VGG": trained("joined-fgsm-0.1")}
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
    let start = null;
    handle.addEventListener("keydown", () => { start = performance.now(); }, {once: true, capture: true});
    const watcher = new MutationObserver(async () => {
        const image = root.querySelector("img");
        if (start === null || !image || image.dataset.seen === image.src) return;
        watcher.disconnect();
        image.dataset.seen = image.src;
        await image.decode();
        requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));  // painted
    });
    const image = root.querySelector("img");
    image.dataset.seen = image.src;
    watcher.observe(root, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
    handle.focus();
})"""


def main(presses=40):
    with tempfile.TemporaryDirectory() as home:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (OURS, PLAIN)])
        notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        nbformat.write(notebook, Path(home) / "both.ipynb")
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={home}", "--no-browser", "--allow-root"]
        command += ["--ServerApp.port=0", "--ip=127.0.0.1"]
        with (
            serving(command, dict(os.environ), r"http://127\.0\.0\.1:\d+/lab\?token=\w+") as address,
            running() as browser,
            visiting(browser, viewport={"width": 1400, "height": 1800}) as visit,
        ):
            page = visit.page
            page.goto(address.replace("/lab?", "/doc/tree/both.ipynb?"))
            page.locator(".jp-KernelName", has_text="Python").first.wait_for(timeout=120_000)
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=120_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            page.locator(".jp-OutputArea-child img").nth(1).wait_for(timeout=400_000)
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=120_000)
            taken = {"EpsilonSlider": [], "interact and plt.show": []}
            for press in range(presses):
                for number, times in enumerate(taken.values()):
                    page.evaluate(
                        "at => { window.taken = (" + CLOCK + ")(at); return null; }", [".jp-CodeCell", number]
                    )
                    page.keyboard.press("ArrowRight" if press % 30 < 15 else "ArrowLeft")
                    times.append(page.evaluate("window.taken"))
                    page.wait_for_timeout(60)
    for label, times in taken.items():
        times = sorted(times[5:])
        late = times[round(0.95 * (len(times) - 1))]
        print(f"{label:24} median {statistics.median(times):5.0f} ms, 95th percentile {late:5.0f} ms, n = {len(times)}")


if __name__ == "__main__":
    main()
