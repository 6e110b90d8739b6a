"""Drawings of networks, made from the models themselves, so that they can't be wrong."""

from dataclasses import dataclass

import keras
import numpy as np

from .errors import ArgumentError


@dataclass
class Block:
    """One tensor of a network: its shape without the batch, and how it comes about."""

    label: str
    shape: tuple
    parents: list  # positions of the blocks that it is made from
    model: str  # name of the nested model that it belongs to, or ""
    layer: str = ""  # name of the layer that makes it
    column: int = 0

    @property
    def size(self):
        """How many numbers the tensor has for one example; an open length counts as 1."""
        return int(np.prod([n or 1 for n in self.shape], dtype=int))


def network(model, title):
    """Draw a model: each tensor as a block of its size, the smallest, the code, in orange.

    A vector is a bar, an image or a stack of feature maps a pile of squares, a sequence a row of
    bars. Nested models, such as encoder and decoder, stand in a frame with their name; one that
    is called twice is drawn twice.

    Args:
        model: a functional or sequential model of known input shape.
        title: states what is seen, and its number.

    Returns:
        A matplotlib figure.

    Raises:
        ArgumentError: it is no such model.
    """
    import matplotlib.pyplot as plt

    blocks = blocks_of(model)
    columns = max(block.column for block in blocks) + 1
    lanes = [[b for b in blocks if b.column == column] for column in range(columns)]
    rows = max(map(len, lanes))
    figure, axis = plt.subplots(
        figsize=(max(5, 1.15 * columns + 0.4), 3.0 * rows + 0.4), layout="constrained"
    )
    plt.close(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axis.set(xlim=(-0.7, columns - 0.3), ylim=(-1.5 * rows, 1.5 * rows))
    axis.axis("off")
    places = {}
    for column, lane in enumerate(lanes):
        for n, block in enumerate(lane):
            places[id(block)] = column, 1.5 * (len(lane) - 1 - 2 * n)
    _draw_frames(axis, blocks, places)
    largest = max(block.size for block in blocks)
    smallest = _code_size(blocks)
    for block in blocks:
        for parent in block.parents:
            ends = [(*places[id(b)], *_extent(b, largest)) for b in (blocks[parent], block)]
            _draw_arrow(axis, *ends)
    for block in blocks:
        _draw_block(axis, block, places[id(block)], largest, block.size == smallest)
    return figure


def blocks_of(model):
    """List a model's tensors as `Block`s, those of nested models in place, in order of columns."""
    if not isinstance(model, keras.Model) or not model.built or not model.inputs:
        raise ArgumentError(
            f"model={model!r}",
            "not a functional or sequential model of known input shape",
            "Build it as keras.Model(inputs, outputs), or start it with keras.Input.",
        )
    blocks = [Block("input", tuple(t.shape[1:]), [], "") for t in model.inputs]
    _trace(model, list(range(len(blocks))), blocks, "")
    for block in blocks:
        block.column = max((blocks[parent].column + 1 for parent in block.parents), default=0)
    drawn = [(block.label, block.parents) for block in blocks]
    for block, own in zip(blocks, drawn, strict=True):
        if block.layer and drawn.count(own) > 1:  # two heads of one layer: tell them apart
            block.label += f"\n{block.layer}"
    return blocks


def _trace(model, given, blocks, name):
    """Append the blocks that a model makes of given ones, and return those of its outputs."""
    made = {id(tensor): place for tensor, place in zip(model.inputs, given, strict=True)}

    def place_of(tensor):
        if id(tensor) not in made:
            operation, call, _ = tensor._keras_history
            node = operation._inbound_nodes[call]
            parents = [place_of(parent) for parent in node.input_tensors]
            places = _call(operation, parents, node.output_tensors, blocks, name)
            made.update(zip(map(id, node.output_tensors), places, strict=True))
        return made[id(tensor)]

    return [place_of(tensor) for tensor in model.outputs]


def _call(operation, parents, outputs, blocks, name):
    """Append what one layer, or a nested model, makes of given blocks; return its outputs."""
    if isinstance(operation, keras.Model):
        frame = operation.name
        while any(block.model == frame for block in blocks):
            frame += " (again)"
        return _trace(operation, parents, blocks, frame)
    places = []
    for n, tensor in enumerate(outputs):
        label = _label(operation) if n == 0 else "its state"
        shape = tuple(tensor.shape[1:]) or (1,)  # one number for each image
        blocks.append(Block(label, shape, parents, name, operation.name if n == 0 else ""))
        places.append(len(blocks) - 1)
    return places


def _label(operation):
    """Say in two lines what a layer does: its class, and what matters of its settings."""
    kind = type(operation).__name__.replace("DTranspose", "D-\nTranspose")
    if kind == "Lambda":  # what it does is in its name alone
        return f"{kind}\n{operation.name}"
    if isinstance(operation, (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)):
        kind = f"{kind} ↻"
    window = getattr(operation, "kernel_size", ())
    details = ["×".join(map(str, window))] if window else []
    strides = getattr(operation, "strides", 1)
    if np.max(strides) > 1 and "Pool" not in kind:
        details.append(f"stride {np.ravel(strides)[0]}")
    activation = getattr(getattr(operation, "activation", None), "__name__", "linear")
    details = [", ".join(details)] if details else []
    if activation != "linear" and "↻" not in kind:
        details.append(activation)
    return "\n".join([kind, *details])


def _code_size(blocks):
    """Return the size of the code: the smallest tensor inside, or the smaller end of half a model.

    An encoder alone ends in the code, and a decoder alone begins with it. Of a model that joins
    others, such as encoder and decoder, only what lies in these counts.
    """
    used = {parent for block in blocks for parent in block.parents}
    inputs = [block.size for block in blocks if not block.parents]
    outputs = [block.size for n, block in enumerate(blocks) if n not in used]
    inside = {n: block.size for n, block in enumerate(blocks) if block.parents and n in used}
    if joined := [size for n, size in inside.items() if blocks[n].model]:
        return min(joined)
    inside = list(inside.values())
    if max(outputs) < max(inputs):
        return min(outputs + inside)
    return min(inputs + inside) if max(inputs) < max(outputs) or not inside else min(inside)


def _draw_block(axis, block, place, largest, is_code):
    from matplotlib.patches import Rectangle

    from .plots import COLORS

    x, y = place
    color = COLORS["code"] if is_code else COLORS["network"] if block.parents else COLORS["data"]
    style = {"facecolor": color, "edgecolor": "white", "linewidth": 0.8}
    half_width, half_height = _extent(block, largest)
    shape = [n or 1 for n in block.shape]
    if len(shape) == 3:  # a pile of maps
        side, count = _pile(shape)
        for n in range(count):
            shift = 0.05 * (n - (count - 1) / 2)
            corner = (x - side / 2 - shift, y - side / 2 + shift)
            axis.add_patch(Rectangle(corner, side, side, **style))
    else:
        bars = min(shape[0], 8) if len(shape) == 2 else 1
        width = 2 * half_width / bars
        for n in range(bars):
            corner = (x + (n - bars / 2) * width, y - half_height)
            axis.add_patch(Rectangle(corner, width * 0.9, 2 * half_height, **style))
    name = "×".join("n" if n is None else str(n) for n in block.shape)
    axis.text(x, y + half_height + 0.06, name, ha="center", va="bottom", fontsize=9, weight="bold")
    axis.text(x, y - 0.92, block.label, ha="center", va="top", fontsize=8, linespacing=1.05)


def _extent(block, largest):
    """Return half the width and half the height of a block's drawing."""
    shape = [n or 1 for n in block.shape]
    if len(shape) == 3:
        side, count = _pile(shape)
        return side / 2 + 0.025 * (count - 1), side / 2 + 0.025 * count
    bars = min(shape[0], 8) if len(shape) == 2 else 1
    height = 1.7 * np.sqrt(shape[-1] / (largest if bars == 1 else max(shape)))
    return 0.08 if bars == 1 else 0.35, np.clip(height, 0.1, 1.7) / 2


def _pile(shape):
    """Return the side of one map of a pile, and how many maps are drawn."""
    side = 0.16 + 0.6 * min(1, np.sqrt(shape[0] * shape[1]) / 28)
    return side, min(shape[2], 2 + int(np.log2(shape[2])))


def _draw_arrow(axis, start, end):
    """Draw an arrow between two blocks, each given as (x, y, half width, half height)."""
    style = {"arrowstyle": "-|>", "color": "#888888", "lw": 1, "shrinkA": 0, "shrinkB": 0}
    (x, y, width, height), (x_end, y_end, width_end, height_end) = start, end
    if x_end - x > 1 and y == y_end:  # a skip connection: over the blocks in between
        top = y + 0.8 + 0.03 * (x_end - x)  # longer ones run higher
        sides = [x, x, x_end], [y + height + 0.3, top, top]
        axis.plot(*sides, color=style["color"], lw=1, zorder=0)
        axis.annotate("", (x_end, y_end + height_end + 0.3), (x_end, top), arrowprops=style)
    else:
        left, right = x + width + 0.04, x_end - width_end - 0.04
        axis.annotate("", (right, y_end), (left, y), arrowprops=style)


def _draw_frames(axis, blocks, places):
    """Frame the blocks of each nested model, and write its name above them."""
    from matplotlib.patches import FancyBboxPatch

    for name in dict.fromkeys(block.model for block in blocks if block.model):
        xs, ys = zip(*(places[id(b)] for b in blocks if b.model == name), strict=True)
        low, high = (min(xs) - 0.44, min(ys) - 1.42), (max(xs) + 0.44, max(ys) + 1.4)
        axis.add_patch(
            FancyBboxPatch(
                low,
                high[0] - low[0],
                high[1] - low[1],
                boxstyle="round,pad=0.02",
                facecolor="#F3F3F3",
                edgecolor="#BBBBBB",
                zorder=-1,
            )
        )
        axis.text(low[0] + 0.05, high[1] - 0.03, name, va="top", fontsize=9, style="italic")
