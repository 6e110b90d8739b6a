"""08_pca: the page against scikit-learn and NumPy, and its tables against its models."""

import re

import numpy as np
import pytest
from helpers import ROOT, definitions, of, stored_tables, stored_text
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from ae_keras import data, modelfile

PATH = ROOT / "notebooks" / "08_pca.ipynb"
SIZES = (2, 10, 32)
KINDS = ("untied", "tied")


@pytest.fixture(scope="module")
def page():
    names = ("keep_one_number", "error_at", "cloud", "largest_angle", "build_untied", "build_tied")
    return definitions(PATH, *names, "patterns_of", "copies_of", subspace_angles=subspace_angles)


@pytest.fixture(scope="module")
def sets():
    """Training and test images as rows, by dataset."""
    found = {}
    for name in ("mnist", "digits"):
        try:
            (x_train, _), (x_test, _), _ = data.load_digits(name)
        except data.DataError:
            continue
        x_train = x_train[: len(x_train) * 11 // 12]
        found[name] = x_train.reshape(-1, 784), x_test.reshape(-1, 784)
    return found


def linear(dataset, k, kind):
    """Read a model's w, b, v, c: x·w + b is the code, and code·v + c the drawing."""
    name = "08_pca" + ("" if k == 32 else f"-{k}") + ("-tied" if kind == "tied" else "")
    saved = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")
    weights = [np.asarray(w, dtype=np.float64) for w in saved.weights]
    if kind == "tied":
        w, b, c = weights[:3]
        return w, b, w.T, c
    w, b, v, c = weights
    return w, b, v, c


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
def test_the_page_projects_as_scikit_learn_does(sets, dataset):
    x_train, x_test = of(sets, dataset)
    if dataset == "mnist":
        x_train = x_train[:5000]  # for speed
    page = definitions(PATH, "project", x_train=x_train)
    for k in SIZES:
        pca = PCA(k, svd_solver="full").fit(x_train.astype(np.float64))
        expected = pca.inverse_transform(pca.transform(x_test[:200].astype(np.float64)))
        np.testing.assert_allclose(page["project"](x_test[:200], k), expected, atol=1e-6)


def test_the_explained_variance_is_that_of_mnist(sets):
    x_train, _ = of(sets, "mnist")
    explained = np.cumsum(
        PCA(400, svd_solver="covariance_eigh")
        .fit(x_train.astype(np.float64))
        .explained_variance_ratio_
    )
    needed = [int(np.sum(explained < share)) + 1 for share in (0.9, 0.95, 0.99)]
    assert needed == [87, 154, 331]
    assert "90%: 87 numbers, 95%: 154 numbers, 99%: 331 numbers" in stored_text(PATH)


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
        encoder, decoder = page[f"build_{kind}"](10)
        for model in (encoder, decoder):  # biases start at 0, where a lost one isn't seen
            model.set_weights([random.normal(0, 0.1, w.shape) for w in model.get_weights()])
        weights = encoder.get_weights()
        if kind == "tied":
            w, b, c = encoder.get_weights()
            v = w.T
            assert len(encoder.weights) == 3 and decoder.count_params() == encoder.count_params()
        else:
            (w, b), (v, c) = weights, decoder.get_weights()
        z = x @ w + b
        np.testing.assert_allclose(encoder(x), z, atol=1e-5)
        np.testing.assert_allclose(decoder(z), z @ v + c, atol=1e-4)
        np.testing.assert_allclose(page["patterns_of"](encoder, decoder), v, atol=1e-5)
        np.testing.assert_allclose(page["copies_of"](x, encoder, decoder), z @ v + c, atol=1e-4)


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_the_linear_autoencoders_are_pca(sets, dataset):
    """Errors within 0.1 %, and angles within 1° (MNIST): computed by NumPy alone."""
    x_train, x_test = of(sets, dataset)
    pca = PCA(32, svd_solver="covariance_eigh").fit(x_train.astype(np.float64))
    (table,) = (t for t in stored_tables(PATH) if "PCA, 2" in t)
    for k in SIZES:
        axes = pca.components_[:k]
        for kind in KINDS:
            w, b, v, c = linear(dataset, k, kind)
            for part, x in (("training", x_train), ("test", x_test)):
                centred = x - pca.mean_
                by_pca = np.mean((centred - centred @ axes.T @ axes) ** 2)
                error = np.mean((x - (x @ w + b) @ v - c) ** 2)
                assert abs(error / by_pca - 1) < 1e-3
                if dataset == "mnist":
                    row = table[f"{kind}, {k}"]
                    assert float(row[f"{part} MSE"]) == pytest.approx(error, abs=6e-5)
                    assert float(table[f"PCA, {k}"][f"{part} MSE"]) == pytest.approx(
                        by_pca, abs=6e-5
                    )
                    more = float(row[f"{part}: more than PCA"].split()[0])
                    assert more == pytest.approx(100 * (error / by_pca - 1), abs=5e-4)
            if dataset == "mnist":
                found = angle(v, axes)
                assert found < 1
                shown = float(table[f"{kind}, {k}"]["largest angle"].rstrip("°"))
                assert shown == pytest.approx(found, abs=0.02)


def test_tying_makes_axes_of_length_one_at_right_angles(sets):
    x_train, _ = of(sets, "mnist")
    (table,) = (
        t for t in stored_tables(PATH) if "tied, 10" in t and "lengths of patterns" in t["tied, 10"]
    )
    for kind in KINDS:
        w, b, v, _ = linear("mnist", 10, kind)
        lengths = np.linalg.norm(v, axis=1)
        low, high = map(float, re.findall(r"[\d.]+", table[f"{kind}, 10"]["lengths of patterns"]))
        assert (low, high) == pytest.approx((lengths.min(), lengths.max()), abs=0.006)
    np.testing.assert_allclose(v @ v.T, np.eye(10), atol=1e-3)
    # the rotated patterns are the axes
    axes = PCA(10, svd_solver="covariance_eigh").fit(x_train.astype(np.float64)).components_
    rotation = np.linalg.svd(
        (x_train @ w + b) - (x_train @ w + b).mean(axis=0), full_matrices=False
    )[2]
    cosines = np.abs(np.sum(rotation @ v * axes, axis=1))
    assert cosines.min() > 0.999
    assert "cosine of each rotated pattern with its axis:" + " 1.0" * 10 in stored_text(PATH)


def test_the_error_of_an_untied_code_rotated_alone_is_that_of_the_solution(sets):
    """Exercise 3: PCA of the copies gives the axes, with the untied network, too."""
    x_train, _ = of(sets, "mnist")
    w, b, v, c = linear("mnist", 10, "untied")
    axes = PCA(10, svd_solver="covariance_eigh").fit(x_train.astype(np.float64)).components_
    copies = (x_train.astype(np.float64) @ w + b) @ v + c
    found = PCA(10, svd_solver="covariance_eigh").fit(copies).components_
    np.testing.assert_allclose(np.abs(np.sum(found * axes, axis=1)), 1, atol=1e-4)
