"""The definitions of 05_denoising, taken out of the notebook and put to the test."""

import functools

import keras
import numpy as np
import pytest
import scipy.ndimage
import skimage
from conftest import ROOT, definitions

from ae_keras import data, metrics, modelfile

PATH = ROOT / "notebooks" / "05_denoising.ipynb"
DENOISERS = {"05_denoising": "denoiser", "05_denoising-mask": "mask_denoiser"}


@functools.cache
def page_for(dataset):
    names = ("denoiser", "mask_denoiser", "training_model", "mask_model", "tune")
    return definitions(PATH, *names, dataset=dataset, metrics=metrics)


@pytest.fixture(scope="module")
def page():
    return page_for("mnist")


@pytest.fixture(params=["mnist", "digits"])
def dataset(request, datasets):
    if request.param not in datasets:
        pytest.skip("MNIST is not at hand")
    return request.param


def trained(dataset, name):
    """Return the page's denoiser with the weights that were saved, and what the file says."""
    page, path = page_for(dataset), ROOT / "saved_models" / dataset / f"{name}.h5"
    saved = modelfile.read(path)
    model = page["training_model" if name == "05_denoising" else "mask_model"]
    modelfile.set_weights(model, saved, path)
    return page[DENOISERS[name]], saved.facts


def mean_psnr(x, x_hat):
    ratio = skimage.metrics.peak_signal_noise_ratio
    return np.mean([ratio(a, b, data_range=1) for a, b in zip(x, x_hat, strict=True)])


def test_shapes_and_parameters(page):
    encoder, decoder, denoiser = page["encoder"], page["decoder"], page["denoiser"]
    assert encoder.output_shape == decoder.input_shape == (None, 128)
    assert denoiser.input_shape == denoiser.output_shape == (None, 28, 28, 1)
    convolutions = (25 * 1 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 128 + 128)
    dense = (4 * 4 * 128 * 128 + 128) + (128 * 7 * 7 * 64 + 7 * 7 * 64)
    transposed = (25 * 64 * 32 + 32) + (25 * 32 * 1 + 1)
    assert denoiser.count_params() == convolutions + dense + transposed == 812_033
    for name in ("mask_denoiser", "training_model", "mask_model"):  # the damage has no weights
        assert page[name].count_params() == denoiser.count_params()


def test_denoiser_is_decoder_of_encoder_and_starts_from_scratch(page):
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    parts = page["decoder"](page["encoder"](x))
    np.testing.assert_allclose(page["denoiser"](x), parts, atol=1e-6)
    assert np.min(parts) > 0 and np.max(parts) < 1  # sigmoid
    assert np.abs(page["denoiser"](x) - page["mask_denoiser"](x)).max() > 0.01  # own weights


def test_noise_is_fresh_clipped_and_of_the_stated_strength(page):
    grey = np.full((200, 28, 28, 1), 0.5, dtype=np.float32)
    first, second = (page["add_noise"](grey, training=True).numpy() for _ in range(2))
    assert np.mean(first == second) < 0.1  # both clipped at the same end
    assert np.mean(first[0] == first[1]) < 0.1  # within a batch as well
    for noisy in (first, second):
        assert noisy.min() == 0 and noisy.max() == 1
        assert np.mean(noisy == 0) == pytest.approx(0.1587, abs=0.005)  # Φ(−1): σ is 0.5
        assert np.mean(noisy == 1) == pytest.approx(0.1587, abs=0.005)
    black = page["add_noise"](0 * grey, training=True).numpy()
    assert black.mean() == pytest.approx(0.5 / np.sqrt(2 * np.pi), abs=0.005)  # "0.2 on average"


def test_mask_drops_half_of_the_pixels_and_leaves_the_others(page):
    x = np.random.default_rng(0).uniform(0.1, 1, (200, 28, 28, 1)).astype("float32")
    first, second = (page["drop_pixels"](x, training=True).numpy() for _ in range(2))
    for masked in (first, second):
        assert np.mean(masked == 0) == pytest.approx(0.5, abs=0.01)
        np.testing.assert_array_equal(masked[masked != 0], x[masked != 0])
    assert np.mean((first == 0) == (second == 0)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("damage", ["add_noise", "drop_pixels"])
def test_damage_is_absent_outside_training(page, damage):
    x = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    np.testing.assert_array_equal(page[damage](x), x)
    np.testing.assert_array_equal(page[damage].predict(x, verbose=0), x)


@pytest.mark.parametrize("name", ["training_model", "mask_model"])
def test_fit_damages_each_epoch_anew(page, name):
    """With a learning rate of 0 the loss can change from epoch to epoch only by the damage."""
    x = np.random.default_rng(0).random((64, 28, 28, 1), dtype=np.float32)
    model = keras.Model(page[name].inputs, page[name].outputs)
    model.compile(keras.optimizers.SGD(0.0), "mean_squared_error")
    losses = model.fit(x, x, epochs=3, batch_size=64, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    assert model.evaluate(x, x, verbose=0) == model.evaluate(x, x, verbose=0)


def test_tune_finds_the_best_setting_and_line(page):
    clean = np.random.default_rng(0).random((20, 8, 8, 1))
    noisy = 0.1 + 0.5 * clean

    def method(images, setting):
        return images if setting == 2 else images * (np.arange(8)[:, np.newaxis] < 4)

    setting, restore = page["tune"](method, [1, 2, 3], noisy, clean)
    assert setting == 2
    np.testing.assert_allclose(restore(noisy), clean, atol=1e-9)
    assert restore(2 * noisy).max() == 1  # clipped


@pytest.mark.parametrize("name", list(DENOISERS))
def test_saved_weights_reach_the_saved_figures(datasets, dataset, name):
    """Once on the notebook's own damage, and once on damage that nothing has ever seen."""
    x = datasets[dataset][1][0]
    denoiser, facts = trained(dataset, name)
    if name == "05_denoising":
        same = data.add_gaussian_noise(x, 0.5, seed=2)
        other = np.clip(x + np.random.RandomState(99).normal(0, 0.5, x.shape), 0, 1)
    else:
        same = data.drop_pixels(x, 0.5, seed=2)
        other = x * np.random.RandomState(99).randint(0, 2, x.shape)
    x_hat = denoiser.predict(same, batch_size=1000, verbose=0)
    assert facts["held_out"]["psnr"] == pytest.approx(mean_psnr(x, x_hat), abs=5e-4)
    assert facts["held_out"]["loss"] == pytest.approx(metrics.bce(x, x_hat), abs=5e-6)
    few = slice(0, 1000)
    x_hat_other = denoiser.predict(other[few].astype("float32"), batch_size=1000, verbose=0)
    assert mean_psnr(x[few], x_hat_other) == pytest.approx(mean_psnr(x[few], x_hat[few]), abs=0.2)
    if (dataset, name) == ("mnist", "05_denoising"):
        assert facts["held_out"]["psnr"] >= 20.5


def test_denoiser_beats_every_rival_by_what_is_claimed(datasets, dataset):
    """The rivals may choose size and line on the very images that they are judged by."""
    (x_train, _), (x_test, _), _ = datasets[dataset]
    x, margin = x_test[:300], 2 if dataset == "mnist" else 0
    noisy = data.add_gaussian_noise(x, 0.5, seed=7)
    denoiser, _ = trained(dataset, "05_denoising")
    ours = denoiser.predict(noisy, verbose=0)
    rivals = [scipy.ndimage.median_filter(noisy, (1, size, size, 1)) for size in (3, 5)]
    rivals += [scipy.ndimage.gaussian_filter(noisy, (0, s, s, 0)) for s in (0.8, 1, 1.2, 1.4)]
    for weight in (0.2, 0.3, 0.4):
        each = [skimage.restoration.denoise_tv_chambolle(a, weight=weight) for a in noisy]
        rivals.append(np.stack(each))
    pairs = data.add_gaussian_noise(x_train[:10_000], 0.5, seed=8).reshape(-1, 784)
    pairs, wanted = np.c_[pairs, np.ones(len(pairs))], x_train[:10_000].reshape(-1, 784)
    weights = np.linalg.solve(pairs.T @ pairs + 1e-3 * np.eye(785), pairs.T @ wanted)
    rivals.append((np.c_[noisy.reshape(-1, 784), np.ones(len(x))] @ weights).reshape(x.shape))
    for rival in rivals:
        a, b = np.polyfit(rival.ravel(), x.ravel(), 1)
        rival = np.clip(a * rival + b, 0, 1)
        assert mean_psnr(x, ours) > mean_psnr(x, rival) + margin
        assert metrics.ssim(x, ours) > metrics.ssim(x, rival)


def test_a_denoiser_of_digits_spoils_faces(dataset):
    """The failure that the page admits: worse than the noisy face itself."""
    faces = skimage.transform.resize(skimage.data.lfw_subset()[:100, ..., None], (100, 28, 28, 1))
    noisy = data.add_gaussian_noise(faces, 0.5, seed=5)
    denoiser, _ = trained(dataset, "05_denoising")
    assert mean_psnr(faces, denoiser.predict(noisy, verbose=0)) < mean_psnr(faces, noisy)
