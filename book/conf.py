"""Sphinx settings of the site that `make book` builds, and what a notebook gains and loses on its way to a page."""

import json
import tomllib
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

ALT = tomllib.loads((Path(__file__).parent / "alt.toml").read_text(encoding="utf-8"))
WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDED = {"check": "Check of the sentences above", "drawing": "The code that draws"}  # by the tags of cells
INSTEAD_OF_A_WIDGET = "*A control stands here in the notebook. It needs a kernel, which a page does not have.*"
DOWNLOAD = "The notebook behind this page, executed: {{download}}`{0} <{0}>`. It runs where `advutils` is installed."

project = "Adversarial robustness"
html_title = "Adversarial robustness"
extensions = ["myst_nb"]
exclude_patterns = ["README.md", "tests/**"]  # parts of them are included in pages
nb_execution_mode = "off"
myst_enable_extensions = ["deflist", "dollarmath"]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "navbar_persistent": [],  # the search has its place in the side bar
    "footer_content_items": [],
    "use_download_button": False,  # it would lead to the copies of which html_copy_source speaks
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_copyright = False
html_use_index = False  # nothing is declared that it could list
html_favicon = "static/favicon.svg"
html_css_files = ["book.css"]
html_js_files = ["book.js"]

# One file and no fonts, which some browsers refuse to pages opened from a disk; its menu would ask for further files.
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}
html_static_path = ["static", str(files("sphinx-mathjax-offline") / "static" / "mathjax" / mathjax_path)]

logger = logging.getLogger(__name__)


def setup(app):
    app.connect("source-read", adapt)
    app.connect("doctree-read", describe)


def adapt(app, name, source):
    """Offer the notebook, hand its figures their texts, and say where a widget was; the file itself stays as it is."""
    path = Path(app.env.doc2path(name))
    if path.suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            texts = ALT.get(path.stem, {}).get(cell["id"], [])
            folded = [FOLDED[tag] for tag in cell["metadata"].get("tags", []) if tag in FOLDED]
            if folded:
                cell["metadata"]["tags"].append("hide-input")
                cell["metadata"]["mystnb"] = {"code_prompt_show": folded[0]}
            cell["metadata"] |= {"id": cell["id"], "alt": [texts] if isinstance(texts, str) else texts}
            for output in cell["outputs"]:
                if WIDGET in output.get("data", {}):
                    output["data"] = {"text/markdown": INSTEAD_OF_A_WIDGET}
    offer = {"cell_type": "markdown", "id": "download", "metadata": {}, "source": DOWNLOAD.format(path.name)}
    notebook["cells"].insert(1, offer)
    source[0] = json.dumps(notebook)


def describe(app, doctree):
    """Give every figure its text, in all the formats in which the notebook holds it."""
    containers = list(doctree.findall(nodes.container))
    for cell in (node for node in containers if node.get("nb_element") == "cell_code"):
        bundles = (node for node in cell.findall(nodes.container) if node.get("nb_element") == "mime_bundle")
        figures = [bundle for bundle in bundles if bundle.next_node(nodes.image)]
        texts = cell["cell_metadata"]["alt"]
        if len(figures) != len(texts):
            where = f"{app.env.current_document.docname}, cell {cell['cell_metadata']['id']}"
            logger.warning("%s: %d figures, %d texts in book/alt.toml", where, len(figures), len(texts))
        for figure, text in zip(figures, texts):
            for image in figure.findall(nodes.image):
                image["alt"] = text
