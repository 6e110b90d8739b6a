"""06_variational: its loss and its bound against SciPy, its stored tables against NumPy."""

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
    read_notebook,
    run_cell,
    stored_tables,
    stored_text,
)

from ae_keras import metrics, modelfile

PATH = ROOT / "notebooks" / "06_variational.ipynb"
NORMAL = scipy.stats.norm


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "kl", "reconstruction", "sample", "elbo", "as_it_is")


@pytest.fixture(scope="module")
def tables():
    return stored_tables(PATH)


def printed():
    return stored_text(PATH)


def cloud(mean, sigma):
    """Means and log-variances of clouds, as the page's functions take them."""
    mean, sigma = np.broadcast_arrays(np.float32(mean), np.float32(sigma))
    return [np.array(mean), 2 * np.log(sigma)]


def build(dataset):
    """Build the page's model, and give it the weights and the facts of its file."""
    found = definitions(PATH, "vae", dataset=dataset)
    path = ROOT / "saved_models" / dataset / "06_variational.h5"
    saved = modelfile.read(path)
    modelfile.set_weights(found["vae"], saved, path)
    return found["vae"], found["encoder"], found["decoder"], saved.facts


# The small world of one pixel and two codes


def test_the_bound_of_the_small_world_never_exceeds_the_logarithm(page):
    for a in np.linspace(0.01, 0.99, 50):
        gap = np.log(0.6) - page["elbo"](np.array([a, 1 - a]))
        expected = scipy.special.rel_entr([a, 1 - a], [0.75, 0.25]).sum()
        assert gap == pytest.approx(expected, abs=1e-12) and gap >= 0


def test_the_small_world_is_printed_as_it_is(tables):
    text = printed()
    for guess, value in {"0.50, 0.50": -0.655, "0.75, 0.25": -0.511}.items():
        assert float(re.search(rf"guess {guess}: (\S+)", text)[1]) == value
    assert re.search(r"ln p\(x\): +-0\.511", text)
    white, prior = np.array([0.9, 0.3]), np.array([0.5, 0.5])
    small = tables[0]
    assert len(small) == 3
    for label, row in small.items():
        q = np.array([float(v) for v in re.findall(r"[\d.]+", label)])
        assert q.sum() == pytest.approx(1)
        copy, price = -(q * np.log(white)).sum(), scipy.special.rel_entr(q, prior).sum()
        assert [float(v) for v in row.values()] == pytest.approx(
            [copy, price, copy + price], abs=6e-4
        )
    best = min(small, key=lambda label: float(small[label]["−ELBO (nats)"]))
    assert best == "guess 0.75, 0.25"


def test_the_areas_of_the_small_world_are_its_probabilities():
    scope = figures()
    run_cell(PATH, "All four things", scope)
    areas = {"white": [], "black": []}
    for patch in scope["axis"].patches:
        x, y = patch.get_xy()[:4].T
        color = "black" if patch.get_facecolor()[:3] == (0, 0, 0) else "white"
        areas[color].append(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
    assert sorted(areas["white"]) == pytest.approx([0.15, 0.45])
    assert sorted(areas["black"]) == pytest.approx([0.05, 0.35])
    texts = [text.get_text() for text in scope["axis"].texts]
    assert {"A, white\n0.45", "A,\nblack\n0.05", "B, white\n0.15", "B,\nblack\n0.35"} <= set(texts)
    assert "0.45 + 0.15" in scope["plots"].calls[0][1][0]


# The loss


def test_kl_is_the_closed_form_between_normal_distributions(page):
    random = np.random.default_rng(0)
    mean, sigma = random.normal(size=(50, 7)), random.uniform(0.1, 3, (50, 7))
    # the general formula for two normal distributions with full covariances, an image at a time
    expected = [
        (np.trace(np.diag(s**2)) + m @ m - 7 - np.linalg.slogdet(np.diag(s**2))[1]) / 2
        for m, s in zip(mean, sigma, strict=True)
    ]
    np.testing.assert_allclose(page["kl"](cloud(mean, sigma)), expected, rtol=1e-4)


def test_kl_is_the_mean_log_ratio_of_densities(page):
    """Fails if log σ² is taken for log σ, or the axes are averaged."""
    mean, sigma = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 1.7])
    z = np.random.default_rng(0).normal(mean, sigma, (400_000, 3))
    ratio = (NORMAL.logpdf(z, mean, sigma) - NORMAL.logpdf(z)).sum(axis=1)
    error = ratio.std() / np.sqrt(len(z))
    found = float(page["kl"](cloud(mean[None], sigma[None]))[0])
    assert found == pytest.approx(ratio.mean(), abs=5 * error)
    for mistaken in (np.sqrt(sigma), sigma**2):
        assert abs(float(page["kl"](cloud(mean[None], mistaken[None]))[0]) - ratio.mean()) > 0.1
    assert abs(found / 3 - ratio.mean()) > 50 * error


def test_kl_is_zero_for_the_prior_alone_and_one_number_an_image(page):
    np.testing.assert_allclose(page["kl"](cloud(np.zeros((4, 5)), 1)), np.zeros(4), atol=1e-6)
    assert np.all(np.array(page["kl"](cloud(np.full((4, 5), 0.1), 1))) > 0)
    assert np.all(np.array(page["kl"](cloud(np.zeros((4, 5)), 0.9))) > 0)


def test_reconstruction_is_summed_over_pixels(page):
    x, x_hat = np.random.default_rng(0).random((2, 6, 28, 28, 1), dtype=np.float32)
    expected = [784 * metrics.bce(x[n : n + 1], x_hat[n : n + 1]) for n in range(6)]
    np.testing.assert_allclose(page["reconstruction"](x, x_hat), expected, rtol=1e-4)
    assert page["as_it_is"](0, 7.5) == 7.5


def test_the_test_of_the_loss_shows_the_mistake(tables):
    rows = tables[1]
    assert len(rows) == 4
    for label, row in rows.items():
        mean, log_var = (
            np.array([float(v) for v in re.findall(r"-?[\d.]+", part)])
            for part in label.split("], log-variance")
        )
        kl = (mean**2 + np.exp(log_var) - 1 - log_var).sum() / 2
        slip = (mean**2 + np.exp(log_var / 2) - 1 - log_var / 2).sum() / 2
        assert float(row["kl"]) == pytest.approx(kl, abs=6e-3), label
        assert float(row["kl with ln σ"]) == pytest.approx(slip, abs=6e-3), label
        assert float(row["a million draws"]) == pytest.approx(kl, abs=0.03), label
    assert sum(row["kl"] != row["kl with ln σ"] for row in rows.values()) == 2


# The draw


def test_draws_have_the_mean_and_the_variance_that_were_asked_for(page):
    mean, log_var = np.float32([1.5, -2.0]), np.float32([np.log(4.0), np.log(0.25)])
    draws = np.array(page["sample"]([np.tile(mean, (200_000, 1)), np.tile(log_var, (200_000, 1))]))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(draws.std(axis=0), [2.0, 0.5], rtol=0.02)  # σ, not σ²
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.02
    for line, wanted in {"mean ": [0.5, 2], "log-variance": [-4, -1]}.items():
        found = re.search(rf"{line} *\[([^]]*)\]", printed())[1].split()
        np.testing.assert_allclose([float(v) for v in found], wanted, atol=0.04)


def test_two_draws_differ_unless_the_cloud_is_a_point(page):
    mean = np.ones((3, 4), dtype="float32")
    sample = page["sample"]
    assert np.abs(sample([mean, 0 * mean]) - sample([mean, 0 * mean])).min() > 0
    point = [mean, np.full_like(mean, -60)]
    np.testing.assert_allclose(sample(point), sample(point), atol=1e-6)


def test_the_squeezed_draws_are_those_of_the_trick():
    scope = figures()
    run_cell(PATH, "The same six draws", scope)
    ((_, _, _),) = [c for c in scope["plots"].calls if c[0] == "chart"]
    start, end = (line.get_xdata() for line in scope["axis"].lines)
    np.testing.assert_allclose(end, 2 + 0.5 * start)


# The model


def test_saved_model_can_be_opened_by_keras_alone():
    """The functions are registered, so that their names are enough."""
    vae, _, _, _ = build("digits")
    opened = keras.models.load_model(
        ROOT / "saved_models" / "digits" / "06_variational.h5", compile=False
    )
    x = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    np.testing.assert_allclose(opened(x)["kl"], vae(x)["kl"], atol=1e-5)


def test_gradients_reach_both_heads_and_the_whole_decoder(page):
    import tensorflow as tf

    vae, encoder, decoder, _ = build("digits")
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    for part in ("both", "reconstruction"):  # without KL, too: that is what the trick is for
        with tf.GradientTape() as tape:
            out = vae(x)
            loss = tf.reduce_mean(page["reconstruction"](x, out["reconstruction"]))
            loss += tf.reduce_mean(out["kl"]) if part == "both" else 0
        variables = [*encoder.trainable_variables, *decoder.trainable_variables]
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def test_the_outputs_are_a_decoded_draw_and_the_kl_of_the_cloud():
    vae, encoder, decoder, _ = build("digits")
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    mean, log_var = map(np.array, encoder(x))
    out, again = vae(x), vae(x)
    expected = (mean**2 + np.exp(log_var) - 1 - log_var).sum(axis=1) / 2
    np.testing.assert_allclose(out["kl"], expected, rtol=1e-4)
    assert np.abs(out["reconstruction"] - again["reconstruction"]).max() > 0  # another draw
    assert mean.shape == log_var.shape == (5, 2)
    keras.utils.set_random_seed(4)
    drawn = np.array(vae(x)["reconstruction"])
    keras.utils.set_random_seed(4)
    z = mean + np.exp(log_var / 2) * np.array(keras.random.normal(mean.shape))
    np.testing.assert_allclose(drawn, decoder(z), atol=1e-5)


def test_saved_metrics_are_those_of_an_independent_computation(dataset, datasets):
    """−ELBO's parts of each test image, without Keras's losses and sampling."""
    _, (x_test, _), _ = datasets[dataset]
    _, encoder, decoder, facts = build(dataset)
    mean, log_var = (v.astype(float) for v in encoder.predict(x_test, batch_size=1000, verbose=0))
    random, copies = np.random.default_rng(1), []
    for _ in range(2):
        z = mean + np.exp(log_var / 2) * random.normal(size=mean.shape)
        p = decoder.predict(z, batch_size=1000, verbose=0).astype(float).clip(1e-7, 1 - 1e-7)
        nats = -x_test * np.log(p) - (1 - x_test) * np.log1p(-p)
        copies.append(nats.sum(axis=(1, 2, 3)))
    kl = ((mean**2 + np.exp(log_var) - log_var - 1) / 2).sum(axis=1)
    chance = 4 * np.std(copies[0] - copies[1]) / np.sqrt(len(kl))  # a draw an image on either side
    held_out = facts["held_out"]
    assert held_out["kl_loss"] == pytest.approx(kl.mean(), rel=1e-4)
    assert held_out["reconstruction_loss"] == pytest.approx(copies[0].mean(), abs=chance)
    assert held_out["loss"] == pytest.approx((copies[0] + kl).mean(), abs=chance)
    if dataset == "mnist":
        assert np.mean(copies) + kl.mean() <= 135


# The bound, on a grid


def test_the_grid_integrates_an_image_that_depends_on_the_code():
    """A decoder that makes pixel 0 white if z₁ > 0: ln p(x) is that of a coin, and 783 others."""

    class Decoder:
        def predict(self, z, **_):
            pixels = np.full((len(z), 784), 0.25)
            pixels[:, 0] = np.where(z[:, 0] > 0, 0.9, 0.3)
            return pixels.reshape(-1, 28, 28, 1)

    names = ("log_joint", "square_grid")
    page = definitions(PATH, *names, decoder=Decoder(), norm=NORMAL)
    codes, area = page["square_grid"](0, 10, 200)
    assert codes.shape == (40_000, 2) and area == pytest.approx(0.05**2)
    assert codes.min() == pytest.approx(-4.975) and codes.max() == pytest.approx(4.975)
    x = np.zeros((2, 28, 28, 1))
    x[0, 0, 0] = 1  # pixel 0 is white
    found = scipy.special.logsumexp(page["log_joint"](x, codes), axis=1) + np.log(area)
    expected = np.log([0.6, 0.4]) + 783 * np.log(0.75)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    moved, _ = page["square_grid"](np.array([1.0, -2.0]), 2, 10)
    np.testing.assert_allclose(moved.mean(axis=0), [1, -2], atol=1e-9)


def test_the_bound_that_is_printed_holds():
    text = printed()
    truth = float(re.search(r"−ln p\(x\) by the grid: (\S+) nats", text)[1])
    bound = float(re.search(r"−ELBO: +(\S+) nats", text)[1])
    above = int(re.search(r"−ELBO is larger for (\d+) of 100", text)[1])
    assert truth < bound < truth + 10 and above >= 95


def test_cells_are_equally_probable_under_the_prior():
    share = definitions(PATH, "share_of_cells", norm=NORMAL)["share_of_cells"]
    z = np.random.default_rng(0).normal(size=(400_000, 2))
    shares = share(z)
    assert shares.shape == (10, 10) and shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares, 0.01, atol=0.001)
    corner = share(np.array([[9.0, -9.0], [0.1, 9.0]]))  # right and below, middle and above
    assert corner[0, 9] == corner[9, 5] == 0.5


# The figures


def test_the_map_shows_each_code_at_its_place():
    """The decoder draws its code: grey z₁ in the left half, grey z₂ in the right one."""

    class Decoder:
        def predict(self, z, **_):
            images = np.zeros((len(z), 28, 28, 1))
            images[:, :, :14] = NORMAL.cdf(z[:, 0]).reshape(-1, 1, 1, 1)
            images[:, :, 14:] = NORMAL.cdf(z[:, 1]).reshape(-1, 1, 1, 1)
            return images

    scope = figures() | {"decoder": Decoder()}
    run_cell(PATH, "400 codes decoded", scope)
    (image,) = scope["axis"].images
    tiles = np.asarray(image.get_array()).reshape(20, 28, 20, 28)
    wanted = (np.arange(20) + 0.5) / 20  # equal steps of probability
    np.testing.assert_allclose(tiles[:, 5, :, 5], np.tile(wanted, (20, 1)), atol=0.06)
    np.testing.assert_allclose(tiles[:, 5, :, 20], np.tile(wanted[::-1], (20, 1)).T, atol=0.06)
    labels = [float(t.get_text()) for t in scope["axis"].get_yticklabels()]
    assert labels == sorted(labels, reverse=True)


def test_the_ellipses_are_the_clouds_at_two_deviations():
    random = np.random.default_rng(0)
    means, sigmas = random.normal(size=(500, 2)), random.uniform(0.1, 0.5, (500, 2))
    digits = random.permutation(np.arange(500) % 10)
    scope = figures() | {"means": means, "sigmas": sigmas, "y_valid": digits}
    run_cell(PATH, "for mean, sigma, digit in zip", scope)
    patches = scope["axis"].patches
    assert len(patches) == 300
    for patch, mean, sigma, digit in zip(patches, means, sigmas, digits, strict=False):
        np.testing.assert_allclose(patch.center, mean)
        np.testing.assert_allclose([patch.width, patch.height], 4 * sigma)
        from matplotlib.colors import to_rgb

        assert to_rgb(patch.get_facecolor()[:3]) == pytest.approx(to_rgb(f"C{digit}"))
    for text in scope["axis"].texts:
        middle = np.median(means[digits == int(text.get_text())], axis=0)
        np.testing.assert_allclose(text.get_position(), middle)


def test_the_five_points_are_named_as_they_were_decoded():
    source = next(c.source for c in read_notebook(PATH).cells if "steps_in_sigma =" in c.source)
    names = re.findall(
        r'"([^"]+)"',
        next(c.source for c in read_notebook(PATH).cells if 'names = ["input"' in c.source),
    )[:6]
    points = eval(re.search(r"steps_in_sigma = (np\.array\(.*\))", source)[1])
    wanted = {"mean": (0, 0), "z₁ − 2σ": (-2, 0), "z₁ + 2σ": (2, 0), "z₂ − 2σ": (0, -2)}
    wanted |= {"z₂ + 2σ": (0, 2)}
    assert names[0] == "input"
    assert [wanted[name] for name in names[1:]] == [tuple(point) for point in points]


# The table at the end


def test_the_last_table_is_true(tables, mnist):
    x, _, x_test = (part.reshape(len(part), -1).astype(float) for part in mnist)
    rows = tables[-1]
    bce = lambda x, p: -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1).mean()  # noqa: E731
    mean = x.mean(axis=0)
    row = rows["mean image, no code"]
    cost = bce(x_test, mean.clip(1e-7, 1 - 1e-7))
    assert float(row["reconstruction"]) == float(row["−ELBO"]) == pytest.approx(cost, abs=0.06)
    assert float(row["MSE"]) == pytest.approx(np.mean((x_test - mean) ** 2), abs=6e-5)
    copy = rows["perfect copy"]
    cost = bce(x_test, x_test.clip(1e-7, 1 - 1e-7))
    assert float(copy["reconstruction"]) == pytest.approx(cost, abs=0.06)
    assert float(copy["MSE"]) == 0
    vectors = np.linalg.eigh(np.cov(x.T))[1][:, -2:]
    by_pca = np.clip(mean + (x_test - mean) @ vectors @ vectors.T, 0, 1)
    found = float(rows["PCA, 2 numbers"]["MSE"])
    assert found == pytest.approx(np.mean((x_test - by_pca) ** 2), abs=6e-5)


def test_the_row_of_the_network_is_that_of_its_file(tables, mnist):
    _, encoder, decoder, facts = build("mnist")
    x_test = mnist[2]
    x_hat = decoder.predict(encoder.predict(x_test, batch_size=1000, verbose=0)[0], verbose=0)
    found = facts["held_out"]
    row = {
        k: [float(v) for v in re.findall(r"[\d.]+", c)]
        for k, c in tables[-1]["VAE, 2 numbers"].items()
    }
    wanted = {
        "reconstruction": found["reconstruction_loss"],
        "KL": found["kl_loss"],
        "−ELBO": found["loss"],
        "MSE": np.mean((x_test - x_hat) ** 2, dtype=float),
    }
    for column, value in wanted.items():
        mean, *deviation = row[column]
        margin = 2.5 * deviation[0] if deviation else 0.06 if value > 1 else 6e-5
        assert mean == pytest.approx(value, abs=margin), column
    parts = row["reconstruction"][0] + row["KL"][0]
    assert row["−ELBO"][0] == pytest.approx(parts, abs=0.11)
