"""The definitions of 01_simple, taken out of the notebook and put to the test."""

import numpy as np
import pytest
from conftest import ROOT, definitions
from sklearn.decomposition import PCA

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "01_simple.ipynb"


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "latent_dim", "encoder", "decoder", "autoencoder")


def test_shapes_and_parameters(page):
    encoder, decoder, autoencoder = page["encoder"], page["decoder"], page["autoencoder"]
    assert encoder.output_shape == (None, 32)
    assert decoder.input_shape == (None, 32)
    assert autoencoder.output_shape == autoencoder.input_shape == (None, 28, 28, 1)
    assert autoencoder.count_params() == (784 * 32 + 32) + (32 * 784 + 784) == 50_992


def test_autoencoder_is_decoder_of_encoder(page):
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    parts = page["decoder"](page["encoder"](x))
    np.testing.assert_allclose(page["autoencoder"](x), parts, atol=1e-6)
    assert np.min(page["encoder"](x)) >= 0  # ReLU
    assert np.min(parts) > 0 and np.max(parts) < 1  # sigmoid


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("name", ["01_simple", "01_simple-mse"])
def test_saved_weights_reach_the_saved_figures_and_beat_pca(datasets, dataset, name):
    """Recompute the figures with NumPy alone, from the numbers in the file."""
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets[dataset]
    saved = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")
    w_e, b_e, w_d, b_d = saved.weights
    x = x_test.reshape(-1, 784).astype(np.float64)
    z = np.maximum(x @ w_e + b_e, 0)
    logits = z @ w_d + b_d
    x_hat = 1 / (1 + np.exp(-logits))
    mse = np.mean(np.square(x - x_hat))
    x_hat = np.clip(x_hat, 1e-7, 1 - 1e-7)  # as Keras does
    bce = -np.mean(x * np.log(x_hat) + (1 - x) * np.log(1 - x_hat))
    assert saved.facts["held_out"]["bce"] == pytest.approx(bce, abs=1e-5)
    assert saved.facts["held_out"]["mse"] == pytest.approx(mse, abs=1e-6)
    pca = PCA(32, random_state=0).fit(x_train.reshape(-1, 784))
    assert mse < 0.8 * np.mean(np.square(x - pca.inverse_transform(pca.transform(x))))
    if (dataset, name) == ("mnist", "01_simple"):
        assert bce <= 0.0912
