"""05b_lost_pixels: its definitions, its table and its saved models, against NumPy by hand."""

import functools
import re

import keras
import numpy as np
import pytest
import scipy.ndimage
from helpers import ROOT, definitions
from test_05_denoising import by_hand, mean_psnr, outputs, stored_rows

from ae_keras import data, metrics, modelfile

PATH = ROOT / "notebooks" / "05b_lost_pixels.ipynb"
NAME = "05b_lost_pixels"


@functools.cache
def page_for(dataset):
    names = ("denoiser", "answer_for_black", "tune", "linear_problem")
    return definitions(PATH, *names, dataset=dataset, metrics=metrics)


@pytest.fixture(scope="module")
def page():
    return page_for("mnist")


@functools.cache
def trained(dataset):
    """Return the page's denoiser with the weights that were saved, and the file."""
    path = ROOT / "saved_models" / dataset / f"{NAME}.h5"
    saved, model = modelfile.read(path), page_for(dataset)["denoiser"]
    modelfile.set_weights(model, saved, path)
    return model, saved


def test_the_network_is_that_of_page_05(page):
    other = definitions(ROOT / "notebooks" / "05_denoising.ipynb", "denoiser", dataset="mnist")
    for model in ("encoder", "decoder"):
        layers = [
            [
                (type(layer).__name__, layer.output.shape if hasattr(layer, "output") else None)
                for layer in which[model].layers
            ]
            for which in (page, other)
        ]
        assert layers[0] == layers[1]
    assert page["denoiser"].count_params() == other["denoiser"].count_params() == 871_617


def test_answer_for_black(page):
    """The page's example, the limits, and a simulation."""
    answer = page["answer_for_black"]
    assert answer(0.8, 0.5) == pytest.approx(2 / 3)
    assert answer(0.8, 1.0) == pytest.approx(0.8)  # all pixels are lost: nothing was seen
    assert answer(0.8, 0.0) == 0  # none is lost: black is black
    random = np.random.default_rng(0)
    white, lost = random.random(200_000) < 0.3, random.random(200_000) < 0.6
    assert answer(0.3, 0.6) == pytest.approx(white[~white | lost].mean(), abs=0.005)


def test_layer_loses_the_stated_share_and_leaves_the_others(page):
    layer = page["LosePixels"](0.3, seed=0)
    x = np.random.default_rng(0).uniform(0.1, 1, (200, 28, 28, 1)).astype("float32")
    first, second = (np.array(layer(x, training=True)) for _ in range(2))
    for masked in (first, second):
        assert np.mean(masked == 0) == pytest.approx(0.3, abs=0.01)
        np.testing.assert_array_equal(masked[masked != 0], x[masked != 0])
    both = np.mean((first == 0) & (second == 0))
    assert both == pytest.approx(0.09, abs=0.01)  # a new mask at each call
    np.testing.assert_array_equal(layer(x), x)  # outside training
    in_model = [one for one in page["denoiser"].layers if isinstance(one, page["LosePixels"])]
    assert [one.rate for one in in_model] == [0.5]


def test_fit_spoils_each_epoch_anew(page):
    x = np.random.default_rng(0).random((64, 28, 28, 1), dtype=np.float32)
    model = keras.Model(page["denoiser"].inputs, page["denoiser"].outputs)
    model.compile(keras.optimizers.SGD(0.0), "mean_squared_error")
    losses = model.fit(x, x, epochs=3, batch_size=64, verbose=0).history["loss"]
    assert len(set(losses)) == 3


def test_linear_problem_is_the_mean_over_masks(page, datasets):
    clean = datasets["digits"][0][0][:500].reshape(-1, 784).astype(float)
    products, targets = page["linear_problem"](clean, 0.7)
    center, draws, product_sum, target_sum = 0.7 * clean.mean(axis=0), 60, 0, 0
    random = np.random.default_rng(0)
    for _ in range(draws):
        lost = clean * (random.random(clean.shape) < 0.7)
        product_sum = product_sum + (lost - center).T @ (lost - center) / draws
        target_sum = target_sum + (lost - center).T @ (clean - clean.mean(axis=0)) / draws
    scale = np.diag(product_sum).mean()
    np.testing.assert_allclose(products, product_sum, atol=0.12 * scale)
    np.testing.assert_allclose(np.diag(products), np.diag(product_sum), atol=0.06 * scale)
    np.testing.assert_allclose(targets, target_sum, atol=0.12 * scale)


def test_saved_weights_reach_the_saved_metrics(datasets, dataset):
    x = datasets[dataset][1][0]
    denoiser, saved = trained(dataset)
    lost = data.drop_pixels(x, 0.5, seed=11)
    np.testing.assert_allclose(
        by_hand(denoiser.get_weights(), lost[:20]),
        denoiser.predict(lost[:20], verbose=0),
        atol=1e-5,
    )
    x_hat = denoiser.predict(lost, batch_size=500, verbose=0)
    held_out = saved.facts["held_out"]
    assert held_out["psnr"] == pytest.approx(mean_psnr(x, x_hat), abs=5e-4)
    assert held_out["mse"] == pytest.approx(metrics.mse(x, x_hat), abs=5e-6)
    other = (x[:1000] * np.random.RandomState(99).randint(0, 2, x[:1000].shape)).astype("float32")
    x_hat_other = denoiser.predict(other, batch_size=500, verbose=0)
    expected = mean_psnr(x[:1000], x_hat[:1000])
    assert mean_psnr(x[:1000], x_hat_other) == pytest.approx(expected, abs=0.2)
    if dataset == "mnist":
        mse, psnr, ssim = stored_rows(PATH)["denoiser"][1:]
        assert f"{held_out['psnr']:.2f}" == psnr
        assert f"{held_out['mse']:.4f}" == mse
        assert f"{metrics.ssim(x, x_hat):.3f}" == ssim


def test_claim_is_what_the_table_says():
    rows = {name: float(row[2]) for name, row in stored_rows(PATH).items()}
    ours = rows.pop("denoiser")
    assert len(rows) == 6 and ours >= CLAIM and ours - max(rows.values()) >= LEAD
    found = re.search(
        r"three masks: mean (\d+\.\d+) dB, from (\d+\.\d+) to (\d+\.\d+)", outputs(PATH)
    )
    mean, low, high = map(float, found.groups())
    assert mean >= CLAIM and low <= ours <= high and low <= mean <= high


CLAIM, LEAD = 23, 4


def test_rows_of_the_rivals(datasets):
    """Recompute them by other means; the cubic is fitted to validation images."""
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    (x, _), (x_test, _), _ = datasets["mnist"]
    clean, few = x[:55_000].reshape(-1, 784), x[55_000:56_000]
    few_lost = data.drop_pixels(x[55_000:], 0.5, seed=1)[:1000]
    lost, rows = data.drop_pixels(x_test, 0.5, seed=11), stored_rows(PATH)

    def check(name, method, tolerance):
        cubic = np.polyfit(np.float64(method(few_lost)).ravel(), few.ravel(), 3)
        x_hat = np.clip(np.polyval(cubic, method(lost)), 0, 1)
        assert mean_psnr(x_test, x_hat) == pytest.approx(float(rows[name][2]), abs=tolerance)

    assert mean_psnr(x_test, lost) == pytest.approx(float(rows["half lost"][2]), abs=0.006)
    width = float(rows["Gaussian filter"][0])
    check(
        "Gaussian filter",
        lambda v: scipy.ndimage.gaussian_filter1d(
            scipy.ndimage.gaussian_filter1d(v, width, axis=1), width, axis=2
        ),
        0.02,
    )
    products, targets = 0, 0
    for seed in range(2):
        pairs = data.drop_pixels(x[:55_000], 0.5, seed=100 + seed).reshape(-1, 784)
        pairs = np.hstack([pairs, np.ones((len(pairs), 1), np.float32)])
        products, targets = products + pairs.T @ pairs, targets + pairs.T @ clean
    weights = np.linalg.solve(products + 1e-2 * np.eye(785), targets.astype(float))
    check(
        "linear map",
        lambda v: (v.reshape(-1, 784) @ weights[:-1] + weights[-1]).reshape(v.shape),
        0.08,
    )
