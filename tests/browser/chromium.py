"""A Chromium for tests that look at pages: `visit` in conftest.py is one page, with a record of what it did."""

import base64
import io
import os
import shutil
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from advutils.widgets.panel import whole_script

NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = {"127.0.0.1", "localhost", None}  # a file or a data address has no host


class Visit(NamedTuple):
    """A page, the errors that it logged or raised so far, and the addresses that it asked for."""

    page: Page
    errors: list
    requests: list

    def elsewhere(self):
        """The addresses it asked for that are not on this machine."""
        return [address for address in self.requests if urlsplit(address).hostname not in HERE]

    def overhang(self):
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def executable():
    """The path of an installed Chromium. Without one the test is skipped, or fails where ADVUTILS_BROWSER=1 is set."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = f"Chromium is missing (looked for {', '.join(NAMES)}): this page was NOT looked at in a browser"
        give_up = pytest.fail if os.environ.get("ADVUTILS_BROWSER") == "1" else pytest.skip
        give_up(missing)
    return path


@contextmanager
def running():
    """A headless browser for as long as the block lasts; asyncio elsewhere in the process has to wait that long."""
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser, **options):
    """One page in a fresh profile, as a Visit; options are those of Playwright's `new_context`, such as `viewport`."""
    with browser.new_context(**options) as context:
        visit = Visit(context.new_page(), [], [])
        visit.page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("websocket", lambda socket: visit.requests.append(socket.url))
        yield visit


DRAW = """async ([script, scene, shown, pixels, words]) => {
    const { build } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    const place = document.createElement("div");
    document.body.replaceChildren(place);
    build(place)(scene, shown, Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0)), words);
    return place.querySelector("canvas").toDataURL();
}"""


def drawn(page, panel):
    """What this browser draws of a Panel, the only thing in the page from now on: its pixels (height, width, 3)."""
    pixels = base64.b64encode(panel.pixels).decode()
    state = [whole_script(), panel.scene, panel.shown, pixels, panel.words]
    return decoded(page.evaluate(DRAW, state))


def decoded(address):
    """The pixels (height, width, 3) of a picture in a data address."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")).astype(int)


def place(i, left=10):
    """Where the i-th image of the first model lies in a picture."""
    top, left = 33 + i // 5 * 106, left + i % 5 * 89
    return np.s_[top : top + 84, left : left + 84]


def tile(picture, i):
    """The i-th image of the first model as a picture shows it, (28, 28): the middle of each of its squares."""
    return picture[place(i)][1::3, 1::3, 0]
