"""Notebooks as web pages that need no network: formulas drawn, pages linked, legible on a phone."""

import base64
import functools
import html
import io
import pathlib
import re

import nbconvert

STYLE = (pathlib.Path(__file__).parent / "site.css").read_text(encoding="utf-8")
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.S)
DIALECT = {  # TeX → what matplotlib knows of it
    r"\\tfrac": r"\\frac",
    r"\\frac(\w)(\w)": r"\\frac{\1}{\2}",
    r"\\(ge|le)\b": r"\\\1q",
    r"\\[lr]Vert": r"\\|",
    r"\\(!|[Bb]ig\b)": "",
    r"\\underbrace(\{.*?\})_\{\\text\{[^}]*\}\}": r"\1",
}
SIZE = 10.5  # points to an em, by eye: letters as large as the text's
PICTURE = re.compile(r'<img (?=[^>]*src="data:image/png;base64,([\w+/]{32}))')
WIDE = 800  # pixels; on a phone a wider figure is scrolled, so that its words can be read
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+(?:\n[^$\n]+)?)\$", re.S)


def page(notebook, title, previous=None, following=None):
    """Return an executed notebook as one HTML file.

    Args:
        notebook: as nbformat reads it; its Markdown cells are changed.
        title: of the page.
        previous, following: (stem, title) of its neighbours, or None.
    """
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub(r"[Open in Colab](\1)", with_formulas(cell.source))
    exporter = nbconvert.HTMLExporter(template_name="lab", embed_images=True)
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    text = re.sub(r'<script[^>]* src="https?:[^>]*>\s*</script>', "", text)  # widgets, formulas
    text = re.sub(r'(href="[\w./-]*?\d\d[a-z]?_\w+)\.ipynb(?=["#])', r"\1.html", text)
    text = PICTURE.sub(_mark_if_wide, text)
    links = ['<a href="index.html">All pages</a>']
    for neighbour, arrow in ((previous, "← {}"), (following, "{} →")):
        if neighbour:
            name = html.escape(arrow.format(neighbour[1]))
            links.append(f'<a href="{neighbour[0]}.html">{name}</a>')
    text = text.replace("</head>", f"<style>{STYLE}</style></head>", 1)
    return re.sub("(<body[^>]*>)", rf"\1<nav>{' · '.join(links)}</nav>", text, count=1)


def _mark_if_wide(match):
    width = int.from_bytes(base64.b64decode(match[1])[16:20], "big")  # PNG, after IHDR
    return match[0] + ('class="wide" ' if width > WIDE else "")


def index(cards, dataset):
    """Return the page that leads to all others; `cards` as `card` makes them."""
    remark = "" if dataset == "mnist" else " The texts quote MNIST's, which was not at hand."
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Autoencoders in Keras</title><style>{STYLE}</style></head>
<body class="index"><h1>Autoencoders in Keras</h1>
<p>Below each title: the metrics of the page's main model on its test data.{remark}</p>
<main>{"".join(cards)}</main></body></html>
"""


def card(stem, title, png, line):
    """Return a page's link for the index: title, picture (bytes or None), and a line of metrics."""
    image = ""
    if png:
        data = base64.b64encode(png).decode()
        image = f'<img alt="a figure of this page" src="data:image/png;base64,{data}">'
    body = f"<h2>{html.escape(title)}</h2>{image}<p>{html.escape(line)}</p>"
    return f'<a href="{stem}.html">{body}</a>'


def with_formulas(markdown):
    """Replace TeX between dollars by drawings; what can't be drawn stays as text."""
    parts = CODE.split(markdown)
    parts[::2] = [FORMULA.sub(_drawn, part) for part in parts[::2]]
    return "".join(parts)


def _drawn(match):
    block, inline = match.groups()
    tex = " ".join((block or inline).split())
    try:
        svg, height, depth = _svg(tex)
    except ValueError:  # TeX that matplotlib doesn't know
        return f"`` {tex} ``"
    data = base64.b64encode(svg).decode()
    # in em, so that a formula grows with the text around it
    style = f"height:{height / SIZE:.3f}em;vertical-align:{-depth / SIZE:.3f}em"
    image = f'<img class="formula" alt="{html.escape(tex)}" style="{style}" '
    image += f'src="data:image/svg+xml;base64,{data}">'
    return f'\n\n<p class="formula">{image}</p>\n\n' if block else image


@functools.cache
def _svg(tex):
    """Draw a formula; return the SVG, and its height and depth in points at a size of 12."""
    import matplotlib
    from matplotlib import figure, font_manager, mathtext

    for unknown, known in DIALECT.items():
        tex = re.sub(unknown, known, tex)
    font = font_manager.FontProperties(size=12, math_fontfamily="stix")
    width, height, depth, *_ = mathtext.MathTextParser("path").parse(f"${tex}$", 72, font)
    with matplotlib.rc_context({"svg.hashsalt": "the same each time"}):
        drawing = figure.Figure((width / 72, height / 72))
        drawing.text(0, depth / height, f"${tex}$", fontproperties=font)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue(), height, depth
