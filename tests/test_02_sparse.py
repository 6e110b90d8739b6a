"""The definitions of 02_sparse, and what its saved models must show."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import ROOT, definitions

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "02_sparse.ipynb"
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "build_encoder", "build_decoder", "join", "KLSparsity", "sparse")


def forward(name, dataset, x, activation):
    """Compute code and reconstruction with NumPy, from the numbers in the file."""
    w_e, b_e, w_d, b_d = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5").weights
    z = activation(x.reshape(-1, 784).astype(np.float64) @ w_e + b_e)
    return z, z @ w_d + b_d


def relu(a):
    return np.maximum(a, 0)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_kl_penalty_is_the_closed_form(page):
    z = np.random.default_rng(0).random((50, 7))
    penalty = page["KLSparsity"](target=0.1, weight=3.0)(keras.ops.convert_to_tensor(z)) / 50
    coins = [scipy.stats.entropy([0.1, 0.9], [q, 1 - q]) for q in z.mean(axis=0)]
    assert float(penalty) == pytest.approx(3.0 * sum(coins), rel=1e-6)


def test_kl_penalty_vanishes_at_the_target_alone(page):
    def penalty(share):
        return float(page["KLSparsity"](0.1, 1.0)(keras.ops.full((1, 1), share)))

    assert penalty(0.1) == pytest.approx(0, abs=1e-7)
    assert penalty(0.05) > 0 and penalty(0.2) > 0
    assert np.isfinite(penalty(0.0)) and np.isfinite(penalty(1.0))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_kl_penalty_has_the_gradient_of_the_text(page, share):
    z = tf.fill((10, 1), tf.constant(share))
    with tf.GradientTape() as tape:
        tape.watch(z)
        penalty = page["KLSparsity"](0.1, 1.0)(z)
    expected = -0.1 / share + 0.9 / (1 - share)
    np.testing.assert_allclose(tape.gradient(penalty, z), np.full((10, 1), expected), atol=1e-4)


def test_penalties_do_not_depend_on_the_batch_size(page):
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    wide = page["build_encoder"](5, "sigmoid", regularizer=page["KLSparsity"](0.1, 1.0))
    for encoder in (page["sparse"].get_layer("encoder"), wide):
        totals = []
        for batch in (x, np.tile(x, (4, 1, 1, 1))):
            encoder(batch)
            totals.append(float(sum(encoder.losses)))
        assert totals[0] == pytest.approx(totals[1], rel=1e-5) and totals[0] > 0
    z = np.array(wide(x))
    wanted = sum(scipy.stats.entropy([0.1, 0.9], [q, 1 - q]) for q in z.mean(axis=0))
    assert float(sum(wide.losses)) == pytest.approx(wanted, rel=1e-4)


def test_regularizer_survives_its_configuration(page):
    regularizer = page["KLSparsity"](0.2, 0.5)
    assert page["KLSparsity"](**regularizer.get_config()).__dict__ == regularizer.__dict__


@both
def test_l1_makes_the_code_small_and_keeps_the_picture(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets[dataset][1][0]
    z, logits = forward("02_sparse", dataset, x, relu)
    plain, _ = forward("01_simple", dataset, x, relu)
    assert z.mean() <= plain.mean() / 2
    bce = np.mean(np.logaddexp(0, logits) - x.reshape(-1, 784) * logits)
    facts = modelfile.read(ROOT / "saved_models" / dataset / "02_sparse.h5").facts
    assert facts["held_out"]["bce"] == pytest.approx(bce, abs=1e-5)
    if dataset == "mnist":
        assert bce <= 0.0945


@both
def test_kl_code_meets_its_target_and_beats_the_small_code(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets[dataset][1][0]
    z, logits = forward("02_sparse-kl", dataset, x, sigmoid)
    assert z.shape[1] == 300
    mse = np.mean(np.square(x.reshape(-1, 784) - sigmoid(logits)))
    facts = modelfile.read(ROOT / "saved_models" / dataset / "02_sparse-kl.h5").facts
    simple = modelfile.read(ROOT / "saved_models" / dataset / "01_simple.h5").facts
    assert facts["held_out"]["mse"] == pytest.approx(mse, abs=1e-6)
    if dataset == "mnist":  # on the small dataset the wide code has too few steps to learn
        assert 0.09 <= z.mean() <= 0.11
        assert mse < simple["held_out"]["mse"]


@both
def test_dead_code_draws_the_mean_image(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x, _), _ = datasets[dataset]
    z, logits = forward("02_sparse-dead", dataset, x, relu)
    assert not z.any()
    if dataset == "digits":
        return  # too few steps for the bias to reach the mean image
    x_mean = np.clip(x_train.mean(axis=0).reshape(784), 1e-7, 1 - 1e-7)
    best = np.log(1 - x_mean) - np.log(x_mean)
    flat = x.reshape(-1, 784)
    floor = np.mean(np.logaddexp(0, -best) + flat * best)
    bce = np.mean(np.logaddexp(0, logits) - flat * logits)
    assert floor - 1e-3 <= bce <= floor + 3e-3
