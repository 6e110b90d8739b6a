"""Nothing is fitted, tuned or chosen on test data: read from the code, and tried out.

The code is read by `leaks`; for the trial, `pages` runs each page on a few images twice, once with
noise for its test data. What was trained, fitted or chosen must be the same both times.
"""

import hashlib
import os
import re
import sys
import textwrap

import keras
import nbformat
import numpy as np
import pages
import pytest
import sklearn.base
from helpers import NOTEBOOKS, read_notebook, trains
from leaks import find_leaks

from ae_keras import data

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
EMPTIEST = "np.argsort(ink, kind='stable')"
REPORTS = {  # found by `leaks`, and no leak: they say something of test data, and decide nothing
    "04_convolutional": [EMPTIEST],  # measures on the images that have room to be moved
    "04b_thirty_numbers_conv": [EMPTIEST],
    "06c_twenty_axes": [
        "NearestNeighbors(n_neighbors=k).fit(others)",  # precision and recall
        "learner.fit(np.concatenate([z[:half], other[:half]]), origin)",  # a referee of codes
    ],
    "07_sequence_to_sequence": [  # on validation, out of a dictionary that has test, too
        "min((1, 5, 10, 20), key=lambda k: metrics.mse(true_valid, fill_by_nearest(*valid, k)))"
    ],
    "07c_translation": ["unknown or not 0 < len(words) <= source_length"],  # checks a sentence
}
ANSWERS = {  # the same in the folded answers: what separates bold codes from thin ones, and axes
    "06c_twenty_axes": [
        "codes[its_ink > thick].mean(axis=0)",
        "codes[its_ink < thin].mean(axis=0)",
        "variances.argmax()",
        "variances.argmin()",
    ],
}


@every_notebook
def test_no_page_fits_or_chooses_on_test_data(path):
    cells = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "code"]
    found = find_leaks(cells)
    allowed = REPORTS.get(path.stem, [])
    assert [leak for leak in found if leak[0] not in allowed] == []
    assert set(allowed) <= {line for line, _ in found}, "an exception that is needed no more"


def test_no_solution_fits_or_chooses_on_test_data():
    """The code in the folded answers, read after the page's own."""
    for path in NOTEBOOKS:
        cells = read_notebook(path).cells
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        known = find_leaks(code)
        for solution in re.findall(r"^ *```python\n(.*?)```", prose, re.S | re.M):
            solution = textwrap.dedent(solution)
            found = find_leaks([*code, solution])
            allowed = ANSWERS.get(path.stem, [])
            new = [leak for leak in found if leak not in known and leak[0] not in allowed]
            assert new == [], path.stem


LOAD = "(x_train, y_train), (x_test, y_test), dataset = data.load_digits()\n"
LEAKS = {
    "PCA fitted on test images": "pca = PCA(32).fit(x_test.reshape(-1, 784))",
    "… under another name": "flat = x_test.reshape(-1, 784)\npca = PCA(32).fit(flat)",
    "… in one go": "z = PCA(32).fit_transform(np.concatenate([x_train, x_test]))",
    "a scaler": "scaler = StandardScaler()\nscaler.fit(encoder.predict(x_test))",
    "a classifier of test labels": "KNeighborsClassifier(5).fit(codes_train, y_test)",
    "Keras's fit": "model.fit(x_train, x_train, validation_data=(x_test, x_test))",
    "training": "cache.fit_or_load(model, 'a', x_test, x_test, dataset=dataset)",
    "validation": "cache.fit_or_load(model, 'a', x_train, x_train, validation_data=(x_test, y))",
    "… through a function": """
def train(model, name, x, x_valid, held_out):
    validation = (x_valid, x_valid)
    return cache.fit_or_load(model, name, x, x, held_out=held_out, validation_data=validation)
train(model, "a", x_train, x_test, (x_test, x_test))""",
    "… by the name of an argument": """
arguments = dict(dataset=dataset, held_out=(x_test, x_test))
arguments["validation_data"] = (x_test, x_test)
cache.fit_or_load(model, "a", x_train, x_train, **arguments)""",
    "noise on test images": """
noisy = data.add_gaussian_noise(x_test, 0.5, seed=1)
history = cache.fit_or_load(model, "a", noisy, x_train, dataset=dataset)""",
    "class means": """
means = np.stack([x_test[y_test == digit].mean(axis=0) for digit in range(10)])""",
    "… of codes": """
codes = encoder.predict(x_test)
means = [np.mean(codes[y_test == digit], axis=0) for digit in range(10)]""",
    "the mean image": "mean_image = np.mean(x_test, axis=0)",
    "the best setting": """
errors = {s: metrics.mse(x_test, smooth(x_test, s)) for s in (1, 2, 3)}
best = min(errors, key=errors.get)""",
    "… by argmin": """
errors = [metrics.mse(x_test, smooth(x_test, s)) for s in (1, 2, 3)]
best = [1, 2, 3][np.argmin(errors)]""",
    "… by a key": "best = min((1, 2, 3), key=lambda s: metrics.mse(x_test, smooth(x_test, s)))",
    "… by a function": """
def error(s):
    return metrics.mse(x_test, smooth(x_test, s))
best = min((1, 2, 3), key=error)""",
    "… in a loop": """
best, lowest = None, np.inf
for s in (1, 2, 3):
    error = metrics.mse(x_test, smooth(x_test, s))
    if error < lowest:
        best, lowest = s, error""",
    "… by a tuner": "strength = tune(smooth, x_test)",
    "the best of the saved models": """
runs = {n: cache.fit_or_load(model, n, x_train, x_train, held_out=(x_test, x)) for n in "ab"}
best = min(runs, key=lambda n: runs[n].held_out["loss"])""",
    "a threshold": """
scores = np.mean((x_test - autoencoder.predict(x_test)) ** 2, axis=(1, 2, 3))
threshold = scores[np.argsort(scores)[-10]]""",
    "… by a quantile": """
scores = np.mean((x_test - autoencoder.predict(x_test)) ** 2, axis=(1, 2, 3))
threshold = np.quantile(scores, 0.95)""",
    "least squares": "weights, *_ = np.linalg.lstsq(encoder.predict(x_test), y_test)",
    "a part of a series": """
parts = {"training": series[:100], "test": series[100:]}
PCA(2).fit(parts["test"])""",
    "… by a name": """
test_part = "test, same rhythm"
x = {part: windows(part) for part in ("training", test_part)}
best = min(settings, key=lambda s: metrics.mse(x[test_part], forecast(s)))""",
}
FINE = {
    "training and validation": """
x_train, x_valid = np.split(x_train, [len(x_train) * 11 // 12])
pca = PCA(32).fit(x_train.reshape(-1, 784))
history = cache.fit_or_load(
    model, "a", x_train, x_train, held_out=(x_test, x_test), validation_data=(x_valid, x_valid))
best = min((1, 2, 3), key=lambda s: metrics.mse(x_valid, smooth(x_valid, s)))
errors = [metrics.mse(x_valid, smooth(x_valid, s)) for s in (1, 2, 3)]
best = np.argmin(errors)""",
    "measuring": """
x_pca = pca.inverse_transform(pca.transform(x_test.reshape(-1, 784)))
rows = {"PCA": {"MSE": metrics.mse(x_test, x_pca)}}
right = np.mean(judge.predict_proba(x_test).argmax(axis=1) == y_test)
score = KNeighborsClassifier(5).fit(codes_train, y_train).score(codes_test, y_test)
use = (encoder.predict(x_test) > 0).mean(axis=0)""",
    "sizes": "model.fit(x_train[: len(x_test)], np.zeros(x_test.shape))",
    "through a function": """
def train(model, name, x, held_out):
    return cache.fit_or_load(model, name, x, x, held_out=held_out)
train(model, "a", x_train, (x_test, x_test))""",
    "arguments by their names": """
arguments = {"dataset": dataset, "epochs": 3, "held_out": (x_test, x_test)}
arguments["validation_data"] = (x_train, x_train)
cache.fit_or_load(model, "a", x_train, x_train, **arguments)
def train(model, **more):
    return cache.fit_or_load(model, "a", x_train, x_train, **more)
train(model, epochs=3, held_out=(x_test, x_test))""",
    "parts of a dict": """
parts = {"training": series[:100], "validation": series[100:150], "test": series[150:]}
PCA(2).fit(parts["training"])
best = min(settings, key=lambda s: metrics.mse(parts["validation"], forecast(s)))""",
    "a name that is used again": "x = x_test\nx = x_train\nPCA(2).fit(x)",
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_are_found(leak):
    assert len(find_leaks([LOAD, *LEAKS[leak].strip().split("\n\n")])) >= 1


@pytest.mark.parametrize("use", FINE)
def test_fair_uses_are_not_taken_for_leaks(use):
    assert find_leaks([LOAD, FINE[use]]) == []


# The trial

SETTING = re.compile(  # names of what is chosen, and of what comes from training images
    r"(^|_)(best|chosen|tuned|settings?|threshold|penalty|ridge|alpha|lag|width|strength|scale"
    r"|class_means|by_class|mean_image|templates|vocabulary|source_words|target_words"
    r"|train|training|valid|validation)(_|$)"
)
PLAIN = (bool, int, float, str, np.number, np.ndarray, type(None))


def digest(value, depth=0):
    """Reduce what an object consists of to text; what can't be compared is left out."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()[:12]}"
    if isinstance(value, PLAIN) and not isinstance(value, np.ndarray):
        return repr(value)
    if depth < 6 and isinstance(value, keras.callbacks.History):
        return digest(value.history)
    if depth < 6 and isinstance(value, dict):
        return {str(key): digest(item, depth + 1) for key, item in value.items()}
    if depth < 6 and isinstance(value, (list, tuple, np.ndarray)):
        return [digest(item, depth + 1) for item in value]
    if depth < 6 and isinstance(value, sklearn.base.BaseEstimator):
        return {"class": type(value).__name__} | digest(vars(value), depth + 1)
    return type(value).__name__


def fixed(names):
    """List what may not depend on test data: fitted estimators, histories, settings, baselines."""
    found = {}

    def look(where, value, depth=0):
        if isinstance(value, (sklearn.base.BaseEstimator, keras.callbacks.History)):
            found[where] = digest(value)
        elif isinstance(value, dict) and depth < 3:
            for key, item in value.items():
                if str(key).split(",")[0] in ("training", "validation", "train", "valid"):
                    found[f"{where}[{key}]"] = digest(item)
                else:
                    look(f"{where}[{key}]", item, depth + 1)
        elif isinstance(value, (list, tuple)) and depth < 3:
            for n, item in enumerate(value):
                look(f"{where}[{n}]", item, depth + 1)

    for name, value in names.items():
        if name.startswith("_") or (callable(value) and not hasattr(value, "fit")):
            continue
        look(name, value)
        if SETTING.search(name) and isinstance(value, (*PLAIN, dict, list, tuple)):
            found[name] = digest(value)
    return found


def differences(path, folder):
    """Run a page as it is and with noise for test data; name what is not the same both times."""
    as_is, noisy = (pages.run(path, folder / str(n), noise=bool(n)) for n in (0, 1))
    assert as_is.models.keys() == noisy.models.keys()
    if trains(read_notebook(path)):
        assert "training, because" in as_is.text  # trains from a cold cache, one epoch a model
    epochs = [len(v) for m in as_is.models.values() for v in m.facts["history"].values()]
    assert set(epochs) == {1} or not as_is.models  # 00 keeps its models elsewhere; bridges: none
    held_out = [[m.facts["held_out"] for m in run.models.values()] for run in (as_is, noisy)]
    assert held_out[0] != held_out[1] or not any(held_out[0]), "the noise did not reach the page"
    first, second = fixed(as_is.names), fixed(noisy.names)
    models = [
        f"{name}.h5"
        for name in as_is.models
        if not all(map(np.array_equal, as_is.models[name].weights, noisy.models[name].weights))
        or as_is.models[name].facts["history"] != noisy.models[name].facts["history"]
    ]
    return models + [name for name in first if first[name] != second.get(name)]


@every_notebook
def test_noise_for_test_data_changes_nothing_that_is_trained_or_chosen(path, tmp_path):
    assert differences(path, tmp_path) == []


PAGE = """
from sklearn.decomposition import PCA
(x_train, y_train), (x_test, y_test), dataset = data.load_digits()
x_train, x_valid = np.split(x_train, [len(x_train) * 11 // 12])
flat_train, flat_test = x_train.reshape(-1, 784), x_test.reshape(-1, 784)
image = keras.Input((28, 28, 1))
h = keras.layers.Dense(4)(keras.layers.Flatten()(image))
h = keras.layers.Reshape((28, 28, 1))(keras.layers.Dense(784, activation="sigmoid")(h))
model = keras.Model(image, h)
model.compile("adam", "mean_squared_error")
history = cache.fit_or_load(
    model, "00_planted", {train}, {train}, dataset=dataset, held_out=(x_test, x_test), seed=0,
    epochs=3, batch_size=64, validation_data=({valid}, {valid}))
pca = {{"two": PCA(2, random_state=0).fit({pca})}}
class_means = np.stack([{means} for c in range(10)])
best = min((0.1, 0.3, 0.5, 0.7, 0.9), key=lambda level: metrics.mse({chosen}, 0 * {chosen} + level))
print(metrics.mse(x_test, model.predict(x_test, verbose=0)))
"""
FAIR = {
    "train": "x_train",
    "valid": "x_valid",
    "pca": "flat_train",
    "means": "x_train[y_train[:660] == c].mean(axis=0)",
    "chosen": "x_valid",
}


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, []),
        ({"train": "x_test"}, ["00_planted.h5", "history"]),
        ({"train": "np.concatenate([x_train, x_test])"}, ["00_planted.h5", "history"]),
        ({"valid": "x_test"}, ["00_planted.h5", "history"]),
        ({"pca": "flat_test"}, ["pca[two]"]),
        ({"pca": "np.concatenate([flat_train, flat_test])"}, ["pca[two]"]),
        ({"means": "x_test[y_test == c].mean(axis=0)"}, ["class_means"]),
        ({"chosen": "x_test"}, ["best"]),
    ],
)
def test_planted_leaks_are_noticed(tmp_path, changes, seen):
    """A page of our own, as it should be, and with one mistake at a time."""
    imports = "from ae_keras import cache, data, metrics\nimport keras, numpy as np\n"
    imports += "keras.utils.set_random_seed(0)"
    page = nbformat.v4.new_notebook()
    page.cells = [
        nbformat.v4.new_code_cell(imports, metadata={"tags": ["imports"]}),
        nbformat.v4.new_code_cell(PAGE.format(**FAIR | changes)),
    ]
    nbformat.write(page, tmp_path / "00_planted.ipynb")
    assert differences(tmp_path / "00_planted.ipynb", tmp_path) == seen
    leaks = find_leaks([cell.source for cell in page.cells])
    assert bool(leaks) == bool(seen)


def test_the_trial_leaves_this_process_as_it_was(tmp_path):
    def state():
        return dict(os.environ), os.getcwd(), list(sys.path), data.load_digits, keras.Model.fit

    page = nbformat.v4.new_notebook()
    page.cells = [
        nbformat.v4.new_code_cell("import os, sys", metadata={"tags": ["imports"]}),
        nbformat.v4.new_code_cell('os.environ["A"] = "1"\nos.chdir("/")\nsys.path.append("/")'),
        nbformat.v4.new_code_cell("1 / 0"),
    ]
    nbformat.write(page, tmp_path / "00_planted.ipynb")
    before = state()
    with pytest.raises(ZeroDivisionError):
        pages.run(tmp_path / "00_planted.ipynb", tmp_path)
    assert state() == before
