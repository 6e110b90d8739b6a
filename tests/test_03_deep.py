"""The definitions of 03_deep, and what its saved models must show."""

import itertools

import numpy as np
import pytest
from conftest import ROOT, definitions
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "03_deep.ipynb"
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


def layers(name, dataset):
    """Return a saved model's matrices and biases, in order."""
    weights = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5").weights
    return list(zip(weights[::2], weights[1::2], strict=True))


def encode(layers, x):
    h = x.reshape(-1, 784).astype(np.float64)
    for w, b in layers[:2]:
        h = np.maximum(h @ w + b, 0)
    w, b = layers[2]
    return h @ w + b


def decode(layers, z):
    for w, b in layers[3:5]:
        z = np.maximum(z @ w + b, 0)
    w, b = layers[5]
    return z @ w + b


def bce(x, logits):
    logits = np.clip(logits, -16.118, 16.118)  # Keras keeps 1e-7 away from 0 and 1
    return np.mean(np.logaddexp(0, logits) - x.reshape(-1, 784) * logits)


def test_shapes_and_parameters():
    page = definitions(PATH, "encoder", "decoder", "autoencoder")
    assert page["encoder"].output_shape == (None, 32)
    assert page["decoder"].input_shape == (None, 32)
    assert page["autoencoder"].output_shape == (None, 28, 28, 1)
    sizes = [784, 128, 64, 32, 64, 128, 784]
    counts = [a * b + b for a, b in itertools.pairwise(sizes)]
    assert page["autoencoder"].count_params() == sum(counts) == 222_384
    x = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    assert np.min(page["encoder"](x)) < 0  # the code is linear
    np.testing.assert_allclose(
        page["autoencoder"](x), page["decoder"](page["encoder"](x)), atol=1e-6
    )


@both
def test_saved_weights_reach_the_saved_figures(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets[dataset][1][0]
    facts = modelfile.read(ROOT / "saved_models" / dataset / "03_deep.h5").facts
    simple = modelfile.read(ROOT / "saved_models" / dataset / "01_simple.h5").facts
    parts = layers("03_deep", dataset)
    value = bce(x, decode(parts, encode(parts, x)))
    assert facts["held_out"]["bce"] == pytest.approx(value, abs=1e-5)
    assert facts["code_size"] == simple["code_size"] == 32
    assert value < simple["held_out"]["bce"]
    if dataset == "mnist":
        assert value <= 0.0770


@both
def test_two_numbers_of_the_deep_code_say_more_than_two_of_pca(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, y_train), (x_test, y_test), _ = datasets[dataset]
    parts = layers("03_deep-2d", dataset)
    pca = PCA(2, random_state=0).fit(x_train.reshape(-1, 784))
    scores = []
    for code in (lambda x: encode(parts, x), lambda x: pca.transform(x.reshape(-1, 784))):
        vote = KNeighborsClassifier(15).fit(code(x_train), y_train)
        scores.append(vote.score(code(x_test), y_test))
    assert scores[0] > scores[1] + 0.1


def test_recipes_of_the_ablation_differ_in_one_thing_each():
    """The rows of the table are comparable: same data, epochs, seed; one detail apart."""
    from ae_keras.fingerprint import differences

    def recipe(name):
        return modelfile.read(ROOT / "saved_models" / "mnist" / f"{name}.h5").facts["recipe"]

    full = recipe("03_deep-short")
    changed = {
        name: [line.partition(":")[0] for line in differences(full, recipe(f"03_deep-{name}"))]
        for name in ("relu-code", "he", "constant")
    }
    assert len(changed["relu-code"]) == 1
    assert changed["relu-code"][0].endswith(".activation")
    assert len(changed["he"]) == 4 and all("kernel_initializer" in line for line in changed["he"])
    assert {
        line.split(".")[:2] == ["optimizer", "learning_rate"] for line in changed["constant"]
    } == {True}
