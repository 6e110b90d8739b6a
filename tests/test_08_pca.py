"""08_pca: the page against scikit-learn and NumPy, and its tables against its models."""

import itertools
import re

import numpy as np
import pytest
from helpers import ROOT, definitions, of, stored_tables, stored_text
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "08_pca.ipynb"
SIZES = (2, 10, 32)
KINDS = ("untied", "tied")


@pytest.fixture(scope="module")
def page():
    names = ("keep_one_number", "error_at", "cloud", "largest_angle", "build_untied", "build_tied")
    return definitions(PATH, *names, "patterns_of", "copies_of", subspace_angles=subspace_angles)


@pytest.fixture(scope="module")
def rows(parts):
    """Training and test images as rows, by dataset."""
    return {name: (flat(train), flat(test)) for name, (train, _, test) in parts.items()}


@pytest.fixture(scope="module")
def pca(rows):
    """scikit-learn's PCA of MNIST's training images."""
    return fit_pca(of(rows, "mnist")[0], 331)


def flat(images):
    return images.reshape(len(images), 784)


def fit_pca(x, k):
    return PCA(k, svd_solver="covariance_eigh").fit(x.astype(np.float64))


def linear(dataset, k, kind):
    """Read a model's w, b, v, c: x·w + b is the code, and code·v + c the drawing."""
    name = "08_pca" + ("" if k == 32 else f"-{k}") + ("-tied" if kind == "tied" else "")
    saved = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")
    weights = [np.asarray(w, dtype=np.float64) for w in saved.weights]
    if kind == "tied":
        w, b, c = weights
        return w, b, w.T, c
    return weights


def angle(patterns, axes):
    """Compute the largest principal angle from its definition, by orthonormal bases."""
    a, b = np.linalg.qr(patterns.T)[0], np.linalg.qr(axes.T)[0]
    left_over = a - b @ (b.T @ a)  # the sine is what of a lies outside b
    return np.degrees(np.arcsin(min(1, np.linalg.norm(left_over, 2))))


def test_a_point_moves_to_the_nearest_place_of_the_line(page):
    direction = np.array([0.8, 0.6])
    back = page["keep_one_number"](np.array([[4.0, 3.0]]), np.array([1.0, 1.0]), direction)
    np.testing.assert_allclose(back, [[3.88, 3.16]])
    assert "[3.88 3.16] – squared error: 0.04\n" in stored_text(PATH)
    places = np.array([1.0, 1.0]) + np.linspace(-9, 9, 20_001)[:, np.newaxis] * direction
    nearest = places[np.argmin(np.sum((places - [4.0, 3.0]) ** 2, axis=1))]
    np.testing.assert_allclose(back[0], nearest, atol=1e-3)


def test_the_best_line_of_the_drawing_is_that_of_pca(page):
    cloud = page["cloud"]
    pca = PCA(1).fit(cloud)
    errors = [page["error_at"](degrees)[0] for degrees in range(180)]
    best = np.degrees(np.arctan2(*pca.components_[0, ::-1])) % 180
    assert abs((np.argmin(errors) - best + 90) % 180 - 90) <= 0.51
    copies = pca.inverse_transform(pca.transform(cloud))
    assert min(errors) == pytest.approx(np.mean(np.sum((cloud - copies) ** 2, axis=1)), rel=1e-3)


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_the_page_projects_as_scikit_learn_does(rows, dataset):
    x_train, x_test = of(rows, dataset)
    x_train, x_test = x_train[:5000], x_test[:200].astype(np.float64)  # for speed
    page = definitions(PATH, "project", x_train=x_train)
    for k in SIZES:
        pca = PCA(k, svd_solver="full").fit(x_train.astype(np.float64))
        expected = pca.inverse_transform(pca.transform(x_test))
        np.testing.assert_allclose(page["project"](x_test, k), expected, atol=1e-6)


def test_the_explained_variance_is_that_of_mnist(pca):
    explained = np.cumsum(pca.explained_variance_ratio_)
    needed = [int(np.sum(explained < share)) + 1 for share in (0.9, 0.95, 0.99)]
    assert needed == [87, 154, 331]
    assert "90%: 87 numbers, 95%: 154 numbers, 99%: 331 numbers" in stored_text(PATH)


def test_zeros_and_ones_lie_at_the_ends_of_the_first_axis(datasets, pca):
    x, y = of(datasets, "mnist")[0]
    places = flat(x) @ pca.components_[0]
    means = [np.mean(places[y == digit]) for digit in range(10)]
    assert {np.argmin(means), np.argmax(means)} == {0, 1}


def test_angles_are_those_of_the_definition(page):
    random = np.random.default_rng(0)
    for k in (1, 3):
        first, second = random.normal(size=(k, 9)), random.normal(size=(k, 9))
        expected = angle(first, second)
        assert page["largest_angle"](first, second) == pytest.approx(expected, abs=1e-6)
        mixed = random.normal(size=(k, k)) @ first  # other directions of the same sheet
        assert page["largest_angle"](mixed, second) == pytest.approx(expected, abs=1e-6)
        assert page["largest_angle"](mixed, first) == pytest.approx(0, abs=1e-4)
    assert "30.0°" in stored_text(PATH)


def test_the_networks_compute_the_formula(page):
    random = np.random.default_rng(0)
    x = random.random((4, 784), dtype=np.float32)
    for kind in KINDS:
        encoder, decoder, autoencoder = page[f"build_{kind}"](10)
        for model in (encoder, decoder):  # biases start at 0, where a lost one isn't seen
            model.set_weights([random.normal(0, 0.1, w.shape) for w in model.get_weights()])
        if kind == "tied":
            w, b, c = autoencoder.get_weights()
            v = w.T
        else:
            w, b, v, c = autoencoder.get_weights()
        z = x @ w + b
        np.testing.assert_allclose(encoder(x), z, atol=1e-5)
        np.testing.assert_allclose(decoder(z), z @ v + c, atol=1e-4)
        np.testing.assert_allclose(page["patterns_of"](encoder, decoder), v, atol=1e-5)
        np.testing.assert_allclose(page["copies_of"](x, encoder, decoder), z @ v + c, atol=1e-4)
        np.testing.assert_allclose(autoencoder(x), z @ v + c, atol=1e-4)


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_the_linear_autoencoders_are_pca(rows, dataset):
    """Errors within 0.1 %, by NumPy alone."""
    x_train, x_test = of(rows, dataset)
    pca = fit_pca(x_train, 32)
    for k, kind in itertools.product(SIZES, KINDS):
        w, b, v, c = linear(dataset, k, kind)
        for x in (x_train, x_test):
            error = np.mean((x - (x @ w + b) @ v - c) ** 2)
            assert abs(error / error_of(pca, k, x) - 1) < 1e-3


def error_of(pca, k, x):
    centred, axes = x - pca.mean_, pca.components_[:k]
    return np.mean((centred - centred @ axes.T @ axes) ** 2)


def test_the_table_shows_them_and_angles_below_a_degree(rows, pca):
    table = next(t for t in stored_tables(PATH) if "PCA, 2" in t)
    for k, kind in itertools.product(SIZES, KINDS):
        w, b, v, c = linear("mnist", k, kind)
        row = table[f"{kind}, {k}"]
        for part, x in zip(("training", "test"), rows["mnist"], strict=True):
            error, by_pca = np.mean((x - (x @ w + b) @ v - c) ** 2), error_of(pca, k, x)
            assert float(row[f"{part} MSE"]) == pytest.approx(error, abs=6e-5)
            assert float(table[f"PCA, {k}"][f"{part} MSE"]) == pytest.approx(by_pca, abs=6e-5)
            more = float(row[f"{part}: more than PCA"].split()[0])
            assert more == pytest.approx(100 * (error / by_pca - 1), abs=5e-4)
        found = angle(v, pca.components_[:k])
        assert found < 1
        assert float(row["largest angle"].rstrip("°")) == pytest.approx(found, abs=0.02)


def test_tying_makes_axes_of_length_one_at_right_angles(rows, pca):
    table = next(t for t in stored_tables(PATH) if "lengths of patterns" in t.get("tied, 10", {}))
    for kind in KINDS:
        w, b, v, _ = linear("mnist", 10, kind)
        lengths = np.linalg.norm(v, axis=1)
        unit = v / lengths[:, np.newaxis]
        pairs = np.abs(unit @ unit.T) - np.eye(10)
        nearest = np.abs(unit @ pca.components_[:10].T).max(axis=1)
        row = {column: numbers(cell) for column, cell in table[f"{kind}, 10"].items()}
        assert row["lengths of patterns"] == pytest.approx((lengths.min(), lengths.max()), abs=0.01)
        assert row["largest cosine of two"] == pytest.approx([pairs.max()], abs=0.01)
        assert row["cosine with an axis"] == pytest.approx(
            (nearest.mean(), nearest.max()), abs=0.01
        )
        assert nearest.max() < 0.99, "no pattern is an axis"
    np.testing.assert_allclose(v @ v.T, np.eye(10), atol=1e-3)
    z = rows["mnist"][0] @ w + b  # of the tied network
    rotation = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)[2]
    cosines = np.abs(np.sum(rotation @ v * pca.components_[:10], axis=1))
    assert cosines.min() > 0.999
    assert "cosine of each rotated pattern with its axis:" + " 1.0" * 10 in stored_text(PATH)


def numbers(cell):
    return list(map(float, re.findall(r"[\d.]+", cell)))


def test_pca_of_the_copies_gives_the_axes_of_the_untied_network_too(rows, pca):
    """As the solution of exercise 3 says."""
    w, b, v, c = linear("mnist", 10, "untied")
    found = fit_pca((rows["mnist"][0] @ w + b) @ v + c, 10).components_
    np.testing.assert_allclose(np.abs(np.sum(found * pca.components_[:10], axis=1)), 1, atol=1e-4)
