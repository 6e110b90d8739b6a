"""Figures for the notebooks. Each function returns a closed figure, for a cell's last line."""

import numpy as np

from .errors import ArgumentError


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


def image_grid(images, title, columns=8, signed=False):
    """Draw images in a grid, each on a scale of its own, such as filters or feature maps.

    Args:
        images: shape (n, height, width) or (n, height, width, 1).
        title: states what is seen, and its number.
        columns: images in a line.
        signed: draw negative values blue, 0 white and positive ones red.

    Returns:
        A matplotlib figure.
    """
    images = _as_pictures(images)
    figure, axes = _axes(-(-len(images) // columns), columns, size=0.85, title=title)
    for axis, image in zip(axes.flat, images, strict=False):
        largest = np.abs(image).max() or 1
        if signed:
            axis.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        else:
            axis.imshow(image, cmap="gray", interpolation="nearest")
    return figure


def history(histories, title, metric="loss"):
    """Draw training curves, solid for the training and dashed for the validation images.

    Args:
        histories: dict of label → Keras history, as `cache.fit_or_load` returns it.
        title: states what is seen, and its number.
        metric: the key of the histories that is drawn, or a list of keys.

    Returns:
        A matplotlib figure.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    figure, axis = _chart(title, "epoch", metrics[0] if len(metrics) == 1 else "")
    curves = [(label, key, run.history) for label, run in histories.items() for key in metrics]
    for n, (label, key, values) in enumerate(curves):
        if key not in values:
            raise ArgumentError(
                f"metric {key!r}", f"{label} has no such curve", f"Choose from {sorted(values)}."
            )
        name = label if len(metrics) == 1 else f"{label} {key}".strip()
        for curve, style, images in ((key, "-", "training"), (f"val_{key}", "--", "validation")):
            if curve in values:
                epochs = range(1, len(values[curve]) + 1)
                axis.plot(epochs, values[curve], style, color=f"C{n}", label=f"{name}, {images}")
    axis.legend(frameon=False)
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
    figure, axis = _chart(title, xlabel, "share of the values")
    edges = np.histogram_bin_edges(np.concatenate([np.ravel(v) for v in samples.values()]), 60)
    for label, values in samples.items():
        share = np.full(np.size(values), 1 / np.size(values))
        axis.hist(np.ravel(values), edges, weights=share, histtype="step", lw=1.5, label=label)
    axis.legend(frameon=False)
    return figure


def scatter(panels, labels, title):
    """Draw points in the plane, coloured by class, in one panel or several side by side.

    Args:
        panels: dict of panel title → points with shape (n, 2).
        labels: class of each point, 0–9, shape (n,), the same for all panels.
        title: states what is seen, and its number.

    Returns:
        A matplotlib figure.
    """
    import matplotlib.pyplot as plt

    size = (4.2 * len(panels) + 0.8, 4.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    plt.close(figure)
    figure.suptitle(title, ha="left", x=0.02, fontsize=11)
    for axis, (name, points) in zip(axes.flat, panels.items(), strict=True):
        drawn = axis.scatter(
            *np.transpose(points), c=labels, s=2, cmap="tab10", vmin=-0.5, vmax=9.5
        )
        axis.set_title(name, fontsize=10)
    figure.colorbar(drawn, ax=axes, ticks=range(10), label="digit")
    return figure


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


def _chart(title, xlabel, ylabel):
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    plt.close(figure)
    axis.set_title(title, loc="left", fontsize=11)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
