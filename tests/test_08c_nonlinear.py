"""08c_nonlinear: the networks, the table and the claim, by NumPy, SciPy and scikit-learn."""

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, stored_tables, stored_text
from scipy.special import expit
from sklearn.decomposition import PCA

from ae_keras import modelfile, seeds

PATH = ROOT / "notebooks" / "08c_nonlinear.ipynb"
SIZES = (2, 8, 16, 32, 64, 128)
NAMES = ("PCA", "dense", "convolutional")


@pytest.fixture(scope="module")
def page():
    names = ("bent_encoder", "bent_decoder", "points", "circle")
    builders = (f"{kind}_{part}" for kind in ("dense", "conv") for part in ("encoder", "decoder"))
    return definitions(PATH, *names, *builders, layers=keras.layers)


@pytest.fixture(scope="module")
def pca(mnist):
    """scikit-learn's PCA of MNIST's training images, by another solver than the page's."""
    return PCA(331, svd_solver="covariance_eigh").fit(mnist[0].reshape(-1, 784).astype(float))


@pytest.fixture(scope="module")
def records():
    found = seeds.read(ROOT / "saved_models" / "mnist" / "08c_nonlinear.seeds.json")
    assert len(found) == 5
    return {seed: record["rows"] for seed, record in found.items()}


def by_pca(pca, x, k):
    rows = (x.reshape(-1, 784) - pca.mean_) @ pca.components_[:k].T @ pca.components_[:k]
    return np.clip(rows + pca.mean_, 0, 1).reshape(x.shape)


def dense(k, x):
    """Compute a stored dense network's copies by NumPy alone."""
    path = ROOT / "saved_models" / "mnist" / f"08c_nonlinear-dense-{k}.h5"
    w, b, w2, b2, w3, b3, w4, b4 = modelfile.read(path).weights
    z = np.maximum(x.reshape(-1, 784) @ w + b, 0) @ w2 + b2
    return expit(np.maximum(z @ w3 + b3, 0) @ w4 + b4).reshape(x.shape)


def test_bending_by_hand(page):
    angles = np.linspace(0, np.pi, 50)
    np.testing.assert_allclose(page["bent_encoder"](page["bent_decoder"](angles)), angles)
    farther = page["bent_decoder"](angles) * 1.3
    np.testing.assert_allclose(page["bent_encoder"](farther), angles, atol=1e-12)
    noise = page["points"] - page["circle"]
    assert noise.std() == pytest.approx(0.05, abs=0.005)
    assert "the angle: 60.9 degrees" in stored_text(PATH)
    assert "straight, back: [0.51 0.63]" in stored_text(PATH)
    assert "bent, back: [0.49 0.87]" in stored_text(PATH)


@pytest.mark.parametrize(("kind", "parameters"), [("dense", 403_730 + 513 * 6), ("conv", None)])
def test_networks_have_the_shapes_that_the_page_says(page, kind, parameters):
    encoder, decoder = page[f"{kind}_encoder"](8), page[f"{kind}_decoder"](8)
    assert encoder.input_shape == decoder.output_shape == (None, 28, 28, 1)
    assert encoder.output_shape == decoder.input_shape == (None, 8)
    assert encoder.layers[-1].activation is keras.activations.linear
    if parameters:
        assert encoder.count_params() + decoder.count_params() == parameters


def test_weights_that_the_prose_names(page):
    count = {
        (kind, k): sum(page[f"{kind}_{part}"](k).count_params() for part in ("encoder", "decoder"))
        for kind in ("dense", "conv")
        for k in (2, 16)
    }
    assert count["dense", 2] == 403_730
    assert count["dense", 16] / count["conv", 16] == pytest.approx(7, abs=0.5)


def test_the_dense_rows_and_the_floor(mnist, records):
    _, _, x_test = mnist
    for k in (*SIZES, 256):
        expected = np.mean((dense(k, x_test) - x_test) ** 2)
        assert records["0"][f"{k} numbers"]["dense"] == pytest.approx(expected, abs=1e-6)


def test_the_rows_of_pca_are_scikit_learns(mnist, pca, records):
    _, _, x_test = mnist
    for k in SIZES:
        expected = np.mean((by_pca(pca, x_test, k) - x_test) ** 2)
        for rows in records.values():
            assert rows[f"{k} numbers"]["PCA"] == pytest.approx(expected, abs=2e-5)


def test_a_convolutional_row_by_keras(mnist, page, records):
    _, _, x_test = mnist
    encoder, decoder = page["conv_encoder"](16), page["conv_decoder"](16)
    saved = modelfile.read(ROOT / "saved_models" / "mnist" / "08c_nonlinear-conv-16.h5")
    n = len(encoder.get_weights())
    encoder.set_weights(saved.weights[:n])
    decoder.set_weights(saved.weights[n:])
    found = np.mean(
        (decoder.predict(encoder.predict(x_test, 500, verbose=0), 500, verbose=0) - x_test) ** 2
    )
    assert records["0"]["16 numbers"]["convolutional"] == pytest.approx(found, abs=1e-6)


def test_the_table_shows_the_seeds(records):
    table = next(t for t in stored_tables(PATH) if "256 numbers" in t)
    for row, columns in records["0"].items():
        for column in columns:
            values = [rows[row][column] for rows in records.values()]
            shown = table[row][column].split(" ± ")
            assert float(shown[0]) == pytest.approx(np.mean(values), abs=5.1e-6)
            if len(shown) == 2:
                assert float(shown[1]) == pytest.approx(np.std(values, ddof=1), abs=5.1e-6)


def test_the_claim_holds_under_every_seed(records):
    for rows in records.values():
        for k in SIZES:
            row = rows[f"{k} numbers"]
            assert max(row["dense"], row["convolutional"]) < row["PCA"]
            assert (row["convolutional"] < row["dense"]) == (k >= 16)
        assert rows["32 numbers"]["convolutional"] < rows["32 numbers"]["PCA"] / 3
        two = rows["2 numbers"]
        assert min(two["dense"], two["convolutional"]) > 2 / 3 * two["PCA"]


def test_how_many_numbers_pca_would_need(mnist, pca, records):
    """Each cell lies where PCA's error crosses the network's."""
    _, _, x_test = mnist
    table = next(t for t in stored_tables(PATH) if t.get("8 numbers", {}).get("PCA") == "8")
    for k in (8, 32, 128):
        for name in NAMES[1:]:
            error, needed = records["0"][f"{k} numbers"][name], int(table[f"{k} numbers"][name])
            below, above = (by_pca(pca, x_test, round(needed * f)) for f in (0.94, 1.06))
            assert np.mean((below - x_test) ** 2) > error > np.mean((above - x_test) ** 2)
