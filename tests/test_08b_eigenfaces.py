"""08b_eigenfaces: the split, the moved copies, the tables and the detectors, by other means."""

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, stored_tables, stored_text
from scipy.stats import mannwhitneyu
from skimage.data import lfw_subset

from ae_keras import modelfile, seeds

PATH = ROOT / "notebooks" / "08b_eigenfaces.ipynb"
IMAGES = lfw_subset().reshape(-1, 625)
TRAINING, VALIDATION, TEST = IMAGES[:60], IMAGES[60:80], IMAGES[80:100]
OTHERS_VALID, OTHERS_TEST = IMAGES[100:120], IMAGES[120:]


@pytest.fixture(scope="module")
def page():
    names = ("moved", "pictures", "interval", "auroc", "by_image", "scores", "build", "x_train")
    return definitions(PATH, *names, layers=keras.layers, faces=IMAGES[:100], roc_auc_score=area)


def area(is_other, scores):
    """The AUROC by the U statistic of Mann and Whitney."""
    is_other, scores = np.asarray(is_other, bool), np.asarray(scores)
    pairs = is_other.sum() * (~is_other).sum()
    return mannwhitneyu(scores[is_other], scores[~is_other]).statistic / pairs


def axes_of(x):
    """The mean and all axes, by NumPy's SVD."""
    return x.mean(axis=0), np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2]


def by_pca(x, train, k):
    mean, axes = axes_of(train)
    return np.clip((x - mean) @ axes[:k].T @ axes[:k] + mean, 0, 1)


def by_network(name, x):
    path = ROOT / "saved_models" / "faces" / f"{name}.h5"
    w, b, w2, b2, w3, b3, w4, b4 = modelfile.read(path).weights
    z = np.maximum(x @ w + b, 0) @ w2 + b2
    return 1 / (1 + np.exp(-(np.maximum(z @ w3 + b3, 0) @ w4 + b4)))


def mse(x, copies):
    return np.mean((x - copies) ** 2)


def test_the_three_parts_have_no_face_in_common(page):
    assert "60 training, 20 validation, 20 test faces" in stored_text(PATH)
    np.testing.assert_allclose(page["x_train"], TRAINING)
    assert len(np.unique(IMAGES, axis=0)) == 200, "no image is there twice"


def test_moved_copies_are_mirrored_and_moved_faces(page):
    copies = page["moved"](TRAINING[:1], 300, by=2, seed=0).reshape(-1, 25, 25)
    face = TRAINING[0].reshape(25, 25)
    possible = {
        side[down : down + 21, right : right + 21].tobytes()
        for side in (face, face[:, ::-1])
        for down in range(5)
        for right in range(5)
    }
    found = {np.ascontiguousarray(copy[2:23, 2:23]).tobytes() for copy in copies}
    assert found == {np.ascontiguousarray(np.frombuffer(p)).tobytes() for p in possible}
    again = page["moved"](TRAINING, 10, by=3, seed=4)
    np.testing.assert_array_equal(again, page["moved"](TRAINING, 10, by=3, seed=4))
    assert again.shape == (10, 625)


def test_auroc_and_its_example(page):
    assert page["auroc"]([1, 3], [2, 4]) == 0.75
    assert "the example: 0.75" in stored_text(PATH)


def test_the_interval_is_a_bootstrap(page):
    """Of a mean of many numbers: the normal interval."""
    x = np.random.default_rng(1).normal(size=400)
    low, high = page["interval"](np.mean, x)
    half = 1.96 * x.std() / 20
    np.testing.assert_allclose([low, high], [x.mean() - half, x.mean() + half], atol=0.01)
    first, second = np.arange(5.0), np.arange(5.0) + 100
    low, high = page["interval"](lambda a, b: b.min() - a.max(), first, second)
    assert 95 < low <= high <= 104, "each sample is drawn by itself"


def test_the_table_of_copies(page):
    moved = page["moved"](TRAINING.astype("float32"), 6000, by=1, seed=1)
    copies = {
        "mean face": lambda x: np.broadcast_to(TRAINING.mean(axis=0), x.shape),
        "PCA, 60 faces": lambda x: by_pca(x, TRAINING, 16),
        "PCA, 6,000 copies": lambda x: by_pca(x, moved.astype(float), 16),
        "network, 60 faces": lambda x: by_network("08b_eigenfaces-faces", x),
        "network, 6,000 copies": lambda x: by_network("08b_eigenfaces-moved-faces", x),
    }
    records = seeds.read(ROOT / "saved_models" / "faces" / "08b_eigenfaces.seeds.json")
    assert len(records) == 5
    table = next(t for t in stored_tables(PATH) if "mean face" in t)
    for name, copy in copies.items():
        for part, x in {"training": TRAINING, "test": TEST}.items():
            column = f"{part} MSE"
            assert records["0"]["rows"][name][column] == pytest.approx(mse(x, copy(x)), abs=2e-5)
            mean = np.mean([record["rows"][name][column] for record in records.values()])
            assert float(table[name][column].split()[0]) == pytest.approx(mean, abs=5.1e-5)
    for record in records.values():  # the claim, under every seed
        rows = {name: row["test MSE"] for name, row in record["rows"].items()}
        assert rows["network, 60 faces"] > 1.5 * rows["PCA, 60 faces"]
        assert rows["network, 6,000 copies"] < 1.3 * rows["PCA, 6,000 copies"]


def test_validation_chooses_one_eigenface():
    numbers = (0, 1, 2, 4, 8, 16, 32, 59)
    found = []
    for k in numbers:
        shares = [share(x, by_pca(x, TRAINING, k)) for x in (VALIDATION, OTHERS_VALID)]
        found.append(area([0] * 20 + [1] * 20, np.concatenate(shares)))
    assert numbers[np.argmax(found)] == 1
    shown = ", ".join(f"{k}: {v:.2f}".rstrip("0") for k, v in zip(numbers, found, strict=True))
    assert shown in stored_text(PATH)


def share(x, copies):
    return np.mean((x - copies) ** 2, axis=1) / x.var(axis=1)


def test_the_table_of_detectors():
    table = next(t for t in stored_tables(PATH) if "PCA, 59" in t)
    detectors = {
        "PCA, 0": lambda x: np.broadcast_to(TRAINING.mean(axis=0), x.shape),
        "PCA, 1": lambda x: by_pca(x, TRAINING, 1),
        "PCA, 59": lambda x: by_pca(x, TRAINING, 59),
        "network, 60 faces": lambda x: by_network("08b_eigenfaces-faces", x),
        "network, 6,000 copies": lambda x: by_network("08b_eigenfaces-moved-faces", x),
    }
    is_other = [0] * 20 + [1] * 80
    for name, copy in detectors.items():
        errors = [np.mean((x - copy(x)) ** 2, axis=1) for x in (TEST, OTHERS_TEST)]
        shares = [share(x, copy(x)) for x in (TEST, OTHERS_TEST)]
        for column, values in {"AUROC by error": errors, "AUROC by relative error": shares}.items():
            value, low, _, high = table[name][column].replace("(", "").replace(")", "").split()
            assert float(value) == pytest.approx(area(is_other, np.concatenate(values)), abs=0.0051)
            assert float(low) < float(value) < float(high)
    one, all_of_them = (table[name]["AUROC by relative error"] for name in ("PCA, 1", "PCA, 59"))
    assert float(one.split("(")[1].split()[0]) > 0.9, "the claim: the lower end of the interval"
    assert float(all_of_them.rstrip(")").split()[-1]) < 0.9, "and the upper end"
