"""Run a page on a few images, in one epoch a model, as it is or with noise for its test data.

    run(path, folder)               everything a page made, see `Run`
    run(path, folder, noise=True)   the same with noise in the place of the test data
    shrink(notebook, noise=False)   a copy of a notebook for any executor: with a cell more, tagged
                                    `injected`, that shrinks the data once the page has its imports

A page is run in this process: TensorFlow starts once for all of them. Nothing is drawn, and models
run eagerly, because making graphs takes longer than what they are made for. (.ci/run trains all
pages for an epoch as they are, graphs and XLA included, and nbval draws everything.)
"""

import contextlib
import copy
import functools
import gc
import io
import linecache
import os
import pathlib
import re
import sys
from typing import NamedTuple

import nbformat
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from ae_keras import data, modelfile  # isort: skip
import keras

TRAIN, VALID, TEST = 660, 60, 97  # images; the last twelfth of the training set is validation
FEW = 100  # samples that a training gets, of these or of a page's own data
PLAINLY = {"jit_compile": False, "run_eagerly": True, "steps_per_execution": 1}
MARKS = {  # page with data of its own → the code after which its data are shrunk
    "07c_translation": r"^parts = \{",
    "08b_eigenfaces": r"^x_train, x_valid, x_test = ",
    "09b_manifold": r"^numbers = \{",
}


class Run(NamedTuple):
    """What a page made: its variables, its models by name, and all that it printed."""

    names: dict
    models: dict  # name → `modelfile.SavedModel`
    text: str


def run(path, folder, noise=False):
    """Execute a page's code with little data and one epoch, from an empty folder of models.

    Args:
        path: of the notebook.
        folder: for its models; it needn't exist.
        noise: put noise in the place of the test data.

    Returns:
        A `Run`. An exception of the page is raised as it is.
    """
    cells = shrink(nbformat.read(path, as_version=4), path.stem, noise).cells
    names = {"__name__": "__main__", "display": lambda *arguments, **options: None}
    said = io.StringIO()
    epochs = "" if path.stem == "00_start_here" else "1"  # it deletes and edits full trainings
    settings = {"DATASET": "digits", "EPOCHS": epochs, "MODELS": str(folder), "CACHE": ""}
    with _surroundings(path.parent, settings), contextlib.redirect_stdout(said):
        for n, cell in enumerate(c for c in cells if c.cell_type == "code"):
            source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M)  # magic commands
            name = f"<{path.stem}, cell {n}>"
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            exec(compile(source, name, "exec"), names)
    models = {
        re.sub(r"\.\d+-epoch-.*", "", file.stem): modelfile.read(file)
        for file in sorted(pathlib.Path(folder).glob("*/*.h5"))
    }
    return Run(names, models, said.getvalue())


def shrink(notebook, stem, noise=False):
    """Return a copy of a notebook with a cell that makes its data small, and its test data noise.

    Args:
        notebook: as nbformat reads it.
        stem: its file's name.
        noise: put noise in the place of the test data.
    """
    notebook = copy.deepcopy(notebook)
    folder = str(pathlib.Path(__file__).resolve().parent)
    code = f"import sys\n\nsys.path.insert(0, {folder!r})\nimport pages\n\npages."
    places = {"imports": f"{code}change_sources({noise})"}
    if stem in MARKS:
        places[MARKS[stem]] = f"{code}change_{stem[:3]}(globals(), {noise})"
    for place, source in places.items():
        found = [
            n
            for n, cell in enumerate(notebook.cells)
            if place in cell.metadata.get("tags", []) or re.search(place, cell.source, re.M)
            if cell.cell_type == "code"
        ]
        if not found:
            raise LookupError(f"{stem}: no cell {place!r}; mend tests/pages.py, or tag the cell")
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected"]})
        notebook.cells.insert(found[0] + 1, cell)
    return notebook


def change_sources(noise):
    """Let everything that pages load be small, and noise where it is for testing."""
    import matplotlib.cbook

    data.load_digits = lambda dataset=None: _few_digits(noise)
    original = getattr(matplotlib.cbook.get_sample_data, "original", None)
    original = original or matplotlib.cbook.get_sample_data

    def get_sample_data(name, *arguments, **options):
        file = original(name, *arguments, **options)
        if name != "membrane.dat" or not noise:
            return file
        values = np.frombuffer(file.read(), "float32").copy()
        tested = values[1000 + 4 * 1250 :]  # 07: from the end of the validation part on
        tested[:] = np.random.default_rng(0).normal(-0.3, 0.2, len(tested))
        return io.BytesIO(values.tobytes())

    get_sample_data.original = original
    matplotlib.cbook.get_sample_data = get_sample_data


def change_07c(names, noise):
    """Keep few numbers; for noise, give the test part others."""
    parts, spell = names["parts"], names["spell"]
    learned = {kind: numbers[:200] for kind, numbers in parts["training"].items()}
    spoken = {
        language: [spell(n, language) for numbers in learned.values() for n in numbers]
        for language in (names["language"], "en")
    }

    def can_be_read(number):
        for language, sentences in spoken.items():
            known = {word for sentence in sentences for word in sentence}
            sentence = spell(number, language)
            if not set(sentence) <= known or len(sentence) > max(map(len, sentences)):
                return False
        return True

    for part in ("validation", "test"):
        for kind, numbers in parts[part].items():
            kept = np.array(list(filter(can_be_read, numbers[:100])))
            half = len(kept) // 2
            parts[part][kind] = kept[half:] if noise and part == "test" else kept[:half]
    parts["training"] = learned


def change_08b(names, noise):
    """For noise, give the test part no faces, and non-faces of another kind."""
    if noise:
        random = np.random.default_rng(0)
        for part in ("x_test", "others_test"):
            names[part] = random.random(names[part].shape, dtype=np.float32)


def change_09b(names, noise):
    """Keep few points; for noise, put the test part anywhere in the plane."""
    names["numbers"] = {"training": 256, "validation": 64, "test": 64}
    draw_parts = names["draw_parts"]

    def draw_few(curve, stddev):
        parts = draw_parts(curve, stddev)
        if noise:
            random = np.random.default_rng(0)
            parts["test"] = tuple(random.normal(0, 1, (2, 64, 2)).astype("float32"))
        return parts

    names["draw_parts"] = draw_few


@functools.cache
def _digits():
    """Make a few of the embedded digits, as `data.load_digits` does; validation is its own."""
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    chosen = [*range(TRAIN), *range(1375, 1375 + VALID), *range(1500, 1500 + TEST)]
    images = np.stack([data._pose(bunch.images[n]) for n in chosen])
    images = (images.astype(np.float32) / 255)[..., np.newaxis]
    return images, bunch.target[chosen].astype(np.uint8)


def _few_digits(noise):
    images, labels = (array.copy() for array in _digits())
    x, y = images[-TEST:], labels[-TEST:]
    if noise:
        random = np.random.default_rng(0)
        x, y = random.random(x.shape, dtype=np.float32), random.permutation(y)
    print(f"Dataset: digits – {TRAIN + VALID} training and {TEST} test images (shrunk for a test)")
    return (images[:-TEST], labels[:-TEST]), (x, y), "digits"


def _thinned(array):
    """Take every so many samples, over the whole length, so that few are left."""
    return array[:: -(-len(array) // FEW)] if isinstance(array, np.ndarray) else array


class _Anything:
    """Stands for a figure or an axis, which takes longer to make than most computations here."""

    def __getattr__(self, name):
        if name.startswith("__"):  # NumPy asks for its protocols
            raise AttributeError(name)
        return self

    def __call__(self, *arguments, **options):
        return self

    __getitem__ = __call__


def _subplots(rows=1, columns=1, squeeze=True, **options):
    axes = np.full((rows, columns), _Anything(), dtype=object)
    return _Anything(), np.squeeze(axes)[()] if squeeze else axes


def _predict(model, x, batch_size=None, verbose=None):
    """Stands for `keras.Model.predict`: so few images need no batches."""
    return keras.tree.map_structure(np.asarray, model(x, training=False))


@contextlib.contextmanager
def _surroundings(folder, settings):
    """Set the environment, and put everything back that pages change in this process."""
    import matplotlib.cbook
    import matplotlib.pyplot as plt

    kept = dict(os.environ), pathlib.Path.cwd(), list(sys.path)
    figures = plt.subplots, plt.close, plt.show
    functions = data.load_digits, matplotlib.cbook.get_sample_data, keras.Model.compile
    fit, predict = keras.Model.fit, keras.Model.predict

    @functools.wraps(functions[2])
    def compile_plainly(self, *arguments, **options):
        return functions[2](self, *arguments, **options | PLAINLY)

    @functools.wraps(fit)
    def fit_few(self, *pair, **options):
        return fit(self, *keras.tree.map_structure(_thinned, pair), **options)

    os.environ.update({f"AE_KERAS_{key}": value for key, value in settings.items()})
    os.chdir(folder)
    plt.subplots, plt.close, plt.show = _subplots, (lambda figure: None), (lambda: None)
    keras.Model.compile, keras.Model.fit, keras.Model.predict = compile_plainly, fit_few, _predict
    try:
        yield
    finally:
        data.load_digits, matplotlib.cbook.get_sample_data, keras.Model.compile = functions
        keras.Model.fit, keras.Model.predict = fit, predict
        os.environ.clear()
        os.environ.update(kept[0])
        os.chdir(kept[1])
        sys.path[:] = kept[2]
        plt.subplots, plt.close, plt.show = figures
        keras.utils.clear_session()
        gc.collect()
