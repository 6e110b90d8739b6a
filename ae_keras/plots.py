"""Figures for the notebooks. Each function returns a closed figure, for a cell's last line.

matplotlib and ipywidgets are imported where they are used, because they are slow to import.
"""

import io
import itertools

import numpy as np

from .errors import ArgumentError
from .networks import network  # noqa: F401

COLORS = {  # the same meaning on all pages; told apart by the colour-blind (Okabe and Ito 2008)
    "data": "#595959",  # images and other inputs
    "code": "#E69F00",  # z, the bottleneck
    "network": "#0072B2",  # what a network makes
    "rival": "#9A8FBF",  # what a method without a network makes
    "error": "#D55E00",  # noise, loss, what goes wrong
    "good": "#009E73",  # targets and bounds
}
CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#595959"]


def image_rows(rows, title):
    """Draw rows of images above each other, column by column the same example.

    Args:
        rows: dict of row label → images with shape (n, height, width) or (n, height, width, 1),
            in [0, 1]; each row has the same n.
        title: states what is seen, and its number.

    Returns:
        A matplotlib figure.
    """
    rows = {label: _as_pictures(images) for label, images in rows.items()}
    columns = {len(images) for images in rows.values()}
    if len(columns) != 1:
        raise ArgumentError("rows", f"they have {sorted(columns)} images", "Give equally many.")
    figure, axes = _axes(len(rows), columns.pop(), size=0.85, title=title, margin=1.3)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        line[0].text(-0.12, 0.5, label, ha="right", va="center", transform=line[0].transAxes)
    return figure


def image_grid(images, title, columns=8, signed=False, shared=False):
    """Draw images in a grid, such as filters, patterns or feature maps.

    Args:
        images: shape (n, height, width) or (n, height, width, 1).
        title: states what is seen, and its number.
        columns: images in a line.
        signed: draw negative values blue, 0 white, positive ones red, and a frame round each image.
        shared: give all images one scale; otherwise each has its own.

    Returns:
        A matplotlib figure.
    """
    images = _as_pictures(images)
    figure, axes = _axes(-(-len(images) // columns), columns, size=0.85, title=title)
    for axis, image in zip(axes.flat, images, strict=False):
        scale = images if shared else image
        if signed:
            largest = np.abs(scale).max() or 1
            axis.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
            axis.axis("on")  # white is a value here: only a frame shows where an image ends
            axis.set(xticks=[], yticks=[])
        else:
            low, high = scale.min(), scale.max()
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    return figure


def codes(images, codes, title, reconstructions=None):
    """Draw each image, its code as bars, and what is drawn from the code: one line an example.

    Args:
        images: shape (n, height, width) or (n, height, width, 1), in [0, 1].
        codes: shape (n, units).
        title: states what is seen, and its number.
        reconstructions: like images, or None to leave them out.

    Returns:
        A matplotlib figure. All codes have the same scale.
    """
    import matplotlib.pyplot as plt

    images, codes = _as_pictures(images), np.asarray(codes)
    pictures = [images] if reconstructions is None else [images, _as_pictures(reconstructions)]
    if codes.ndim != 2 or any(len(images) != len(codes) for images in pictures):
        raise ArgumentError(
            "images and codes",
            f"{len(images)} images, codes of shape {codes.shape}",
            "Give one code, a row of numbers, for each image.",
        )
    ratios = [1, 5, 1][: 1 + len(pictures)]
    figure, axes = plt.subplots(
        len(codes),
        len(ratios),
        figsize=(1.2 * sum(ratios), 1.25 * len(codes) + 0.5),
        width_ratios=ratios,
        squeeze=False,
        layout="constrained",
    )
    plt.close(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    low, high = min(codes.min(), 0), max(codes.max(), 0)
    margin = 0.05 * (high - low or 1)
    for line, code, *shown in zip(axes, codes, *pictures, strict=True):
        for axis, image in zip(line[::2], shown, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.axis("off")
        line[1].bar(range(len(code)), code, width=0.8, color=COLORS["code"])
        line[1].axhline(0, color="#333333", lw=0.8)
        line[1].set(xlim=(-0.7, len(code) - 0.3), ylim=(low - margin, high + margin))
        line[1].spines[["top", "right"]].set_visible(False)
    axes[-1, 1].set_xlabel(f"unit of the code, 0 to {codes.shape[1] - 1}")
    return figure


def history(histories, title, metric="loss", ylabel=None):
    """Draw training curves, solid for the training and dashed for the validation images.

    Args:
        histories: dict of label → Keras history, as `cache.fit_or_load` returns it.
        title: states what is seen, and its number.
        metric: the key of the histories that is drawn, or a list of keys.
        ylabel: the quantity with its unit; None: the metric's name.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.ticker import MaxNLocator

    metrics = [metric] if isinstance(metric, str) else list(metric)
    if ylabel is None:
        ylabel = metrics[0] if len(metrics) == 1 else ""
    figure, axis = chart(title, "epoch", ylabel)
    drawn = [(label, key, run.history) for label, run in histories.items() for key in metrics]
    for n, (label, key, values) in enumerate(drawn):
        if key not in values:
            raise ArgumentError(
                f"metric {key!r}", f"{label} has no such curve", f"Choose from {sorted(values)}."
            )
        name = label if len(metrics) == 1 else f"{label} {key}".strip()
        for curve, style, images in ((key, "-", "training"), (f"val_{key}", "--", "validation")):
            if curve in values:
                epochs = range(1, len(values[curve]) + 1)
                color = CYCLE[n % len(CYCLE)]
                axis.plot(epochs, values[curve], style, color=color, label=f"{name}, {images}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_beside(axis)
    return figure


def histograms(samples, title, xlabel):
    """Draw the distributions of several samples over each other, as outlines.

    Args:
        samples: dict of label → array of any shape.
        title: states what is seen, and its number.
        xlabel: the quantity, with its unit.

    Returns:
        A matplotlib figure.
    """
    figure, axis = chart(title, xlabel, "share of the values")
    edges = np.histogram_bin_edges(np.concatenate([np.ravel(v) for v in samples.values()]), 60)
    for (label, values), color in zip(samples.items(), itertools.cycle(CYCLE), strict=False):
        share = np.full(np.size(values), 1 / np.size(values))
        style = {"weights": share, "histtype": "step", "lw": 1.5, "color": color}
        axis.hist(np.ravel(values), edges, label=label, **style)
    _legend_beside(axis)
    return figure


def chart(title, xlabel, ylabel, width=7, height=3.2):
    """Make an empty chart in the house style, for a drawing of a page's own.

    Args:
        title: states what is seen, and its number.
        xlabel, ylabel: the quantities, with their units.
        width, height: of the figure, in inches.

    Returns:
        `(figure, axis)`, matplotlib's; the figure is closed, and shown as a cell's last line.
    """
    figure, (axis,) = panels(1, title, width, height)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axis


def panels(n, title, width=3.5, height=3.2):
    """Make n empty charts side by side in the house style.

    Args:
        n: number of charts.
        title: over all of them; states what is seen, and its number.
        width, height: of each chart, in inches.

    Returns:
        `(figure, axes)`, matplotlib's, axes with shape (n,).
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, n, figsize=(n * width, height), squeeze=False, layout="constrained"
    )
    plt.close(figure)  # the cell shows it once, as its value
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def scatter(points, labels, title):
    """Draw points in the plane, coloured by class, in one panel or several side by side.

    Each class's digit stands at the median of its points, or beside it where digits would
    overlap. An axis leaves out the outermost hundredth of the points, so that a few of them don't
    squeeze the rest.

    Args:
        points: dict of panel title → points with shape (n, 2).
        labels: class of each point, 0–9, shape (n,), the same for all panels.
        title: states what is seen, and its number.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.patheffects import withStroke

    labels = np.asarray(labels)
    figure, axes = panels(len(points), title, width=4.2, height=4.4)
    outline = [withStroke(linewidth=3, foreground="white")]
    for axis, (name, cloud) in zip(axes, points.items(), strict=True):
        cloud = np.asarray(cloud)
        axis.scatter(*cloud.T, c=labels, s=3, cmap="tab10", vmin=-0.5, vmax=9.5)
        low, high = np.percentile(cloud, [0.5, 99.5], axis=0)
        margin = 0.05 * (high - low) + 1e-9
        low, high = low - margin, high + margin
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        classes = np.unique(labels)
        middles = np.stack([np.median(cloud[labels == label], axis=0) for label in classes])
        places = _pushed_apart((middles - low) / (high - low), gap=0.06)
        for label, (x, y) in zip(classes, low + places * (high - low), strict=True):
            style = {"fontsize": 13, "weight": "bold", "path_effects": outline}
            axis.text(x, y, str(label), ha="center", va="center", **style)
        axis.set_title(name, fontsize=10)
    return figure


def _pushed_apart(places, gap):
    """Move places of shape (n, 2) as far as is needed for no two to be nearer than a gap."""
    for _ in range(200):
        steps = places[:, np.newaxis] - places  # (n, n, 2)
        distances = np.linalg.norm(steps, axis=-1)
        missing = np.maximum(gap - distances, 0) * (1 - np.eye(len(places)))
        if missing.max(initial=0) < 0.01 * gap:
            break
        shares = missing / np.maximum(distances, 1e-9) / 2
        places = places + np.sum(shares[..., np.newaxis] * steps, axis=1)
    return places


def slider(draw, **ranges):
    """Show a picture that follows sliders; it needs a live kernel.

    Args:
        draw: function of the sliders' values, by name, that returns a matplotlib figure or a
            grey image of shape (height, width), in [0, 1].
        **ranges: name → (lowest, highest) value.

    Returns:
        An ipywidgets box, for a cell's last line.
    """
    import ipywidgets

    sliders = {
        name: ipywidgets.FloatSlider(
            value=(low + high) / 2, min=low, max=high, step=(high - low) / 100, description=name
        )
        for name, (low, high) in ranges.items()
    }
    picture = ipywidgets.Image(format="png")

    def redraw(change=None):
        picture.value = _as_png(draw(**{name: s.value for name, s in sliders.items()}))

    for one in sliders.values():
        one.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([*sliders.values(), picture])


def table(rows):
    """Set figures in a table, as Markdown that Jupyter shows and as text elsewhere.

    Args:
        rows: dict of row label → dict of column → value; floats get four decimals, and a column
            that a row lacks stays empty.

    Returns:
        An object for a cell's last line.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns]]
    for label, row in rows.items():
        lines.append([label, *(_cell(row.get(column, "")) for column in columns)])
    return _Table(lines)


class _Table:
    def __init__(self, lines):
        self.lines = lines

    def __repr__(self):
        widths = [max(map(len, column)) for column in zip(*self.lines, strict=True)]
        return "\n".join(
            "  ".join(f"{text:<{w}}" if n == 0 else f"{text:>{w}}" for n, (text, w) in row).rstrip()
            for row in (list(enumerate(zip(line, widths, strict=True))) for line in self.lines)
        )

    def _repr_markdown_(self):
        head, *body = self.lines
        rule = ["---"] + ["---:"] * (len(head) - 1)
        lines = [[text.replace("|", "\\|") for text in line] for line in (head, rule, *body)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value):
    return f"{value:.4f}" if isinstance(value, (float, np.floating)) else str(value)


def _as_pictures(images):
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or len(images) == 0:
        raise ArgumentError(
            "images", f"shape {images.shape}", "Give (n, height, width) or (n, height, width, 1)."
        )
    return images


def _axes(lines, columns, size, title, margin=0.0):
    """Make a grid of bare axes, `size` inches each, with `margin` inches for labels at the left."""
    import matplotlib.pyplot as plt  # slow to import

    width, height = columns * size + margin, lines * size
    figure, axes = plt.subplots(lines, columns, figsize=(width, height + 0.4), squeeze=False)
    plt.close(figure)  # the cell shows it once, as its value
    top = height / (height + 0.4)
    figure.subplots_adjust(margin / width, 0, 1, top, wspace=0.06, hspace=0.06)
    figure.suptitle(title, x=margin / width, y=1, ha="left", va="top", fontsize=11)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _as_png(picture):
    """Return a figure, or a grey image enlarged tenfold, as the bytes of a PNG."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", bbox_inches="tight")
    else:
        large = np.kron(np.asarray(picture), np.ones((10, 10)))
        plt.imsave(buffer, large, cmap="gray", vmin=0, vmax=1, format="png")
    return buffer.getvalue()


def _legend_beside(axis):
    """Put the legend to the right of the axes, where it can't lie on a curve."""
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=9)
