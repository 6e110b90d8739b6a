"""03b_thirty_numbers: moved batches, the sum that papers report, and whether the table is true."""

import itertools
import re
import types

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, read_notebook, recorded
from sklearn.decomposition import PCA

from ae_keras import fingerprint, modelfile
from ae_keras.taught import join

PATH = ROOT / "notebooks" / "03b_thirty_numbers.ipynb"
KEY = "03b_thirty_numbers"
HIDDEN = {"mnist": (1000, 500, 250), "digits": (250, 125)}
SMALL = [f"{KEY}-few", f"{KEY}-few-moved"]
COUNTS = {"mnist": 2_837_314, "digits": 463_564}
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


def saved(name, dataset="mnist"):
    return modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")


def network(weights, x, code_size=30):
    """Run dense layers, all ReLU but the code and the sigmoid at the end, in NumPy."""
    h = x.reshape(-1, 784).astype(np.float64)
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for n, (w, b) in enumerate(pairs, 1):
        h = h @ w + b
        if n < len(pairs) and w.shape[1] != code_size:
            h = np.maximum(h, 0)
    return 1 / (1 + np.exp(-h))


def summed(x, x_hat):
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.square(flat - x_hat.reshape(len(x), -1)).sum(axis=1).mean()


@pytest.fixture(scope="module")
def rows():
    """The stored test table, as a dict of row → dict of column → text."""
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if "autoencoder of 2006" in text:
                head, _, *body = (
                    [cell.strip() for cell in line.strip("|").split("|")]
                    for line in text.splitlines()
                )
                return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}
    raise AssertionError("no stored test table")


@both
def test_shapes_and_parameters(dataset):
    page = definitions(PATH, "encoder", "decoder", dataset=dataset)
    assert page["hidden"] == HIDDEN[dataset]
    assert page["encoder"].output_shape == page["decoder"].input_shape == (None, 30)
    sizes = [784, *HIDDEN[dataset], 30, *reversed(HIDDEN[dataset]), 784]
    count = sum(a * b + b for a, b in itertools.pairwise(sizes))
    assert page["encoder"].count_params() + page["decoder"].count_params() == count
    assert count == COUNTS[dataset] == saved(KEY, dataset).facts["parameters"]
    model = join(page["encoder"], page["decoder"])
    x = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    expected = network(model.get_weights(), x).reshape(x.shape)
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    classic = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
    assert sum(a * b + b for a, b in itertools.pairwise(classic)) == 2_837_314  # in the prose


def test_squared_error_is_a_sum_over_pixels_and_a_mean_over_images():
    squared_error = definitions(PATH, "squared_error")["squared_error"]
    x = np.zeros((4, 28, 28, 1), np.float32)
    assert squared_error(x, x + 0.5) == pytest.approx(784 / 4)
    x_hat = x.copy()
    x_hat[0, 3, 4] = 2  # one image of four is wrong, by 4
    assert squared_error(x, x_hat) == pytest.approx(1)


def test_move_gives_each_image_a_place_of_its_own_out_of_nine():
    move = definitions(PATH, "move", draws=keras.random.SeedGenerator(1))["move"]
    x = np.random.default_rng(0).random((450, 28, 28, 1), dtype=np.float32)
    moved, counts = np.asarray(move(x)), {}
    for place in itertools.product((-1, 0, 1), repeat=2):
        same = np.all(moved == np.roll(x, place, axis=(1, 2)), axis=(1, 2, 3))
        counts[place] = same.sum()
    assert sum(counts.values()) == len(x) and min(counts.values()) > 25  # 50 each, about
    assert not np.array_equal(move(x), moved)  # another time, other places


def test_train_step_moves_the_target_with_the_input():
    """A model that copies its input perfectly has no loss in training, wherever the batch goes."""

    def always(x):
        return keras.ops.roll(x, (1, -1), axis=(1, 2))

    page = definitions(PATH, "MovedDigits", move=always)
    image = keras.Input((28, 28, 1))
    scaled = keras.layers.Rescaling(1.0)(image)
    model = page["MovedDigits"](image, scaled)
    model.compile("sgd", "mean_squared_error")
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    assert model.fit(x, 0 * x, verbose=0).history["loss"][0] == pytest.approx(0, abs=1e-12)
    seen = []

    class Look(keras.layers.Layer):
        def call(self, x):
            return x

    look = page["MovedDigits"](image, Look()(image))
    look.compile("sgd", lambda y, y_hat: seen.append(1) or keras.ops.mean((y - x[:1]) ** 2))
    assert look.evaluate(x[:1], x[:1], verbose=0) == pytest.approx(0)  # in place when evaluated
    assert look.fit(x[:1], x[:1], verbose=0).history["loss"][0] > 0.01  # moved when training


@both
def test_saved_weights_reach_the_saved_metrics(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x_test = datasets[dataset][1][0]
    for name in (KEY, *SMALL):
        model = saved(name, dataset)
        error = summed(x_test, network(model.weights, x_test))
        assert 784 * model.facts["held_out"]["mse"] == pytest.approx(error, rel=1e-4)
        assert model.facts["code_size"] == 30
        if dataset == "mnist" and name == KEY:
            assert error < 3.00


@both
def test_the_small_networks_differ_in_their_moves_alone(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    recipes = [saved(name, dataset).facts["recipe"] for name in SMALL]
    changed = fingerprint.differences(*recipes)
    changed = [
        line
        for line in changed
        if not line.startswith(("architecture.inputs", "architecture.outputs"))
    ]
    assert len(changed) == 1 and "train_step" in changed[0]  # the others: a list of one, or one
    x = datasets[dataset][0][0]
    assert recipes[0]["data"]["x"] == recipes[0]["data"]["y"] == fingerprint.describe(x[:5000])
    large = saved(KEY, dataset).facts["recipe"]
    x_train = fingerprint.describe(x[: len(x) * 11 // 12])
    assert large["data"]["x"] == large["data"]["y"] == x_train


@both
def test_without_moves_the_small_network_overfits_more(dataset):
    ends = {}
    for name in SMALL:
        history = saved(name, dataset).facts["history"]
        ends[name] = history["mse"][-1], history["val_mse"][-1]
    (train, valid), (train_moved, valid_moved) = (ends[name] for name in SMALL)
    assert valid / train > 1.2 and valid / train > valid_moved / train_moved
    if dataset == "mnist":
        assert valid > valid_moved and train < train_moved


def test_titles_state_the_ends_of_the_curves():
    titles = [cell.source for cell in read_notebook(PATH).cells if "last_error(" in cell.source]
    assert len(titles) == 3  # the text of a picture can't be read; its source computes it
    last_error = definitions(PATH, "last_error")["last_error"]

    run = types.SimpleNamespace(history={"mse": [1.0, 0.5], "val_mse": [2.0, 0.25]})
    assert last_error(run, "val_mse") == 784 / 4


def test_the_stored_table_is_true(datasets, rows):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    (x, _), (x_test, _), _ = datasets["mnist"]
    flat = x_test.reshape(-1, 784)
    pca = PCA(30, random_state=0).fit(x[:55_000].reshape(-1, 784))
    x_pca = pca.inverse_transform(pca.transform(flat))
    expected = {"PCA, not clipped": x_pca, "PCA, clipped": np.clip(x_pca, 0, 1)}
    for name, x_hat in expected.items():
        error = summed(x_test, x_hat)
        assert float(rows[name]["squared error"]) == pytest.approx(error, abs=6e-3), name
        assert float(rows[name]["MSE"]) == pytest.approx(error / 784, abs=6e-6), name
    published = {name: row["published in 2006 (MNIST)"] for name, row in rows.items()}
    assert {name: cell for name, cell in published.items() if cell} == {
        "PCA, not clipped": "13.87",
        "logistic PCA": "8.01",
        "autoencoder of 2006": "3.00",
    }
    assert float(rows["PCA, not clipped"]["squared error"]) == pytest.approx(13.87, abs=0.02)


def test_the_mean_over_seeds_is_below_the_published_error(datasets, rows):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    records = recorded(KEY)
    label = "our network, with moves"
    values = [record["rows"][label]["squared error"] for record in records.values()]
    x_test = datasets["mnist"][1][0]
    error = summed(x_test, network(saved(KEY).weights, x_test))
    assert records["0"]["rows"][label]["squared error"] == pytest.approx(error, rel=1e-4)
    cell = rows[label]["squared error"]
    assert float(cell.partition(" ± ")[0]) == pytest.approx(np.mean(values), abs=6e-3)
    assert len(values) == 5 and max(values) < 3.00
    assert float(cell.partition(" ± ")[2]) == pytest.approx(np.std(values, ddof=1), abs=6e-3)


def test_the_errors_in_place_are_true(datasets):
    """The page's failure: in place, training images have a smaller error than validation images."""
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    x, weights = datasets["mnist"][0][0], saved(KEY).weights
    outputs = [out for cell in read_notebook(PATH).cells for out in cell.get("outputs", [])]
    text = "".join(out.get("text", "") for out in outputs)
    found = re.findall(r"^([\d,]+) (\w+) images in place: ([\d.]+)$", text, re.M)
    assert [row[:2] for row in found] == [("5,000", "training"), ("5,000", "validation")]
    errors = [summed(part, network(weights, part)) for part in (x[:5000], x[55_000:])]
    assert errors[0] < errors[1]
    assert [float(row[2]) for row in found] == pytest.approx(errors, abs=6e-3)
