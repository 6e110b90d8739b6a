"""09_identity: the copies, the splits and the tables, computed from the saved models by NumPy."""

import keras
import numpy as np
import pytest
import skimage.measure
from helpers import ROOT, definitions, of, stored_tables
from scipy.spatial.distance import cdist

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "09_identity.ipynb"
SIZES = (2, 8, 32, 128, 1024)
COLUMNS = ("held out", "shuffled pixels")


@pytest.fixture(scope="module")
def page():
    names = ("halve", "half_circle", "from_half_circle", "build", "build_plane")
    return definitions(PATH, *names, layers=keras.layers)


@pytest.fixture(scope="module")
def halved(parts):
    """Training, validation and test images of each dataset at half the size, as rows."""
    return {name: tuple(rows(x) for x in images) for name, images in parts.items()}


def rows(images):
    return np.stack([skimage.measure.block_reduce(x[..., 0], 2, np.mean) for x in images]).reshape(
        len(images), 196
    )


def copies(dataset, n, k, x):
    name = f"09_identity-{n}-{k}" if n else f"09_identity-{k}"
    w, b, v, c = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5").weights
    return np.maximum(x @ w + b, 0) @ v + c


def error(dataset, n, k, x):
    return float(np.mean((copies(dataset, n, k, x) - x) ** 2))


def shuffled(x_train, x):
    varying = np.flatnonzero(x_train.std(axis=0) > 0.1)
    order = np.arange(196)
    order[varying] = np.random.default_rng(0).permutation(varying)
    return x[:, order]


def test_images_are_halved_by_means(page, datasets):
    images = datasets["digits"][0][0][:20]
    np.testing.assert_allclose(page["halve"](images), rows(images), atol=1e-6)


def test_the_half_circle_and_the_distance_from_it(page):
    points = page["half_circle"](1000, 5)
    radius = np.linalg.norm(points, axis=1)
    assert radius.mean() == pytest.approx(1, abs=0.003)
    assert radius.std() == pytest.approx(0.02, abs=0.002)
    angle = np.linspace(0, np.pi, 20_001)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    anywhere = np.random.default_rng(0).uniform(-2, 2, (200, 2))
    found = page["from_half_circle"](anywhere)
    np.testing.assert_allclose(found, cdist(anywhere, arc).min(axis=1), atol=1e-4)


def test_the_networks_compute_what_the_page_says(page):
    x = np.random.default_rng(0).random((3, 196), dtype=np.float32)
    encoder, decoder = page["build"](7)
    (w, b), (v, c) = encoder.get_weights(), decoder.get_weights()
    z = np.maximum(x @ w + b, 0)
    np.testing.assert_allclose(encoder(x), z, atol=1e-5)
    np.testing.assert_allclose(decoder(z), z @ v + c, atol=1e-5)
    encoder, decoder = page["build_plane"](5)
    assert encoder.output_shape == (None, 5) and decoder.output_shape == (None, 2)


def test_the_three_networks_of_the_plane():
    """Under-complete and noisy ones bring the plane to the curve; the over-complete one doesn't."""
    steps = np.linspace(-1.3, 1.3, 14)
    plane = np.stack(np.meshgrid(steps, steps + 0.5), axis=2).reshape(-1, 2)
    angle = np.linspace(0, np.pi, 5001)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    after = []
    for name in ("narrow", "wide", "noise"):
        path = ROOT / "saved_models" / "arc" / f"09_identity-{name}-arc.h5"
        w, b, w2, b2, w3, b3, w4, b4 = modelfile.read(path).weights
        z = np.maximum(plane @ w + b, 0) @ w2 + b2
        answer = np.maximum(z @ w3 + b3, 0) @ w4 + b4
        after.append(cdist(answer, arc).min(axis=1).mean())
    assert cdist(plane, arc).min(axis=1).mean() == pytest.approx(0.53, abs=0.01)
    assert after == pytest.approx([0.04, 0.50, 0.09], abs=0.006), "as the picture's title says"


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_by_heart_or_identity(halved, name):
    """The claim, on both datasets."""
    x_train, _, x_test = of(halved, name)
    assert error(name, 50, 1024, x_train[:50]) < 1e-4
    assert error(name, 50, 1024, x_test) > 1000 * error(name, 50, 1024, x_train[:50])
    assert error(name, None, 1024, x_test) < 1e-4
    no_digits = shuffled(x_train, x_test)
    assert error(name, None, 1024, no_digits) < 1e-3 or name == "digits"
    factor = error(name, None, 32, no_digits) / error(name, None, 1024, no_digits)
    assert factor > 100 or name == "digits"


def test_the_table(halved):
    x_train, _, x_test = of(halved, "mnist")
    table = next(t for t in stored_tables(PATH) if "mean image" in t)
    for row, n, k in (("50", 50, 1024), ("all", None, 32), ("all", None, 1024)):
        shown = table[f"{row}, {k:,} numbers"]
        expected = {
            "training": error("mnist", n, k, x_train[:n]),
            "held out": error("mnist", n, k, x_test),
            "shuffled pixels": error("mnist", n, k, shuffled(x_train, x_test)),
        }
        assert {c: float(v) for c, v in shown.items()} == pytest.approx(expected, abs=1.1e-5)
    for column, x in {"held out": x_test, "shuffled pixels": shuffled(x_train, x_test)}.items():
        rivals = {
            "PCA, 50, 49 numbers": by_svd(x_train[:50], 49, x),
            "PCA, all, 32 numbers": by_svd(x_train, 32, x),
            "nearest of 50 images": x_train[cdist(x, x_train[:50]).argmin(axis=1)],
            "mean image": x_train.mean(axis=0),
        }
        for name, answer in rivals.items():
            expected = np.mean((x - answer) ** 2)
            assert float(table[name][column]) == pytest.approx(expected, abs=1e-5)
    left = [float(table["all, 32 numbers"][c]) / float(table["mean image"][c]) for c in COLUMNS]
    assert [round(100 * share) for share in left] == [19, 64], "as the prose says"


def by_svd(train, k, x):
    mean = train.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:k]
    return (x - mean) @ axes.T @ axes + mean


def test_what_the_picture_shows(halved):
    """More numbers: a smaller error on held-out images, with 50 images, too."""
    _, x_valid, _ = of(halved, "mnist")
    for n in (50, 1000, None):
        errors = [error("mnist", n, k, x_valid) for k in SIZES]
        assert errors == sorted(errors, reverse=True)
