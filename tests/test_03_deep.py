"""The definitions of 03_deep, what its saved models must show, and whether its tables are true."""

import itertools
import re

import keras
import numpy as np
import pytest
from conftest import ROOT, definitions, read_notebook, recorded
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from ae_keras import modelfile
from ae_keras.taught import join

PATH = ROOT / "notebooks" / "03_deep.ipynb"
SIZES = [784, 128, 64, 32, 64, 128, 784]
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "encoder", "decoder", "autoencoder", join=join)


@pytest.fixture(scope="module")
def tables():
    """The stored tables by their first row's label, each a dict of row → dict of column → text."""
    stored = []
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                head, _, *body = (
                    [cell.strip() for cell in line.strip("|").split("|")]
                    for line in text.splitlines()
                )
                stored.append({r[0]: dict(zip(head[1:], r[1:], strict=True)) for r in body})
    return stored


def mnist(datasets):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    return datasets["mnist"]


def saved(name, dataset):
    return modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")


def layers(name, dataset):
    """Return a saved model's matrices and biases, in order."""
    weights = saved(name, dataset).weights
    return list(zip(weights[::2], weights[1::2], strict=True))


def encode(layers, x):
    h = x.reshape(-1, 784).astype(np.float64)
    for w, b in layers[:2]:
        h = np.maximum(h @ w + b, 0)
    w, b = layers[2]
    return h @ w + b


def decode(layers, z):
    """Return the pixels before the sigmoid."""
    for w, b in layers[3:5]:
        z = np.maximum(z @ w + b, 0)
    w, b = layers[5]
    return z @ w + b


def scores(x, x_hat):
    """Return BCE and MSE, by NumPy alone."""
    x, x_hat = x.reshape(-1, 784).astype(np.float64), x_hat.reshape(-1, 784)
    kept = np.clip(x_hat, 1e-7, 1 - 1e-7)  # as Keras does
    bce = -np.mean(x * np.log(kept) + (1 - x) * np.log(1 - kept))
    return [bce, np.mean(np.square(x - x_hat))]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_shapes_and_parameters(page):
    assert page["encoder"].output_shape == (None, 32)
    assert page["decoder"].input_shape == (None, 32)
    assert page["autoencoder"].output_shape == (None, 28, 28, 1)
    counts = [a * b + b for a, b in itertools.pairwise(SIZES)]
    assert counts[:3] == [100_480, 8_256, 2_080]
    assert page["encoder"].count_params() == sum(counts[:3]) == 110_816
    assert page["autoencoder"].count_params() == sum(counts) == 222_384
    dense = [layer for layer in page["encoder"].layers if "Dense" in type(layer).__name__]
    assert [layer.units for layer in dense] == [128, 64, 32]  # the summary's order


def test_encoder_and_decoder_are_the_formulas(page):
    x = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    weights = page["autoencoder"].get_weights()
    parts = list(zip(weights[::2], weights[1::2], strict=True))
    z = encode(parts, x)
    np.testing.assert_allclose(page["encoder"](x), z, atol=1e-5)
    assert z.min() < 0  # the code is linear
    x_hat = sigmoid(decode(parts, z)).reshape(x.shape)
    np.testing.assert_allclose(page["autoencoder"](x), x_hat, atol=1e-5)


def test_arguments_change_what_they_name(page):
    build_encoder, build_decoder = page["build_encoder"], page["build_decoder"]
    x = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    assert np.min(build_encoder(8, code_activation="relu")(x)) >= 0
    for model, count in ((build_encoder(8, initializer="he_normal"), 3), (build_decoder(8), 3)):
        dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert len(dense) == count
    dense = [layer for layer in build_encoder(8, initializer="he_normal").layers if layer.weights]
    assert {type(layer.kernel_initializer).__name__ for layer in dense} == {"HeNormal"}
    dense = [layer for layer in build_decoder(8, "he_normal").layers if layer.weights]
    kinds = [type(layer.kernel_initializer).__name__ for layer in dense]
    assert kinds == ["HeNormal", "HeNormal", "GlorotUniform"]  # the sigmoid's layer stays


def test_the_worked_example_is_right():
    """No plane is nearer to AND at the four corners than the page's; the bent one is exact."""
    page = definitions(PATH, "one_layer", "with_hidden_unit")
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], float)
    wanted = np.array([0, 0, 0, 1.0])
    best = np.linalg.lstsq(np.c_[corners, np.ones(4)], wanted, rcond=None)[0]
    np.testing.assert_allclose(best, [0.5, 0.5, -0.25], atol=1e-12)
    np.testing.assert_allclose(page["one_layer"](*corners.T) - wanted, [-0.25, 0.25, 0.25, -0.25])
    np.testing.assert_array_equal(page["with_hidden_unit"](*corners.T), wanted)


def test_dead_units_are_those_that_never_speak():
    count = definitions(PATH, "count_dead")["count_dead"]
    codes = np.array([[0, 0.0, 1, -2], [0, 3.0, 1, 2]])
    assert count(codes) == 1  # one that is 0 once is not dead, nor is a constant one
    assert count(np.zeros((5, 7))) == 7


def test_logit_and_mean_correlation():
    page = definitions(PATH, "logit", "mean_correlation")
    p = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(sigmoid(page["logit"](p)), p, atol=1e-12)
    assert np.isfinite(page["logit"](np.array([0.0, 1.0]))).all()
    pattern = np.random.default_rng(0).normal(size=(28, 28, 1))
    same = page["mean_correlation"](np.stack([pattern, 2 * pattern, 3 * pattern + 1]))
    assert same == pytest.approx(1)
    opposed = page["mean_correlation"](np.stack([pattern, pattern, -pattern]))
    assert opposed == pytest.approx(-1 / 3)  # pairs: 1, -1, -1


def test_pca_is_clipped_and_knows_training_images_only():
    random = np.random.default_rng(0)
    x_train = random.random((40, 28, 28, 1)) < 0.1
    page = definitions(PATH, "through_pca", x_train=x_train, PCA=PCA)
    x = (random.random((9, 28, 28, 1)) < 0.5).astype("float32")
    found = page["through_pca"](x)
    flat = x_train.reshape(40, 784).astype(float)
    axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:32]
    expected = (x.reshape(9, 784) - flat.mean(axis=0)) @ axes.T @ axes + flat.mean(axis=0)
    np.testing.assert_allclose(found.reshape(9, 784), np.clip(expected, 0, 1), atol=1e-5)


@both
def test_saved_weights_reach_the_saved_metrics(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets[dataset][1][0]
    facts = saved("03_deep", dataset).facts
    simple = saved("01_simple", dataset).facts
    parts = layers("03_deep", dataset)
    bce, mse = scores(x, sigmoid(decode(parts, encode(parts, x))))
    assert facts["held_out"]["bce"] == pytest.approx(bce, abs=1e-5)
    assert facts["held_out"]["mse"] == pytest.approx(mse, abs=1e-6)
    assert facts["code_size"] == simple["code_size"] == 32
    assert bce < simple["held_out"]["bce"]
    if dataset == "mnist":
        assert bce < 0.0780


@both
def test_two_numbers_of_the_deep_code_say_more_than_two_of_pca(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x, y), _, _ = datasets[dataset]
    x_train, x_valid = np.split(x, [len(x) * 11 // 12])
    y_train, y_valid = np.split(y, [len(x_train)])
    parts = layers("03_deep-2d", dataset)
    pca = PCA(2, random_state=0).fit(x_train.reshape(-1, 784))
    named = []
    for code in (lambda x: encode(parts, x), lambda x: pca.transform(x.reshape(-1, 784))):
        vote = KNeighborsClassifier(15).fit(code(x_train), y_train)
        named.append(vote.score(code(x_valid), y_valid))
    assert named[0] > named[1] + 0.1
    if dataset == "mnist":  # what the page's prose says
        text = "\n".join(cell.source for cell in read_notebook(PATH).cells)
        stated = re.search(r"(\d+) % of the validation digits.*?(\d+) % by\s+PCA", text, re.S)
        assert [int(n) for n in stated.groups()] == [round(100 * share) for share in named]


def test_recipes_of_the_ablation_differ_in_one_thing_each():
    """The rows of the table are comparable: same data, epochs, seed; what they name apart."""
    from ae_keras.fingerprint import differences

    full = saved("03_deep-short", "mnist").facts["recipe"]
    names = ("relu-code", "he", "relu-he", "constant")
    changed = {}
    for name in names:
        lines = differences(full, saved(f"03_deep-{name}", "mnist").facts["recipe"])
        changed[name] = [line.partition(":")[0] for line in lines]
    assert len(changed["relu-code"]) == 1 and changed["relu-code"][0].endswith(".activation")
    assert len(changed["he"]) == 5 and all("kernel_initializer" in n for n in changed["he"])
    assert sorted(changed["relu-he"]) == sorted(changed["relu-code"] + changed["he"])
    assert {n.split(".")[:2] == ["optimizer", "learning_rate"] for n in changed["constant"]} == {
        True
    }
    budgets = {
        (facts["recipe"]["epochs"], facts["recipe"]["batch_size"], len(facts["history"]["loss"]))
        for facts in (saved(f"03_deep-{name}", "mnist").facts for name in ("short", *names))
    }
    assert budgets == {(10, 128, 10)}


def test_the_map_keeps_the_recipe_that_06b_repeats():
    for dataset in ("mnist", "digits"):
        recipe = saved("03_deep-2d", dataset).facts["recipe"]
        assert recipe["epochs"] == 20 and recipe["batch_size"] == 128
        assert recipe["validation_split"] == pytest.approx(1 / 12, rel=1e-5)
        rate = recipe["optimizer"]["learning_rate"]
        assert rate["initial_learning_rate"] == 0.005


def test_the_stored_test_table_is_true(datasets, tables):
    (x, _), (x_test, _), _ = mnist(datasets)
    x_train = x[:55_000].reshape(-1, 784)
    flat = x_test.reshape(-1, 784)
    pca = PCA(32, random_state=0).fit(x_train)
    rows = next(table for table in tables if "mean image" in table)
    expected = {
        "mean image": np.broadcast_to(x_train.mean(axis=0), flat.shape),
        "PCA, 32 numbers": np.clip(pca.inverse_transform(pca.transform(flat)), 0, 1),
        "perfect copy, 784 numbers": flat,
    }
    for name, x_hat in expected.items():
        cells = [float(rows[name][column]) for column in ("BCE", "MSE")]
        # which pixels of PCA are clipped to exactly 0, where BCE is steep, depends on rounding
        margin = 1.5e-4 if name.startswith("PCA") else 6e-5
        assert cells == pytest.approx(scores(x_test, x_hat), abs=margin), name
    simple = saved("01_simple", "mnist").facts["held_out"]
    cells = [float(rows["01_simple, 32 numbers, one seed"][column]) for column in ("BCE", "MSE")]
    assert cells == pytest.approx([simple["bce"], simple["mse"]], abs=6e-5)
    record = recorded("03_deep")["0"]["rows"]
    parts = layers("03_deep", "mnist")
    ours = scores(x_test, sigmoid(decode(parts, encode(parts, x_test))))
    row = record["deep autoencoder, 32 numbers"]
    assert [row["BCE"], row["MSE"]] == pytest.approx(ours, abs=1e-5)
    for column, value in zip(("BCE", "MSE"), ours, strict=True):  # this seed, or a mean near it
        cell = rows["deep autoencoder, 32 numbers"][column].partition(" ± ")[0]
        assert float(cell) == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize("key", ["03_deep", "03_deep-ablation"])
def test_stored_means_are_those_of_the_recorded_seeds(tables, key):
    records = recorded(key)
    if len(records) < 5:
        pytest.skip(f"only seeds {', '.join(records)} are recorded: `make seeds NB=03_deep`")
    assert list(records) == ["0", "1", "2", "3", "4"]
    first = next(iter(records["0"]["rows"]))
    table = next(table for table in tables if first in table)
    compared = 0
    for label, row in records["0"]["rows"].items():
        for column in row:
            values = [record["rows"][label][column] for record in records.values()]
            cell = table[label][column]
            if "±" in cell:
                mean, deviation = map(float, cell.split(" ± "))
                places = len(cell.split(" ± ")[0].partition(".")[2])
                margin = 0.6 * 10**-places
                assert mean == pytest.approx(np.mean(values), abs=margin)
                assert deviation == pytest.approx(np.std(values, ddof=1), abs=margin)
                compared += 1
    assert compared >= 2


def test_dead_units_and_validation_bce_of_the_ablation(datasets):
    """Seed 0's rows, recomputed from the files on the last twelfth of the training images."""
    (x, _), _, _ = mnist(datasets)
    x_valid = x[55_000:]
    rows = recorded("03_deep-ablation")["0"]["rows"]
    files = {
        "linear code, default start": "short",
        "ReLU code, default start": "relu-code",
        "linear code, He start": "he",
        "ReLU code, He start": "relu-he",
        "linear code, default start, constant rate": "constant",
    }
    assert list(rows) == list(files)
    for label, name in files.items():
        parts = layers(f"03_deep-{name}", "mnist")
        z = encode(parts, x_valid)
        if label.startswith("ReLU"):
            z = np.maximum(z, 0)
        bce = scores(x_valid, sigmoid(decode(parts, z)))[0]
        assert rows[label]["validation BCE"] == pytest.approx(bce, abs=2e-5)
        assert rows[label]["dead units"] == np.sum(~z.any(axis=0))
