"""The site: pages that need no network, with links that lead somewhere."""

import base64
import io
import re

import nbformat
import PIL.Image
import pytest
import webpages
from helpers import NOTEBOOKS, read_notebook

BADGE = "[![Open in Colab](https://example.org/badge.svg)](https://example.org/page)"
MARKDOWN = [
    f"# 01 · One\n\n{BADGE}\n\nSee [two](02_two.ipynb), [a part](02b_more.ipynb#Part).",
    r"The code $z = \mathrm{relu}(x\,W)$, `not $this$` and $\unknown{_x_}$",
    r"$$\hat{x}_i \ge 0$$",
]


@pytest.fixture(scope="module")
def page():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell(source) for source in MARKDOWN]
    return webpages.page(notebook, "01 · One", ("00_zero", "00 · <Zero>"), None)


def test_nothing_is_fetched_from_the_network(page):
    fetched = r'<(?:script|img|link|iframe)[^>]*\s(?:src|href)="(?!data:)([^"]*)"'
    assert re.findall(fetched, page) == []


def test_links_lead_to_pages(page):
    assert re.findall(r'href="([^"#]*(?:#Part)?)"', page)[:5] == [
        "index.html",
        "00_zero.html",
        "https://example.org/page",
        "02_two.html",
        "02b_more.html#Part",
    ]
    assert "00 · &lt;Zero&gt;" in page and ".ipynb" not in page


def test_formulas_are_drawn_and_code_is_left_alone(page):
    assert re.findall(r'<img alt="([^"]*)" class="formula"', page) == [
        r"z = \mathrm{relu}(x\,W)",
        r"\hat{x}_i \ge 0",
    ]
    assert "<code>not $this$</code>" in page
    assert r"<code>\unknown{_x_}</code>" in page, "what can't be drawn stays as text"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_can_be_drawn(path):
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown":
            for part in webpages.CODE.split(cell.source)[::2]:
                for match in webpages.FORMULA.finditer(part):
                    assert "<img" in webpages._drawn(match), match[0]


@pytest.mark.parametrize("width, wide", [(400, False), (1200, True)])
def test_a_wide_figure_is_scrolled_on_a_phone(width, wide):
    png = io.BytesIO()
    PIL.Image.new("RGB", (width, 50)).save(png, "PNG")
    data = {"image/png": base64.b64encode(png.getvalue()).decode()}
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data)])
    page = webpages.page(nbformat.v4.new_notebook(cells=[cell]), "01 · One")
    assert bool(re.search(r'<img [^>]*class="wide"', page)) == wide
    assert re.search(r"max-width: 40rem.*?img\.wide \{ max-width: none", page, re.S)


def test_the_index_says_which_dataset_it_shows():
    cards = [webpages.card("01_one", "01 · <One>", b"png", "MSE 0.01 (mnist)")]
    assert '<a href="01_one.html"><h2>01 · &lt;One&gt;</h2>' in webpages.index(cards, "mnist")
    assert "MNIST's, which was not at hand" in webpages.index(cards, "digits")
    assert 'alt=""' not in cards[0]
