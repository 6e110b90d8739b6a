"""The definitions of 01_simple, taken out of the notebook and put to the test."""

import keras
import numpy as np
import pytest
from conftest import ROOT, definitions, read_notebook
from sklearn.decomposition import PCA

from ae_keras import metrics, modelfile, seeds

PATH = ROOT / "notebooks" / "01_simple.ipynb"


@pytest.fixture(scope="module")
def page():
    names = ("latent_dim", "encoder", "decoder", "join", "price", "score")
    return definitions(PATH, *names, metrics=metrics)


@pytest.fixture(scope="module")
def tables():
    """The stored tables, as lists of cells, in order."""
    stored = []
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                lines = text.splitlines()
                stored.append([[c.strip() for c in line.strip("|").split("|")] for line in lines])
    return stored


def numpy_autoencoder(weights, x):
    """Return code and reconstruction by NumPy alone."""
    w_e, b_e, w_d, b_d = weights
    z = np.maximum(x @ w_e + b_e, 0)
    return z, 1 / (1 + np.exp(-(z @ w_d + b_d)))


def numpy_scores(x, x_hat):
    clipped = np.clip(x_hat, 1e-7, 1 - 1e-7)  # as Keras does
    bce = -np.mean(x * np.log(clipped) + (1 - x) * np.log(1 - clipped))
    return bce, np.mean(np.square(x - x_hat))


def test_shapes_and_parameters(page):
    encoder, decoder = page["encoder"], page["decoder"]
    assert encoder.output_shape == (None, 32)
    assert decoder.input_shape == (None, 32)
    assert encoder.count_params() == 784 * 32 + 32 == 25_120
    assert decoder.count_params() == 32 * 784 + 784 == 25_872
    autoencoder = page["join"](encoder, decoder)
    assert autoencoder.output_shape == autoencoder.input_shape == (None, 28, 28, 1)
    assert autoencoder.count_params() == 50_992


def test_autoencoder_is_the_formula(page):
    """Encoder, decoder and the two joined compute relu(x W + b) and sigmoid(z W + b)."""
    autoencoder = page["join"](page["encoder"], page["decoder"])
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    z, x_hat = numpy_autoencoder(autoencoder.get_weights(), x.reshape(5, 784))
    np.testing.assert_allclose(page["encoder"](x), z, atol=1e-5)
    np.testing.assert_allclose(np.reshape(autoencoder(x), (5, 784)), x_hat, atol=1e-5)
    np.testing.assert_allclose(page["decoder"](page["encoder"](x)), autoencoder(x), atol=1e-6)


def test_price_of_a_wrong_pixel(page):
    """By hand: the squared difference, and the Kullback–Leibler divergence of two coins."""
    found = page["price"](0.01, 0.11)
    assert found["MSE"] == pytest.approx(0.01)
    assert found["BCE"] == pytest.approx(0.01 * np.log(0.01 / 0.11) + 0.99 * np.log(0.99 / 0.89))
    assert page["price"](0.3, 0.3) == pytest.approx({"MSE": 0, "BCE": 0})


def test_score_names_the_metrics_rightly(page):
    x, x_hat = np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
    assert page["score"](x, x_hat) == pytest.approx({"BCE": np.log(2), "MSE": 0.25})


def test_pca_is_clipped_and_knows_training_images_only():
    random = np.random.default_rng(0)
    x_train = random.random((60, 40)) @ random.random((40, 784)) - 9  # of rank 40
    x_train = x_train.reshape(60, 28, 28, 1)
    page = definitions(PATH, "through_pca", x_train=x_train, PCA=PCA, seed=0)
    x = (random.random((9, 28, 28, 1)) < 0.5).astype("float32")
    found = page["through_pca"](x)
    assert found.shape == x.shape and found.min() == 0 and found.max() <= 1
    flat = x_train.reshape(60, 784)
    mean = flat.mean(axis=0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:32]
    expected = (x.reshape(9, 784) - mean) @ axes.T @ axes + mean
    np.testing.assert_allclose(found.reshape(9, 784), np.clip(expected, 0, 1), atol=1e-4)


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("name", ["01_simple", "01_simple-mse"])
def test_saved_weights_reach_the_saved_metrics_and_beat_pca(datasets, dataset, name):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets[dataset]
    saved = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")
    x = x_test.reshape(-1, 784).astype(np.float64)
    bce, mse = numpy_scores(x, numpy_autoencoder(saved.weights, x)[1])
    assert saved.facts["held_out"]["bce"] == pytest.approx(bce, abs=1e-5)
    assert saved.facts["held_out"]["mse"] == pytest.approx(mse, abs=1e-6)
    x_train = x_train[: len(x_train) * 11 // 12].reshape(-1, 784)
    pca = PCA(32, random_state=0).fit(x_train)
    x_pca = np.clip(pca.inverse_transform(pca.transform(x)), 0, 1)
    assert mse < np.mean(np.square(x - x_pca))


def test_the_stored_tables_are_true(datasets, tables):
    """Recompute the tables of validation and test images, and the seeds' means, independently."""
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets["mnist"]
    x_train, x_valid = x_train[:55_000].reshape(-1, 784), x_train[55_000:].reshape(-1, 784)
    x_test = x_test.reshape(-1, 784)
    pca = PCA(32, random_state=0).fit(x_train)
    weights = modelfile.read(ROOT / "saved_models/mnist/01_simple.h5").weights
    valid, test = tables[1], tables[3]
    for x, table in ((x_valid, valid), (x_test, test)):
        expected = {
            "mean image": np.broadcast_to(x_train.mean(axis=0), x.shape),
            "PCA, 32 numbers": np.clip(pca.inverse_transform(pca.transform(x)), 0, 1),
            "perfect copy, 784 numbers": x,
        }
        if table is valid:
            expected["autoencoder, 32 numbers"] = numpy_autoencoder(weights, x)[1]
        rows = {row[0]: row[1:3] for row in table}
        for name, x_hat in expected.items():
            scores = numpy_scores(x.astype(np.float64), x_hat.astype(np.float64))
            assert [float(cell) for cell in rows[name]] == pytest.approx(scores, abs=6e-5), name
    records = seeds.read(ROOT / "saved_models/mnist/01_simple.seeds.json")
    assert list(records) == ["0", "1", "2", "3", "4"]
    for row in test[2:]:
        for column, cell in zip(test[0][1:], row[1:], strict=True):
            if "±" in cell:
                values = [record["rows"][row[0]][column] for record in records.values()]
                mean, deviation = map(float, cell.split(" ± "))
                assert mean == pytest.approx(np.mean(values), abs=6e-5 if mean < 1 else 0.06)
                assert deviation == pytest.approx(
                    np.std(values, ddof=1), abs=6e-5 if mean < 1 else 0.06
                )


def test_units_in_use_are_counted(datasets, tables):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    record = seeds.read(ROOT / "saved_models/mnist/01_simple.seeds.json")["0"]
    weights = modelfile.read(ROOT / "saved_models/mnist/01_simple.h5").weights
    z, _ = numpy_autoencoder(weights, datasets["mnist"][1][0].reshape(-1, 784))
    used = np.sum((z > 0).any(axis=0))
    assert record["rows"]["autoencoder, trained with BCE"]["units in use"] == used


def test_the_changed_number_is_the_largest_of_the_code(page):
    """The picture of one unit's effect changes that unit, and leaves the others as they are."""
    valid_codes = np.tile(np.arange(32.0)[:, None], (1, 32)) + np.eye(32)[:, ::-1] * 50
    found = definitions(PATH, "strongest", valid_codes=valid_codes)
    assert found["strongest"] == 31 - 4
    source = "\n".join(c.source for c in read_notebook(PATH).cells)
    assert "changed[:, strongest] *= factors" in source


def test_a_join_has_the_parts_weights(page):
    encoder, decoder = page["encoder"], page["decoder"]
    joined = page["join"](encoder, decoder)
    assert joined.get_weights()[0] is not None
    encoder.set_weights([np.zeros_like(w) for w in encoder.get_weights()])
    np.testing.assert_array_equal(joined.get_weights()[0], np.zeros((784, 32)))
    keras.utils.set_random_seed(0)
