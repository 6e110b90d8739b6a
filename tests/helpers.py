"""What the tests share: the notebooks, their definitions and cells, and a small model."""

import ast
import contextlib
import pathlib

import keras
import nbformat
import numpy as np
import pytest

from ae_keras import metrics, seeds

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@contextlib.contextmanager
def own_settings(folder):
    """Keep what follows away from the user's settings, saved models and Keras folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AE_KERAS_EPOCHS", "AE_KERAS_CACHE", "AE_KERAS_DATASET"):
            patch.delenv(name, raising=False)
        patch.setenv("AE_KERAS_MODELS", str(folder / "saved_models"))
        patch.setenv("KERAS_HOME", str(folder / "keras"))
        yield


def of(parts, dataset):
    if dataset not in parts:
        pytest.skip("MNIST is not at hand")
    return parts[dataset]


def build(units=3, activation="relu", loss="mean_squared_error", learning_rate=0.01):
    """Make a compiled 6-3-6 autoencoder, in which encoder and decoder share a layer name."""
    keras.utils.set_random_seed(1)
    image, code = keras.Input((6,)), keras.Input((units,))
    dense = keras.layers.Dense
    encoder = keras.Model(image, dense(units, activation, name="dense")(image), name="encoder")
    decoder = keras.Model(code, dense(6, name="dense")(code), name="decoder")
    model = keras.Model(image, decoder(encoder(image)), name="autoencoder")
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    return model


def read_notebook(path):
    return nbformat.read(path, as_version=4)


def trains(notebook):
    """Return whether a page has models of its own."""
    return any("fit_or_load(" in c.source for c in notebook.cells if c.cell_type == "code")


class Recorder:
    """Stands for `plots`: keeps what it is asked to draw."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def run_cell(path, words, scope):
    """Run the one code cell of a page that contains `words`, which fills `scope`; return it."""
    (cell,) = [c for c in read_notebook(path).cells if c.cell_type == "code" and words in c.source]
    scope.setdefault("plots", Recorder())
    scope |= {"np": np, "keras": keras, "metrics": metrics}
    exec(cell.source, scope)
    return scope


def drawn(path, words, scope):
    """Run a cell as `run_cell` does, and return what it asks a Recorder in place of `plots`."""
    if isinstance(scope.get("plots"), Recorder):
        scope["plots"] = Recorder()  # of an earlier cell
    return getattr(run_cell(path, words, scope)["plots"], "calls", [])


def weights_equal(a, b):
    return all(map(np.array_equal, a.get_weights(), b.get_weights()))


def _free_names(node):
    """Return the names that a statement uses, without those that a function binds itself."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    bound = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    bound |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    used = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    return used if isinstance(node, (ast.Assign, ast.For)) else used - bound


def _binds(node):
    """Return the names that a definition, an assignment or a loop of assignments gives values."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Assign) or (
        isinstance(node, ast.For) and all(isinstance(line, ast.Assign) for line in node.body)
    ):
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
        return {n.id for n in stored if isinstance(n.ctx, ast.Store)}
    return set()


def definitions(path, *names, **given):
    """Run those statements of a notebook that its definitions of `names` need, and return all.

    Functions, classes, assignments and loops of assignments are taken by what they bind; calls
    are not run, so that nothing is trained or drawn. What is `given` takes the place of the
    notebook's own value.
    """
    source = "\n".join(c.source for c in read_notebook(path).cells if c.cell_type == "code")
    needed, chosen = set(names), []
    for node in reversed(ast.parse(source).body):
        if _binds(node) & needed - set(given):
            chosen.insert(0, node)
            needed |= _free_names(node)
    scope = {"keras": keras, "np": np, "seed": 0, **given}
    exec(compile(ast.Module(chosen, []), path.name, "exec"), scope)
    return scope


def numpy_lstm(layer, x, h=None, c=None):
    """Run a Keras LSTM's weights over x of shape (n, steps, features), by the book.

    The gates stand in Keras's order: input, forget, cell, output (Hochreiter and Schmidhuber
    1997, with the forget gate of Gers et al. 2000).

    Returns:
        All outputs, of shape (n, steps, units), and the last h and c.
    """
    kernel, recurrent, bias = (np.asarray(w, dtype=np.float64) for w in layer.get_weights())
    h = np.zeros((len(x), len(recurrent))) if h is None else h
    c = np.zeros_like(h) if c is None else c
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1), h, c


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recorded(key):
    """Return what `make seeds` recorded of a table on MNIST; skip the test if there is nothing."""
    path = ROOT / "saved_models" / "mnist" / f"{key}.seeds.json"
    if not path.is_file():
        pytest.skip(f"no seeds are recorded: make seeds NB={key.partition('-')[0]}")
    return seeds.read(path)


def stored_tables(path):
    """Read the tables that a page shows, each as row → column → cell."""
    found = []
    for cell in read_notebook(path).cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                head, _, *lines = ([c.strip() for c in li.split("|")] for li in text.splitlines())
                found.append({row: dict(zip(head[2:-1], c, strict=False)) for _, row, *c in lines})
    return found


def stored_text(path):
    """Read all that a page prints."""
    outputs = [out for cell in read_notebook(path).cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


def figures():
    """Make a scope for `run_cell` whose `plots` draws, so that a test can look into the figure."""
    from matplotlib.patches import Circle, Ellipse
    from scipy.stats import norm

    from ae_keras import plots

    class Looking(Recorder):
        COLORS = plots.COLORS

        def __getattr__(self, name):
            def call(*args, **kwargs):
                self.calls.append((name, args, kwargs))
                return getattr(plots, name)(*args, **kwargs)

            return call

    return {"plots": Looking(), "Circle": Circle, "Ellipse": Ellipse, "norm": norm}
