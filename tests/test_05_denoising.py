"""05_denoising: its definitions, its table and its saved models, against NumPy written by hand."""

import functools
import re

import keras
import numpy as np
import pytest
import scipy.ndimage
import skimage
from helpers import ROOT, definitions, read_notebook
from scipy.special import expit
from scipy.stats import norm
from test_04_convolutional import convolve, stamp

from ae_keras import data, metrics, modelfile

PATH = ROOT / "notebooks" / "05_denoising.ipynb"
NAME = "05_denoising"
FUNCTIONS = ("weigh", "tune", "repaint", "haar", "shrink", "after_noise", "linear_problem")


@functools.cache
def page_for(dataset):
    return definitions(
        PATH,
        "denoiser",
        "add_noise",
        "psnr",
        *FUNCTIONS,
        dataset=dataset,
        metrics=metrics,
        norm=norm,
    )


@pytest.fixture(scope="module")
def page():
    return page_for("mnist")


def noise_of_the_page(x_test):
    return data.add_gaussian_noise(x_test, 0.5, seed=11)


@functools.cache
def trained(dataset):
    """Return the page's denoiser with the weights that were saved, and the file."""
    path = ROOT / "saved_models" / dataset / f"{NAME}.h5"
    saved, model = modelfile.read(path), page_for(dataset)["denoiser"]
    modelfile.set_weights(model, saved, path)
    return model, saved


def outputs(path=PATH):
    cells = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    found = [out for cell in cells for out in cell.outputs]
    return "\n".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in found)


def stored_rows(path=PATH):
    """Read the test table as {row: (setting, MSE, PSNR, SSIM)} from the stored outputs."""
    row = re.compile(r"^([\w ]+?)  +(?:([\d.]+)  +)?(0\.\d{4})  +(\d+\.\d\d)  +(0\.\d{3})$", re.M)
    return {name: tuple(numbers) for name, *numbers in row.findall(outputs(path))}


def mean_psnr(x, x_hat):
    errors = np.mean(np.square(np.float64(x) - x_hat), axis=(1, 2, 3))
    return np.mean(-10 * np.log10(errors))


def by_hand(weights, x):
    """Denoise images with the arrays of the file, skip connections added where they belong."""
    w = iter(weights)
    h = np.maximum(convolve(x, next(w), next(w), 2), 0)
    fine = np.maximum(convolve(h, next(w), next(w)), 0)
    h = np.maximum(convolve(fine, next(w), next(w), 2), 0)
    coarse = np.maximum(convolve(h, next(w), next(w)), 0)
    h = np.maximum(convolve(coarse, next(w), next(w), 2), 0)
    z = h.reshape(len(x), -1) @ next(w) + next(w)
    h = np.maximum(z @ next(w) + next(w), 0).reshape(coarse.shape) + coarse
    h = np.maximum(convolve(h, next(w), next(w)), 0)
    h = np.maximum(stamp(h, next(w), next(w)), 0) + fine
    h = np.maximum(convolve(h, next(w), next(w)), 0)
    return expit(stamp(h, next(w), next(w)))


def test_shapes_and_parameters(page):
    encoder, decoder, denoiser = page["encoder"], page["decoder"], page["denoiser"]
    shapes = [tuple(t.shape) for t in encoder.outputs]
    assert shapes == [(None, 128), (None, 7, 7, 64), (None, 14, 14, 32)]
    assert shapes == [tuple(t.shape) for t in decoder.inputs]
    assert denoiser.input_shape == denoiser.output_shape == (None, 28, 28, 1)
    same = [25 * 1 * 32 + 32, 9 * 32 * 32 + 32, 9 * 32 * 64 + 64, 9 * 64 * 64 + 64]
    down = sum(same) + 9 * 64 * 128 + 128 + 4 * 4 * 128 * 128 + 128
    up = [128 * 49 * 64 + 49 * 64, 9 * 64 * 64 + 64, 9 * 64 * 32 + 32, 9 * 32 * 32 + 32]
    assert denoiser.count_params() == down + sum(up) + 25 * 32 + 1 == 871_617


def test_noise_is_fresh_clipped_and_of_the_stated_strength(page):
    grey = np.full((200, 28, 28, 1), 0.5, dtype=np.float32)
    first, second = (np.array(page["add_noise"](grey, training=True)) for _ in range(2))
    assert np.mean(first == second) < 0.1  # both clipped at the same end
    assert np.mean(first[0] == first[1]) < 0.1  # within a batch as well
    for noisy in (first, second):
        assert noisy.min() == 0 and noisy.max() == 1
        assert np.mean(noisy == 0) == pytest.approx(0.1587, abs=0.005)  # Φ(−1): σ is 0.5
        assert np.mean(noisy == 1) == pytest.approx(0.1587, abs=0.005)
    black = np.array(page["add_noise"](0 * grey, training=True))
    assert black.mean() == pytest.approx(0.5 / np.sqrt(2 * np.pi), abs=0.005)  # "0.2 on average"


def test_noise_is_absent_outside_training(page):
    x = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    np.testing.assert_array_equal(page["add_noise"](x), x)
    parts = page["decoder"](page["encoder"](x))
    np.testing.assert_allclose(page["denoiser"](x), parts, atol=1e-6)


def test_fit_spoils_each_epoch_anew(page):
    """With a learning rate of 0 the loss can change from epoch to epoch only by the noise."""
    x = np.random.default_rng(0).random((64, 28, 28, 1), dtype=np.float32)
    model = keras.Model(page["denoiser"].inputs, page["denoiser"].outputs)
    model.compile(keras.optimizers.SGD(0.0), "mean_squared_error")
    losses = model.fit(x, x, epochs=3, batch_size=64, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    assert model.evaluate(x, x, verbose=0) == model.evaluate(x, x, verbose=0)


def test_psnr_is_that_of_each_image(page):
    x = np.zeros((2, 28, 28, 1), np.float32)
    x_hat = x + np.float32([0.1, 0.01]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(page["psnr"](x, x_hat), [20, 40], atol=1e-4)


def test_weigh(page):
    """The page's pixel by hand, and the two limits."""
    black_white = np.array([[0.0], [1.0]])
    likely = np.exp([-0.64 / 0.5, -0.04 / 0.5])
    weights = page["weigh"](np.array([0.8]), black_white, 0.5)
    np.testing.assert_allclose(weights, likely / likely.sum())
    np.testing.assert_allclose(weights, [0.23, 0.77], atol=0.005)  # as the prose says
    digits = np.random.default_rng(0).random((3, 25))
    np.testing.assert_allclose(page["weigh"](digits[1] + 0.01, digits, 0.05), [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(page["weigh"](digits[1], digits, 1e6), [1 / 3] * 3)


def test_tune_finds_the_best_setting_and_repaints(page):
    clean = np.random.default_rng(0).random((20, 8, 8, 1))
    noisy = 0.1 + 0.5 * clean**2

    def method(images, setting):
        return np.sqrt(images - 0.1) if setting == 2 else images * (np.arange(8)[:, None] < 4)

    setting, restore = page["tune"](method, [1, 2, 3], noisy, clean)
    assert setting == 2
    np.testing.assert_allclose(restore(noisy), clean, atol=1e-6)
    assert restore(0.1 + 2 * (noisy - 0.1)).max() == 1  # clipped


def test_haar_wavelets(page):
    haar, x = page["haar"], np.random.default_rng(0).random((2, 8, 8, 1))
    np.testing.assert_allclose(haar(x, 0), x, atol=1e-12)  # nothing shrunk: nothing lost
    flat = haar(x, 100)  # every difference shrunk to 0
    assert flat.std() < 0.5 * x.std() and flat.mean() == pytest.approx(x.mean())
    np.testing.assert_allclose(page["shrink"](np.array([-3.0, -1, 0.5, 2]), 1), [-2, 0, 0, 1])


def test_linear_problem_is_the_mean_over_noises(page, datasets):
    clean = datasets["digits"][0][0][:500].reshape(-1, 784)
    center, products, targets = page["linear_problem"](clean, 0.5)
    draws, noisy_sum, product_sum, target_sum = 60, 0, 0, 0
    random = np.random.default_rng(0)
    for _ in range(draws):
        noisy = np.clip(clean + random.normal(0, 0.5, clean.shape), 0, 1)
        noisy_sum = noisy_sum + noisy.mean(axis=0) / draws
        product_sum = product_sum + (noisy - center).T @ (noisy - center) / draws
        target_sum = target_sum + (noisy - center).T @ (clean - clean.mean(axis=0)) / draws
    np.testing.assert_allclose(center, noisy_sum, atol=0.01)
    scale = np.diag(product_sum).mean()
    np.testing.assert_allclose(products, product_sum, atol=0.12 * scale)
    np.testing.assert_allclose(np.diag(products), np.diag(product_sum), rtol=0.05)
    np.testing.assert_allclose(targets, target_sum, atol=0.12 * scale)


def test_saved_weights_reach_the_saved_metrics(datasets, dataset):
    """By hand on a few images, and by Keras on the page's noise and on another."""
    x = datasets[dataset][1][0]
    denoiser, saved = trained(dataset)
    noisy = noise_of_the_page(x)
    np.testing.assert_allclose(
        by_hand(denoiser.get_weights(), noisy[:20]),
        denoiser.predict(noisy[:20], verbose=0),
        atol=1e-5,
    )
    x_hat = denoiser.predict(noisy, batch_size=500, verbose=0)
    held_out = saved.facts["held_out"]
    assert held_out["psnr"] == pytest.approx(mean_psnr(x, x_hat), abs=5e-4)
    assert held_out["mse"] == pytest.approx(metrics.mse(x, x_hat), abs=5e-6)
    assert held_out["loss"] == pytest.approx(metrics.bce(x, x_hat), abs=5e-6)
    other = np.clip(x[:1000] + np.random.RandomState(99).normal(0, 0.5, x[:1000].shape), 0, 1)
    x_hat_other = denoiser.predict(other.astype("float32"), batch_size=500, verbose=0)
    expected = mean_psnr(x[:1000], x_hat[:1000])
    assert mean_psnr(x[:1000], x_hat_other) == pytest.approx(expected, abs=0.2)
    if dataset == "mnist":
        assert held_out["psnr"] >= 20.9
        mse, psnr, ssim = stored_rows()["denoiser"][1:]
        assert f"{held_out['psnr']:.2f}" == psnr
        assert f"{held_out['mse']:.4f}" == mse
        assert f"{metrics.ssim(x, x_hat):.3f}" == ssim


def test_claim_is_what_the_table_says():
    rows = {name: float(row[2]) for name, row in stored_rows().items()}
    ours = rows.pop("denoiser")
    assert len(rows) == 7 and ours >= 20.9 and ours - max(rows.values()) >= 2
    mean, low, high = map(
        float,
        re.search(
            r"three noises: mean (\d+\.\d+) dB, from (\d+\.\d+) to (\d+\.\d+)", outputs()
        ).groups(),
    )
    assert mean >= 20.9 and low <= mean <= high and low <= ours <= high and high - low < 0.1


def test_rows_of_the_rivals(mnist):
    """Recompute them by other means; the cubic is fitted to validation images."""
    _, x_valid, x_test = mnist
    noisy = noise_of_the_page(x_test)
    few, few_noisy = x_valid[:1000], data.add_gaussian_noise(x_valid, 0.5, seed=1)[:1000]
    rows = stored_rows()

    def check(name, method, tolerance):
        cubic = np.polyfit(np.float64(method(few_noisy)).ravel(), few.ravel(), 3)
        x_hat = np.clip(np.polyval(cubic, method(noisy)), 0, 1)
        assert mean_psnr(x_test, x_hat) == pytest.approx(float(rows[name][2]), abs=tolerance)

    assert mean_psnr(x_test, noisy) == pytest.approx(float(rows["noisy input"][2]), abs=0.006)
    size = int(rows["median filter"][0])
    check("median filter", lambda x: scipy.ndimage.median_filter(x, (1, size, size, 1)), 0.02)
    width = float(rows["Gaussian filter"][0])
    check(
        "Gaussian filter",
        lambda x: scipy.ndimage.gaussian_filter(
            np.pad(x, ((0, 0), (9, 9), (9, 9), (0, 0)), constant_values=0.2), (0, width, width, 0)
        )[:, 9:-9, 9:-9],
        0.02,
    )


def test_linear_map_and_mean_of_digits(mnist):
    """A ridge on three draws of the training images' noise; the weighted mean by its definition."""
    x_train, x_valid, x_test = mnist
    noisy = noise_of_the_page(x_test)
    rows, clean = stored_rows(), x_train.reshape(-1, 784)
    products, targets = 0, 0
    for seed in range(3):
        pairs = data.add_gaussian_noise(x_train, 0.5, seed=100 + seed).reshape(-1, 784)
        pairs = np.hstack([pairs, np.ones((len(pairs), 1), np.float32)])
        products, targets = products + pairs.T @ pairs, targets + pairs.T @ clean
    weights = np.linalg.solve(products.astype(float), targets.astype(float))
    few, few_noisy = x_valid[:1000], data.add_gaussian_noise(x_valid, 0.5, seed=1)[:1000]

    def linear(x):
        return (x.reshape(-1, 784) @ weights[:-1] + weights[-1]).reshape(x.shape)

    cubic = np.polyfit(np.float64(linear(few_noisy)).ravel(), few.ravel(), 3)
    x_hat = np.clip(np.polyval(cubic, linear(noisy)), 0, 1)
    assert mean_psnr(x_test, x_hat) == pytest.approx(float(rows["linear map"][2]), abs=0.05)

    spread, some = float(rows["mean of digits"][0]), noisy[::20].reshape(-1, 784)
    distances = np.sum(some**2, 1)[:, None] + np.sum(clean**2, 1) - 2 * some @ clean.T
    likely = np.exp(-(distances - distances.min(1, keepdims=True)) / (2 * spread**2))
    x_hat = (likely @ clean / likely.sum(1, keepdims=True)).reshape(-1, 28, 28, 1)
    x_hat = np.clip(x_hat, 0, 1)  # without the cubic, which changes little
    expected = float(rows["mean of digits"][2])
    assert mean_psnr(x_test[::20], x_hat) == pytest.approx(expected, abs=0.3)


def test_a_denoiser_of_digits_spoils_faces(dataset):
    """The failure that the page admits: worse than the noisy face itself."""
    faces = skimage.transform.resize(skimage.data.lfw_subset()[:100, ..., None], (100, 28, 28, 1))
    noisy = data.add_gaussian_noise(faces, 0.5, seed=5)
    denoiser, _ = trained(dataset)
    assert mean_psnr(faces, denoiser.predict(noisy, verbose=0)) < mean_psnr(faces, noisy)
