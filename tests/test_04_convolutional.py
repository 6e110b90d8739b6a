"""The definitions and saved models of 04_convolutional, against NumPy written out by hand."""

import functools
import itertools

import numpy as np
import pytest
from conftest import ROOT, definitions
from scipy.special import expit
from sklearn.decomposition import PCA

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "04_convolutional.ipynb"
MODELS = {  # file → name in the notebook
    "04_convolutional": "autoencoder",
    "04_convolutional-classic": "classic",
    "04_convolutional-dense": "dense",
}


@pytest.fixture(scope="module")
def page():
    return definitions(
        PATH, "classic", "dense", "autoencoder", "three_operations", "checkerboard", "enlarge"
    )


def convolve(x, kernel, bias, stride=1, padding="same"):
    """Sum kernel times window over all windows: (n, h, w, a), (k, k, a, b) → (n, h', w', b)."""
    k, height = kernel.shape[0], x.shape[1]
    size = -(-height // stride) if padding == "same" else height - k + 1
    missing = max((size - 1) * stride + k - height, 0)
    before = missing // 2
    x = np.pad(x, ((0, 0), (before, missing - before), (before, missing - before), (0, 0)))
    reach = (size - 1) * stride + 1
    windows = [x[:, u : u + reach : stride, v : v + reach : stride] for u, v in np.ndindex(k, k)]
    return np.concatenate(windows, axis=3) @ kernel.reshape(-1, kernel.shape[3]) + bias


def stamp(x, kernel, bias):
    """Stamp the kernel every two pixels (transposed convolution): (n, h, w, a) → (n, 2h, 2w, b)."""
    n, height, width, _ = x.shape
    k = kernel.shape[0]
    out = np.zeros((n, 2 * height + k - 2, 2 * width + k - 2, kernel.shape[2]), x.dtype)
    for u, v in np.ndindex(k, k):
        out[:, u : u + 2 * height : 2, v : v + 2 * width : 2] += x @ kernel[u, v].T
    start = (k - 2) // 2
    return out[:, start : start + 2 * height, start : start + 2 * width] + bias


def pool(x):
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))  # 0 loses to a ReLU
    return np.max([x[:, u::2, v::2] for u, v in np.ndindex(2, 2)], axis=0)


def repeat(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def relu(x):
    return np.maximum(x, 0)


def by_hand(name, weights, x):
    """Compute a model's reconstructions of images (n, 28, 28, 1) from the arrays of its file."""
    w = iter(weights)
    if name.endswith("dense"):
        h = relu(x.reshape(-1, 784) @ next(w) + next(w)) @ next(w) + next(w)
        h = relu(h @ next(w) + next(w)) @ next(w) + next(w)
        return expit(h).reshape(x.shape)
    if name.endswith("classic"):
        h = pool(relu(convolve(x, next(w), next(w))))
        h = pool(relu(convolve(h, next(w), next(w))))
        z = pool(relu(convolve(h, next(w), next(w))))
        h = repeat(relu(convolve(z, next(w), next(w))))
        h = repeat(relu(convolve(h, next(w), next(w))))
        h = repeat(relu(convolve(h, next(w), next(w), padding="valid")))
        return expit(convolve(h, next(w), next(w)))
    h = relu(convolve(x, next(w), next(w), stride=2))
    h = relu(convolve(h, next(w), next(w), stride=2))
    z = h.reshape(len(x), -1) @ next(w) + next(w)
    h = relu(z @ next(w) + next(w)).reshape(-1, 7, 7, 64)
    return expit(stamp(relu(stamp(h, next(w), next(w))), next(w), next(w)))


@functools.cache
def saved_model(dataset, name):
    return modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")


def copy_of(dataset, name, x):
    weights = saved_model(dataset, name).weights
    return np.concatenate([by_hand(name, weights, part) for part in np.array_split(x, 5)])


def mse(x, x_hat):
    return np.mean(np.square(x - x_hat), dtype=np.float64)


def through_pca(x_train, x):
    pca = PCA(128, random_state=0).fit(x_train.reshape(-1, 784))
    return pca.inverse_transform(pca.transform(x.reshape(-1, 784))).reshape(x.shape)


def test_shapes_and_parameters(page):
    classic, dense, autoencoder = page["classic"], page["dense"], page["autoencoder"]
    assert page["classic_encoder"].output_shape == (None, 4, 4, 8) and 4 * 4 * 8 == 128
    assert page["encoder"].output_shape == page["decoder"].input_shape == (None, 128)
    for model in (classic, dense, autoencoder):
        assert model.output_shape == model.input_shape == (None, 28, 28, 1)
    assert classic.count_params() == 4_385
    assert dense.count_params() == 840_872
    assert autoencoder.count_params() == 844_673
    pairs = itertools.pairwise([784, 128, 64, 32, 64, 128, 784])
    assert sum((a + 1) * b for a, b in pairs) == 222_384  # 03_deep
    assert (784 + 1) * 784 == 615_440


def test_autoencoder_is_decoder_of_encoder(page):
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    parts = page["decoder"](page["encoder"](x))
    np.testing.assert_allclose(page["autoencoder"](x), parts, atol=1e-6)
    assert np.min(page["encoder"](x)) < 0  # a linear code


def test_three_operations(page):
    x = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    convolved, pooled, upsampled = map(np.array, page["three_operations"](x).values())
    left_edges = x[:, :, 2:, 0] - x[:, :, :-2, 0]
    left_edges = left_edges[:, :-2] + left_edges[:, 1:-1] + left_edges[:, 2:]
    np.testing.assert_allclose(convolved[..., 0], x[..., 0])  # the first kernel copies
    np.testing.assert_allclose(convolved[:, 1:-1, 1:-1, 1], relu(left_edges), atol=1e-5)
    np.testing.assert_allclose(convolved, relu(convolve(x, page["kernels"], 0)), atol=1e-5)
    np.testing.assert_array_equal(pooled, pool(convolved))
    np.testing.assert_array_equal(upsampled, repeat(pooled))


def test_stamps_of_3_overlap_1_2_or_4_times_and_stamps_of_4_evenly(page):
    flat = np.ones((1, 6, 6, 1), np.float32)
    y = np.array(page["enlarge"](flat, "transposed, 3×3", "ones", 1))[0, 2:-2, 2:-2, 0]
    np.testing.assert_array_equal(y[:2, :2], [[4, 2], [2, 1]])
    np.testing.assert_array_equal(y, np.tile([[4, 2], [2, 1]], (4, 4)))
    y = np.array(page["enlarge"](flat, "transposed, 4×4", "ones", 1))[0, 2:-2, 2:-2, 0]
    np.testing.assert_array_equal(y, np.full((8, 8), 4))
    y = np.array(page["enlarge"](flat, "up-sampling, 3×3", "glorot_uniform", 9))[0, 2:-2, 2:-2]
    np.testing.assert_allclose(y, np.broadcast_to(y[0, 0], y.shape), atol=1e-6)


def test_checkerboard_measures_what_alternates(page):
    checkerboard = page["checkerboard"]
    assert checkerboard(np.full((3, 8, 8), 0.7)) == pytest.approx(0)
    stripes = np.tile([0.0, 2.0], (2, 8, 4))  # mean 1, and 1 up and down around it
    assert checkerboard(stripes) == pytest.approx(1 / 2)
    assert checkerboard(np.tile([[4, 2], [2, 1]], (1, 4, 4))) == pytest.approx(0.19)
    wide = np.tile([0.0, 0.0, 2.0, 2.0], (2, 8, 2))
    assert checkerboard(wide) == pytest.approx(0)
    assert checkerboard(wide, 4) == pytest.approx(1 / 2)


@pytest.mark.parametrize("kernel", [3, 4])
def test_random_kernels_alternate_alike_whatever_their_size(page, kernel):
    flat = np.ones((1, 8, 8, 1), np.float32)
    y = np.array(page["enlarge"](flat, f"transposed, {kernel}×{kernel}", "glorot_uniform", 3000))
    share = page["checkerboard"](y[0, 2:-2, 2:-2].transpose(2, 0, 1))
    assert share == pytest.approx(0.75, abs=0.02)  # 3/4 of the energy for independent weights


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_reach_the_saved_figures(page, datasets, dataset, name):
    """Keras computes what NumPy does from the file, and over all test images it is the figure."""
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (_, _), (x, _), _ = datasets[dataset]
    model = page[MODELS[name]]
    modelfile.set_weights(model, saved_model(dataset, name), name)
    x_hat = model.predict(x, batch_size=500, verbose=0)
    np.testing.assert_allclose(x_hat[:250], copy_of(dataset, name, x[:250]), atol=1e-4)
    x_hat = np.clip(x_hat.astype(np.float64), 1e-7, 1 - 1e-7)
    held_out = saved_model(dataset, name).facts["held_out"]
    assert held_out["mse"] == pytest.approx(mse(x, x_hat), abs=1e-6)
    bce = -np.mean(x * np.log(x_hat) + (1 - x) * np.log1p(-x_hat), dtype=np.float64)
    assert held_out["bce"] == pytest.approx(bce, abs=2e-5)


def test_the_claim(datasets):
    """A third of PCA's error, less than a dense network's, cheaper to move; the classic loses."""
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets["mnist"]
    error = {name: saved_model("mnist", name).facts["held_out"]["mse"] for name in MODELS}
    pca = mse(x_test, through_pca(x_train[::6], x_test))
    assert error["04_convolutional"] <= 0.0015
    assert error["04_convolutional"] < pca / 3
    assert error["04_convolutional"] < error["04_convolutional-dense"]
    assert error["04_convolutional-classic"] > pca
    some = x_test[:250]
    for pixels in (1, 2):
        factors = []
        for name in ("04_convolutional", "04_convolutional-dense"):
            moved = [np.roll(some, pixels * sign, axis=axis) for sign in (1, -1) for axis in (1, 2)]
            errors = [mse(x, copy_of("mnist", name, x)) for x in moved]
            factors.append(np.mean(errors) / mse(some, copy_of("mnist", name, some)))
        assert factors[0] < 0.97 * factors[1]


def test_training_left_no_checkerboard(page, datasets):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets["mnist"][1][0][:1000]
    x_hat = copy_of("mnist", "04_convolutional", x)
    for stride in (2, 4):
        assert page["checkerboard"](x_hat, stride) < 1.1 * page["checkerboard"](x, stride)
