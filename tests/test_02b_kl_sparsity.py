"""The definitions of 02b_kl_sparsity, and its tables against NumPy."""

import re

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from helpers import ROOT, definitions, of, read_notebook, sigmoid

from ae_keras import metrics, modelfile, taught

PATH = ROOT / "notebooks" / "02b_kl_sparsity.ipynb"
MODELS = ROOT / "saved_models"
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


@pytest.fixture(scope="module")
def page():
    wanted = ["kl", "KLSparsity", "keep_largest", "build_encoder", "autoencoder", "units"]
    return definitions(PATH, *wanted, join=taught.join, metrics=metrics)


def forward(dataset, x, change=lambda z: z):
    """Compute code and reconstruction with NumPy, from the numbers in the file."""
    w_e, b_e, w_d, b_d = modelfile.read(MODELS / dataset / "02b_kl_sparsity.h5").weights
    z = sigmoid(x.reshape(-1, 784).astype(np.float64) @ w_e + b_e)
    return z, sigmoid(change(z) @ w_d + b_d)


def keep(z, k):
    kept = np.zeros_like(z)
    rows, columns = np.arange(len(z))[:, None], np.argsort(z, axis=1)[:, ::-1][:, :k]
    kept[rows, columns] = z[rows, columns]
    return kept


def errors(dataset, x):
    """Compute the two errors of the page's table, by name."""
    changes = {"all 300 numbers": lambda z: z, "the 30 largest alone": lambda z: keep(z, 30)}
    flat = x.reshape(-1, 784)
    return {
        name: np.mean(np.square(flat - forward(dataset, x, change)[1]))
        for name, change in changes.items()
    }


def cells(kind="code"):
    return [cell for cell in read_notebook(PATH).cells if cell.cell_type == kind]


def the_cell(text):
    (cell,) = (cell for cell in cells() if text in cell.source)
    return cell


def stored(cell):
    texts = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "\n".join(texts)


def rows_of(cell):
    """Read a stored table as dict of row → list of texts."""
    lines = [re.split(r"  +", line.strip()) for line in stored(cell).splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


# what the functions do


@pytest.mark.parametrize("mean", [0.01, 0.05, 0.3, 0.9])
def test_kl_is_the_closed_form(page, mean):
    expected = scipy.stats.entropy([0.1, 0.9], [mean, 1 - mean])
    assert float(page["kl"](0.1, mean)) == pytest.approx(expected, rel=1e-5)
    assert float(page["kl"](0.1, 0.1)) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(float(page["kl"](0.1, 0.0))) and np.isfinite(float(page["kl"](0.1, 1.0)))


def test_the_worked_example_adds_up(page):
    heads, tails = 0.1 * np.log(0.1 / 0.3), 0.9 * np.log(0.9 / 0.7)
    text = "\n".join(cell.source for cell in cells("markdown"))
    for number in (f"= −{-heads:.3f}", f"= {tails:.3f}", f"The sum is {heads + tails:.3f}"):
        assert number in text
    assert f"mean 0.30: KL {heads + tails:.3f}" in stored(the_cell("def kl("))


def test_layer_passes_z_on_and_adds_the_penalty_of_the_whole_batch(page):
    z = np.random.default_rng(0).random((50, 7)).astype("float32")
    expected = 3 * sum(scipy.stats.entropy([0.1, 0.9], [q, 1 - q]) for q in z.mean(axis=0))
    for batch in (z, np.tile(z, (4, 1))):  # whichever version of Keras, not times the batch size
        layer = page["KLSparsity"](target=0.1, weight=3.0)
        np.testing.assert_array_equal(np.array(layer(batch)), batch)
        assert float(sum(layer.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_gradient_pulls_towards_the_target(page, share):
    z = tf.fill((10, 1), tf.constant(share))
    with tf.GradientTape() as tape:
        tape.watch(z)
        layer = page["KLSparsity"](0.1, 1.0)
        layer(z)
        penalty = sum(layer.losses)
    expected = (-0.1 / share + 0.9 / (1 - share)) / 10
    np.testing.assert_allclose(tape.gradient(penalty, z), np.full((10, 1), expected), atol=1e-5)


def test_layer_survives_its_configuration(page):
    layer = page["KLSparsity"](0.2, 0.5, name="penalty")
    again = page["KLSparsity"].from_config(layer.get_config())
    assert (again.target, again.weight, again.name) == (0.2, 0.5, "penalty")


def test_the_model_is_that_of_the_text(page):
    encoder = page["autoencoder"].get_layer("encoder")
    assert encoder.output_shape == (None, 300)
    layer = encoder.get_layer("kl_sparsity")
    assert (layer.target, layer.weight) == (0.1, 5e-3)
    assert encoder.layers[2].activation is keras.activations.sigmoid


def test_keep_largest(page):
    z = np.random.default_rng(0).random((20, 9))
    for k in (1, 4, 9):
        np.testing.assert_array_equal(page["keep_largest"](z, k), keep(z, k))


def test_both_units_of_the_drawing_have_the_same_mean(page):
    sparse, flat = page["units"].values()
    assert sparse.mean() == pytest.approx(0.1) and flat.mean() == pytest.approx(0.1)
    assert np.count_nonzero(sparse) == 2 and np.count_nonzero(flat) == 20 == len(sparse)


# what the tables say


def test_validation_table_is_that_of_the_file(mnist):
    _, x_valid, _ = mnist
    shown = rows_of(the_cell("plots.table(measure(x_valid))"))
    for name, value in errors("mnist", x_valid).items():
        assert float(shown[name][0]) == pytest.approx(value, abs=6e-5)


def test_test_table_is_that_of_the_files(mnist):
    x_train, _, x_test = mnist
    shown = rows_of(the_cell("x_pca ="))
    expected = errors("mnist", x_test)
    for name, value in expected.items():
        assert float(shown[f"KL, {name}"][0]) == pytest.approx(value, abs=6e-5)
    z, _ = forward("mnist", x_test)
    numbers = [float(text) for text in shown["KL, all 300 numbers"][1:]]
    assert numbers == pytest.approx([z.mean(), np.mean(z > 0.01), np.mean(z == 0)], abs=6e-5)
    for label, name in {
        "01, 32 units": "01_simple",
        "02, top-k: 25 of 256 units": "02_sparse",
    }.items():
        saved = modelfile.read(MODELS / "mnist" / f"{name}.h5").facts["held_out"]["mse"]
        assert float(shown[label][0]) == pytest.approx(saved, abs=6e-5)
    flat, flat_test = (x.reshape(len(x), 784) for x in (x_train, x_test))
    mean = flat.mean(axis=0, dtype=np.float64)
    moments = flat.T.astype(np.float64) @ flat / len(flat)
    basis = np.linalg.eigh(moments - np.outer(mean, mean))[1][:, -32:]
    copy = np.clip(mean + (flat_test - mean) @ basis @ basis.T, 0, 1)
    error = np.mean(np.square(flat_test - copy))
    assert float(shown["PCA, 32 numbers"][0]) == pytest.approx(error, abs=6e-5)


@both
def test_claim(parts, dataset):
    _, _, x_test = of(parts, dataset)
    z, _ = forward(dataset, x_test)
    assert z.min() > 0 and z.shape[1] == 300
    error = errors(dataset, x_test)
    if dataset == "mnist":
        assert 0.09 <= z.mean() <= 0.11
        whole, largest = error.values()
        assert 4 * whole < largest < 6 * whole  # "about five times"
        simple = modelfile.read(MODELS / dataset / "01_simple.h5").facts["held_out"]["mse"]
        assert whole < simple


def test_test_images_are_used_at_the_end_alone():
    sources = [cell.source for cell in cells()]
    last = next(n for n, source in enumerate(sources) if "x_pca =" in source)
    for n, source in enumerate(sources):
        uses = re.sub(r"held_out=\(x_test, x_test\)|\(x_test, _\), dataset =", "", source)
        assert n >= last or "x_test" not in uses
    assert "fit(x_train.reshape(-1, 784))" in sources[last]
