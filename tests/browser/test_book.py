"""The site that `make book` builds: whole, at home without a network, and legible to everyone."""

import json
import re
import subprocess
import sys
import threading
import tomllib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
LOADED = dict(script="src", link="href", img="src", iframe="src", source="src", object="data", use="href")

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, ROOT / "book" / "build.py", folder]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


@pytest.fixture(scope="session")
def pages(site):
    paths = [*site.glob("*.html"), *site.glob("notebooks/*.html")]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in paths}


def page_of(notebook, pages):
    return next(page for path, page in pages.items() if path.stem == notebook.stem)


def code_cells(notebook):
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def holding(mime, cell):
    return [output for output in cell["outputs"] if mime in output.get("data", {})]


def texts():
    return tomllib.loads((ROOT / "book" / "alt.toml").read_text(encoding="utf-8"))


def is_foreign(address):
    return bool(urlsplit(address).netloc)


# nothing from elsewhere


def test_no_page_and_no_stylesheet_loads_anything_from_another_host(site, pages):
    loaded = [(path.name, tag[LOADED[tag.name]]) for path, page in pages.items() for tag in page.find_all(list(LOADED))
              if tag.has_attr(LOADED[tag.name])]  # fmt: skip
    assert len(loaded) > 100
    assert not [(name, address) for name, address in loaded if is_foreign(address)]
    styles = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    styles |= {path.name: " ".join(tag.text for tag in page.find_all("style")) for path, page in pages.items()}
    assert "book.css" in styles
    addresses = {name: re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", text) for name, text in styles.items()}
    assert not {name: found for name, found in addresses.items() if any(map(is_foreign, found))}


# nothing missing


def test_every_local_link_and_anchor_leads_somewhere(pages):
    anchors = {path: {tag.get("id") for tag in page.find_all(id=True)} | {""} for path, page in pages.items()}
    lost, followed = [], 0
    for path, page in pages.items():
        for tag in page.find_all(["a", *LOADED]):
            address, anchor = urldefrag(tag.get(LOADED.get(tag.name, "href")) or "")
            if urlsplit(address).scheme or tag.get("href") == "#" or not (address or anchor):
                continue
            target = (path.parent / unquote(urlsplit(address).path)).resolve() if address else path
            anchor = "" if target.name == "lab.html" else anchor  # there it is what a reader chose
            followed += 1
            if not target.is_file() or (target in anchors and unquote(anchor) not in anchors[target]):
                lost.append((path.name, address, anchor))
    assert followed > 500 and not lost


@each_notebook
def test_every_notebook_is_a_page_and_offers_its_file_as_it_is(notebook, site, pages):
    page = page_of(notebook, pages)
    (link,) = (tag["href"] for tag in page.select(".bd-article a.download"))
    assert (site / "notebooks" / link).resolve().read_bytes() == notebook.read_bytes()
    assert Path(link).name == notebook.name


@each_notebook
def test_a_page_shows_all_code_figures_and_text_outputs_of_its_notebook(notebook, pages):
    page, cells = page_of(notebook, pages), code_cells(notebook)
    assert len(page.select("div.cell_input")) == len(cells)
    assert len(page.select("div.cell_output img")) == sum(len(holding("image/png", cell)) for cell in cells)
    printed = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "stream"]
    shown = " ".join(page.select_one(".bd-article").text.split())
    assert all(" ".join("".join(output["text"]).split()) in shown for output in printed)


def test_the_title_page_lists_every_notebook_with_its_question(site, pages):
    rows = pages[site / "index.html"].select(".bd-article tbody tr")
    assert [Path(row.a["href"]).stem for row in rows] == [path.stem for path in NOTEBOOKS]
    assert all("?" in row.find_all("td")[1].text for row in rows)


def test_what_the_front_page_leaves_out_is_a_page(site, pages):
    for name in ("instructor", "install", "your_model", "results", "benchmark", "command_line", "several_processes"):
        assert pages[site / "index.html"].select_one(f"nav a[href='{name}.html']"), name
    assert len(pages[site / "benchmark.html"].select("table")) == 4  # the leads, and a table for each machine
    text = pages[site / "results.html"].text
    assert "APGD-CE and APGD-T" in text and "made by" not in text  # the marks around the table are not shown
    terms = [tag.text for tag in pages[site / "glossary.html"].select(".bd-article dt")]
    assert len(terms) > 15 and terms == sorted(terms, key=str.casefold)
    assert len({term.casefold() for term in terms}) == len(terms)


def test_every_paper_that_is_cited_is_on_the_page_of_references(site, pages):
    sources = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md")), *NOTEBOOKS]
    papers = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.[\w./-]+\w")
    ends = [path.read_text(encoding="utf-8").rsplit("## References", 1)[-1] for path in sources]
    cited = {number for text in ends for number in papers.findall(text)}
    page = pages[site / "references.html"]
    listed = [tag.text for tag in page.select(".bd-article a.external")]
    assert len(cited) > 20 and cited <= set(listed)
    assert len(listed) == len(set(listed))


# nothing dead, nothing mute


@each_notebook
def test_a_line_of_text_stands_where_a_widget_was(notebook, pages):
    page = page_of(notebook, pages)
    widgets = sum(len(holding(WIDGET, cell)) for cell in code_cells(notebook))
    assert page.text.count("It needs a kernel, which a page does not have.") == widgets
    assert "jupyter.widget" not in str(page) and "html-manager" not in str(page)


@each_notebook
def test_every_figure_has_a_text_and_every_text_a_figure(notebook):
    written = texts().get(notebook.stem, {})
    written = {cell: 1 if isinstance(text, str) else len(text) for cell, text in written.items()}
    drawn = {cell["id"]: len(holding("image/png", cell)) for cell in code_cells(notebook)}
    assert written == {cell: count for cell, count in drawn.items() if count}
    assert set(texts()) == {path.stem for path in NOTEBOOKS}


def test_every_image_says_what_it_shows(pages):
    images = [(path.name, image.get("alt", "")) for path, page in pages.items() for image in page.select("main img")]
    assert len(images) > 40
    assert not [name for name, text in images if len(text.split()) < 8]
    assert len({text for _, text in images}) == len(images)


# as a reader sees it


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(params=["file", "http"])
def address(request, site):
    """The site as it is opened from a disk, and as a server gives it out."""
    if request.param == "file":
        yield site.as_uri()
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def open_each_page(page, address, pages, site):
    """Open one page after the other, its equations drawn, and yield its name.

    A server is asked for the book's own pages alone: notebooks come from it as they come from a disk.
    """
    some = [path for path in pages if address.startswith("file") or path.parent == site]
    for name in (path.relative_to(site).as_posix() for path in some):
        page.goto(f"{address}/{name}")
        if page.locator(".math").count():
            page.wait_for_selector("mjx-container svg", state="attached")
            page.evaluate("MathJax.startup.promise")
        yield name


@pytest.mark.browser
def test_pages_open_without_an_error_or_a_request_elsewhere_and_fit_a_phone(visit, address, pages, site):
    desk, phone = visit.page.viewport_size, dict(width=390, height=844)
    for name in open_each_page(visit.page, address, pages, site):
        if address.startswith("file"):  # its shape does not depend on the way it came
            visit.page.set_viewport_size(phone)
            assert visit.overhang() <= 0, name
            visit.page.set_viewport_size(desk)
        assert not visit.page.locator("[data-mml-node=merror]").count(), name
        pictures = visit.page.locator("main img").evaluate_all("all => all.map(image => image.naturalWidth)")
        assert all(pictures), name
    assert not visit.errors and not visit.elsewhere()


@pytest.mark.browser
def test_search_finds_the_chapter(visit, address):
    visit.page.goto(f"{address}/search.html?q=momentum")
    visit.page.wait_for_selector("#search-results li a[href*='09_transfer']")
    visit.page.wait_for_selector("#search-results p.search-summary >> text=/found/")
    visit.page.wait_for_load_state("networkidle")
    assert not visit.errors and not visit.elsewhere()


@pytest.mark.browser
def test_the_dark_mode_changes_the_page_and_leaves_figures_a_white_ground(visit, address):
    ground = "tag => getComputedStyle(document.querySelector(tag)).backgroundColor"
    visit.page.emulate_media(color_scheme="light")
    visit.page.goto(f"{address}/notebooks/02_fgsm_attack.html")
    light = visit.page.evaluate(ground, "body")
    visit.page.locator(".theme-switch-button:visible").click()
    visit.page.locator(".theme-change-button[data-mode=dark]:visible").click()
    assert visit.page.evaluate(ground, "body") != light
    assert visit.page.evaluate(ground, ".cell_output img") == "rgb(255, 255, 255)"
    assert not visit.errors
