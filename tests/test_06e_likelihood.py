"""06e_likelihood: its bound against SciPy and exact integrals, its tables against NumPy."""

import itertools
import re

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import (
    ROOT,
    definitions,
    figures,
    of,
    read_notebook,
    run_cell,
    stored_tables,
    stored_text,
)
from scipy.stats import binom

from ae_keras import modelfile, taught

PATH = ROOT / "notebooks" / "06e_likelihood.ipynb"
NORMAL, LOG_SUM = scipy.stats.norm, scipy.special.logsumexp


@pytest.fixture(scope="module")
def page():
    names = ("draw_pixels", "binarise", "log_ratio", "minus_bound", "bound_with", "log_mixture")
    return definitions(PATH, *names, logsumexp=LOG_SUM)


def build(dataset, k=5):
    """Build the page's network with the weights of its file, and a weigher with k codes."""
    names = ("iwae", "weigh", "encoder", "decoder", "image")
    found = definitions(PATH, *names, dataset=dataset, sample=taught.sample)
    path = ROOT / "saved_models" / dataset / "06e_likelihood.h5"
    saved = modelfile.read(path)
    modelfile.set_weights(found["iwae"], saved, path)
    found["weigher"] = keras.Model(found["image"], found["weigh"](found["image"], k))
    return found, saved.facts


# The small world


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_the_small_world_is_the_mean_over_all_draws(k):
    small_world = definitions(PATH, "small_world", binom=binom)["small_world"]
    every = [np.log(np.mean(ratios)) for ratios in itertools.product((0.9, 0.3), repeat=k)]
    assert small_world(k) == pytest.approx(np.mean(every))
    assert small_world(k) < small_world(k + 1) < np.log(0.6)


def test_the_small_world_is_told_as_it_is():
    text, prose = stored_text(PATH), "\n".join(c.source for c in read_notebook(PATH).cells)
    printed = eval(re.search(r"(\{1: [^}]*\}) ln 0.6", text)[1])
    for k, value in printed.items():
        a = np.arange(k + 1)
        expected = (binom.pmf(a, k, 0.5) * np.log((0.9 * a + 0.3 * (k - a)) / k)).sum()
        assert value == pytest.approx(expected, abs=6e-4)
    for chance, ratio in ((0.25, 0.9), (0.5, 0.6), (0.25, 0.3)):
        assert re.search(rf"\| {chance:.2f} \| {ratio} \| −{-np.log(ratio):.3f} \|", prose)


# The bound


def test_minus_bound_is_the_logarithm_of_the_mean_ratio(page):
    ratios = np.random.default_rng(0).uniform(0.1, 5, (6, 7))
    found = np.array(page["minus_bound"](np.log(ratios).astype("float32")))
    np.testing.assert_allclose(found, -np.log(ratios.mean(axis=1)), atol=1e-5)
    tiny = np.array(page["minus_bound"](np.log(ratios).astype("float32") - 5000))  # no underflow
    np.testing.assert_allclose(tiny, 5000 - np.log(ratios.mean(axis=1)), rtol=1e-6)
    assert "cases of the small world: [0.105 0.511 1.204]" in stored_text(PATH)


def test_bound_with_averages_over_groups_of_k(page):
    log_w = np.random.default_rng(0).normal(-90, 3, (4, 12))
    for k in (1, 3, 12):
        expected = [
            np.mean([np.log(np.mean(np.exp(row[i : i + k]))) for i in range(0, 12, k)])
            for row in log_w
        ]
        np.testing.assert_allclose(page["bound_with"](log_w, k), expected)


def test_log_ratio_is_that_of_scipy(page):
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (3, 784))
    logits = random.normal(0, 2, (3, 5, 784))
    z, mean, log_var = random.normal(size=(3, 3, 5, 4))
    given = [v.astype("float32") for v in (x, logits, z, mean, log_var)]
    p = scipy.special.expit(logits)
    expected = scipy.stats.bernoulli.logpmf(x[:, None], p).sum(axis=-1)
    expected += NORMAL.logpdf(z).sum(axis=-1)
    expected -= NORMAL.logpdf(z, mean, np.exp(log_var / 2)).sum(axis=-1)
    np.testing.assert_allclose(page["log_ratio"](given), expected, rtol=1e-4)
    given[1][0, 0, :2] = -100, 100  # a probability would be 0 or 1
    assert np.all(np.isfinite(page["log_ratio"](given)))


def test_many_codes_reach_the_exact_integral(page):
    """One axis, a decoder of one line: the integral of p(x|z) p(z) on a fine grid."""
    random = np.random.default_rng(0)
    slope, shift = random.normal(0, (0.1, 1), (784, 2)).T
    x = (random.random((4, 784)) < scipy.special.expit(2 * slope + shift)).astype("float32")
    grid = np.linspace(-8, 8, 20_001)
    logits = grid[:, None] * slope + shift
    log_p = np.stack([np.sum(row * logits - np.logaddexp(0, logits), axis=1) for row in x])
    exact = LOG_SUM(log_p + NORMAL.logpdf(grid) + np.log(grid[1] - grid[0]), axis=1)
    mean, log_var = np.full((4, 4000, 1), 1.5), np.full((4, 4000, 1), 0.4)  # roughly right
    z = mean + np.exp(log_var / 2) * random.normal(size=mean.shape)
    parts = [v.astype("float32") for v in (x, z * slope + shift, z, mean, log_var)]
    log_w = np.array(page["log_ratio"](parts), float)
    one, few, many = (page["bound_with"](log_w, k).mean() for k in (1, 10, 4000))
    assert one < few < many
    np.testing.assert_allclose(page["bound_with"](log_w, 4000), exact, atol=0.15)


# Pixels


def test_pixels_are_drawn_by_their_grey_value(page):
    x = np.tile(np.float32([0, 0.25, 0.75, 1]), (20_000, 1))
    for pixels in (np.array(page["binarise"](x)), page["draw_pixels"](x, seed=0)):
        assert set(np.unique(pixels)) == {0, 1} and pixels.dtype == np.float32
        np.testing.assert_allclose(pixels.mean(axis=0), x[0], atol=0.02)
        assert pixels[:, 0].max() == 0 and pixels[:, 3].min() == 1
    first, second = page["binarise"](x), page["binarise"](x)
    assert np.abs(first - second).max() == 1  # dynamic: another draw at each call
    again = [page["draw_pixels"](x, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(again[0], again[1])
    assert np.abs(again[0] - again[2]).max() == 1


def test_validation_and_test_pixels_come_from_their_images():
    given = {"x_valid": np.tile(np.float32([0, 1]), (50, 1)), "x_test": np.full((50, 2), 0.5)}
    page = definitions(PATH, "valid_pixels", "test_pixels", **given)
    np.testing.assert_array_equal(page["valid_pixels"], given["x_valid"])
    assert 0.3 < page["test_pixels"].mean() < 0.7


# The model


def test_each_code_of_an_image_is_drawn_from_its_cloud():
    found, _ = build("digits", k=400)
    x = (np.random.default_rng(0).random((3, 28, 28, 1)) < 0.2).astype("float32")
    inner = keras.Model(found["image"], found["weigher"].get_layer("sample").output)
    z = np.array(inner(x))
    mean, log_var = (np.array(v) for v in found["encoder"](x.reshape(3, 784)))
    assert z.shape == (3, 400, 40)
    np.testing.assert_allclose(z.mean(axis=1), mean, atol=0.3)
    np.testing.assert_allclose(z.std(axis=1), np.exp(log_var / 2), rtol=0.25)


def test_the_output_is_the_bound_of_the_saved_network(dataset, datasets):
    """With five codes, on all test pixels, against NumPy and SciPy."""
    found, facts = build(dataset)
    x_test = datasets[dataset][1][0]
    x = (np.random.default_rng(2).random(x_test.shape) < x_test).astype("float32")[:1500]
    flat = x.reshape(len(x), 784)
    mean, log_var = (v.astype(float) for v in found["encoder"].predict(flat, verbose=0))
    random, log_w = np.random.default_rng(9), []
    for _ in range(5):
        epsilon = random.normal(size=mean.shape)
        z = mean + np.exp(log_var / 2) * epsilon
        logits = found["decoder"].predict(z[:, None].astype("float32"), verbose=0)[:, 0]
        log_p = (flat * logits - np.logaddexp(0, logits)).sum(axis=1)
        log_w.append(log_p + ((epsilon**2 + log_var - z**2) / 2).sum(axis=1))
    expected = np.log(5) - LOG_SUM(log_w, axis=0)
    output = found["iwae"].predict(x, verbose=0)["bound"]
    assert output.mean() == pytest.approx(expected.mean(), abs=0.5)
    assert np.corrcoef(output, expected)[0, 1] > 0.95  # other codes were drawn
    margin = 4 * expected.std() / np.sqrt(len(x))
    assert facts["held_out"]["loss"] == pytest.approx(expected.mean(), abs=margin)


def test_more_codes_give_a_better_bound(dataset, datasets, page):
    found, _ = build(dataset, k=60)
    x = (datasets[dataset][1][0][:100] > 0.5).astype("float32")
    log_w = found["weigher"].predict(x, verbose=0)
    assert log_w.shape == (100, 60)
    bounds = [page["bound_with"](log_w, k).mean() for k in (1, 5, 20, 60)]
    assert bounds == sorted(bounds) and bounds[-1] > bounds[0] + 1


# The rival and the tables


def test_the_mixture_is_a_mixture_of_independent_pixels(page):
    random = np.random.default_rng(0)
    means, shares = random.uniform(0.1, 0.9, (3, 784)), np.array([0.5, 0.3, 0.2])
    x = random.integers(0, 2, (4, 28, 28, 1))
    log_p = [
        LOG_SUM([scipy.stats.bernoulli.logpmf(row, m).sum() + np.log(s) for m, s in pairs])
        for row, pairs in ((row.ravel(), list(zip(means, shares, strict=True))) for row in x)
    ]
    np.testing.assert_allclose(page["log_mixture"](x, means, shares), log_p)


def test_the_mixture_is_fitted_to_training_images_and_chosen_by_validation():
    from sklearn.cluster import MiniBatchKMeans

    random = np.random.default_rng(0)
    kinds = random.random((10, 784)) < 0.3
    x_train = kinds[random.integers(10, size=900)].reshape(-1, 28, 28, 1).astype("float32")
    scope = {"x_train": x_train, "seed": 0, "MiniBatchKMeans": MiniBatchKMeans}
    fit = definitions(PATH, "fit_mixture", **scope)["fit_mixture"]
    means, shares = fit(10)
    assert shares.sum() == pytest.approx(1) and means.shape == (len(shares), 784)
    np.testing.assert_allclose(shares @ means, x_train.reshape(-1, 784).mean(axis=0), atol=1e-5)
    chosen = re.search(r"(\{1: [^}]*\}) → chosen: (\d+)", stored_text(PATH)).groups()
    cost = eval(chosen[0])
    assert min(cost, key=cost.get) == int(chosen[1])


def test_standard_errors_have_their_root():
    with_error = definitions(PATH, "with_error")["with_error"]
    values = np.array([80.0, 100.0] * 200)
    assert with_error(values) == f"90.0 ± {values.std(ddof=1) / 20:.1f}" == "90.0 ± 0.5"


def rows():
    (table,) = stored_tables(PATH)
    return {
        name: [float(v) for v in row["−ln p(x) is at most (nats)"].split(" ± ")]
        for name, row in table.items()
    }


def test_the_table_is_true(datasets, page):
    """Other draws of pixels and codes, 100 codes and a tenth of the images."""
    of(datasets, "mnist")
    found, _ = build("mnist", k=100)
    x_test = datasets["mnist"][1][0][5::50]
    x = (np.random.default_rng(33).random(x_test.shape) < x_test).astype("float32")
    log_w = found["weigher"].predict(x, batch_size=20, verbose=0)
    table = rows()
    for name, k in {"1 code (ELBO)": 1, "5 codes": 5, "500 codes": 100}.items():
        nats = -page["bound_with"](log_w, k)
        mean, error = table[f"our network, {name}"]
        own = nats.std() / np.sqrt(len(nats))
        less = 1.2 if k == 100 else 0  # 500 codes reach further
        assert mean == pytest.approx(nats.mean() - less / 2, abs=4 * own + less), name
        assert error == pytest.approx(nats.std() / np.sqrt(1000), rel=0.15, abs=0.06)
    x_train = datasets["mnist"][0][0][:55_000].reshape(-1, 784)
    p = x_train.mean(axis=0).clip(1e-3, 1 - 1e-3)
    flat = x.reshape(len(x), 784)
    alone = -(flat @ np.log(p) + (1 - flat) @ np.log(1 - p))
    margin = 4 * alone.std() / np.sqrt(len(x))
    assert table["one mean image"][0] == pytest.approx(alone.mean(), abs=margin)
    order = [mean for mean, _ in table.values()]
    assert order == sorted(order, reverse=True)  # as the rows stand, each is better


def test_the_picture_shows_the_bounds():
    log_w = np.random.default_rng(0).normal(-90, 3, (20, 500))
    bound_with = definitions(PATH, "bound_with", logsumexp=LOG_SUM)["bound_with"]
    scope = figures() | {"log_w": log_w, "bound_with": bound_with}
    run_cell(PATH, "From {nats[0]", scope)
    line = list(scope["axis"].lines[0].get_ydata())
    assert line[0] == pytest.approx(-log_w.mean()) and line == sorted(line, reverse=True)
    said = f"From {line[0]:.1f} nats with one code to {line[-1]:.1f} with 500"
    assert said in scope["plots"].calls[0][1][0]
