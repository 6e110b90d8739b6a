"""The variational autoencoders of 06, 06b, 06c, 06d and 06e, against independent computations."""

import keras
import numpy as np
import pytest
import scipy.stats
from helpers import ROOT, definitions

from ae_keras import metrics, modelfile

PAGES = {path.stem: path for path in sorted((ROOT / "notebooks").glob("06[!f]*.ipynb"))}
every_page = pytest.mark.parametrize("page", PAGES)


def load(model, dataset, name):
    """Give a model the weights that were saved, and return what the file says."""
    path = ROOT / "saved_models" / dataset / f"{name}.h5"
    saved = modelfile.read(path)
    modelfile.set_weights(model, saved, path)
    return saved.facts


def clouds(mean, sigma):
    """Put means and standard deviations as the loss takes them: μ beside log σ²."""
    mean, sigma = np.broadcast_arrays(np.float32(mean), np.float32(sigma))
    return np.concatenate([mean, 2 * np.log(sigma)], axis=-1)


# The loss


@every_page
def test_kl_is_the_closed_form_between_normal_distributions(page):
    kl = definitions(PAGES[page], "kl")["kl"]
    generator = np.random.default_rng(0)
    mean, sigma = generator.normal(size=(50, 7)), generator.uniform(0.1, 3, (50, 7))
    # the general formula for two Gaussians with full covariances, an image at a time
    expected = [
        (np.trace(np.diag(s**2)) + m @ m - 7 - np.linalg.slogdet(np.diag(s**2))[1]) / 2
        for m, s in zip(mean, sigma, strict=True)
    ]
    np.testing.assert_allclose(kl(None, clouds(mean, sigma)), expected, rtol=1e-4)


@every_page
def test_kl_is_the_mean_log_ratio_of_densities(page):
    """Fails if the network's log σ² is taken for log σ, or the axes are averaged."""
    kl = definitions(PAGES[page], "kl")["kl"]
    mean, sigma = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 1.7])
    z = np.random.default_rng(0).normal(mean, sigma, (400_000, 3))
    ratio = scipy.stats.norm.logpdf(z, mean, sigma) - scipy.stats.norm.logpdf(z)
    measured = ratio.sum(axis=1)
    error = measured.std() / np.sqrt(len(z))
    found = float(kl(None, clouds(mean, sigma)[None])[0])
    assert found == pytest.approx(measured.mean(), abs=5 * error)
    for mistaken in (np.sqrt(sigma), sigma**2):
        assert abs(float(kl(None, clouds(mean, mistaken)[None])[0]) - measured.mean()) > 50 * error
    assert abs(found / 3 - measured.mean()) > 50 * error


@every_page
def test_kl_is_zero_for_the_prior_alone_and_one_number_an_image(page):
    kl = definitions(PAGES[page], "kl")["kl"]
    np.testing.assert_allclose(kl(None, clouds(np.zeros((4, 5)), 1)), np.zeros(4), atol=1e-6)
    assert np.all(np.array(kl(None, clouds(np.full((4, 5), 0.1), 1))) > 0)
    assert np.all(np.array(kl(None, clouds(np.zeros((4, 5)), 0.9))) > 0)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "06e_likelihood"])
def test_reconstruction_is_summed_over_pixels(page):
    reconstruction = definitions(PAGES[page], "reconstruction")["reconstruction"]
    generator = np.random.default_rng(0)
    x, x_hat = generator.random((2, 6, 28, 28, 1), dtype=np.float32)
    expected = [784 * metrics.bce(x[n : n + 1], x_hat[n : n + 1]) for n in range(6)]
    np.testing.assert_allclose(reconstruction(x, x_hat), expected, rtol=1e-4)


def test_reconstruction_of_black_and_white_is_a_log_probability():
    reconstruction = definitions(PAGES["06e_likelihood"], "reconstruction")["reconstruction"]
    generator = np.random.default_rng(0)
    x = generator.integers(0, 2, (6, 784)).astype("float32")
    logits = generator.normal(0, 5, (6, 784)).astype("float32")
    logits[0, :2] = -100, 100  # a probability would be 0 or 1 in float32
    log_p = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits.astype(float)))
    found = np.array(reconstruction(None, np.concatenate([x, logits], axis=1)))
    np.testing.assert_allclose(found[1:], -log_p[1:].sum(axis=1), rtol=1e-5)
    assert np.isfinite(found[0])


# The draw


@every_page
def test_draws_have_the_mean_and_the_variance_that_were_asked_for(page):
    sample = definitions(PAGES[page], "sample")["sample"]
    mean, log_var = np.float32([1.5, -2.0]), np.float32([np.log(4.0), np.log(0.25)])
    draws = np.array(sample([np.tile(mean, (200_000, 1)), np.tile(log_var, (200_000, 1))]))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(draws.std(axis=0), [2.0, 0.5], rtol=0.02)  # σ, not σ²
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.02


@every_page
def test_two_draws_differ_unless_the_cloud_is_a_point(page):
    sample = definitions(PAGES[page], "sample")["sample"]
    mean = np.ones((3, 4), dtype="float32")
    assert np.abs(sample([mean, 0 * mean]) - sample([mean, 0 * mean])).min() > 0
    point = [mean, np.full_like(mean, -60)]
    np.testing.assert_allclose(sample(point), sample(point), atol=1e-6)


def test_saved_model_can_be_opened_by_keras_alone(tmp_path):
    """The sampling function is registered, so that its name is enough."""
    vae = definitions(PAGES["06_variational"], "vae", dataset="digits")["vae"]
    path = ROOT / "saved_models" / "digits" / "06_variational.h5"
    opened = keras.models.load_model(path, compile=False)
    load(vae, "digits", "06_variational")
    x = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    np.testing.assert_allclose(opened(x)["kl"], vae(x)["kl"], atol=1e-5)


# The models


def models(page, dataset):
    """Build a page's model as one, and its two parts."""
    if page == "06c_twenty_axes":
        found = definitions(PAGES[page], "build_encoder", "build_decoder", "join")
        encoder, decoder = found["build_encoder"](), found["build_decoder"]()
        return found["join"](encoder, decoder), encoder, decoder
    name = "cvae" if page == "06d_conditional" else "vae"
    found = definitions(PAGES[page], name, dataset=dataset)
    return found[name], found["encoder"], found["decoder"]


def inputs(page, x, y):
    return [x, np.eye(10, dtype="float32")[y]] if page == "06d_conditional" else x


@every_page
def test_gradients_reach_both_heads_and_the_whole_decoder(page):
    import tensorflow as tf

    model, encoder, decoder = models(page, "digits")
    losses = definitions(PAGES[page], "reconstruction", "kl")
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    for part in ("both", "reconstruction"):  # without KL, too: that is what the trick is for
        with tf.GradientTape() as tape:
            out = model(inputs(page, x, np.arange(8)))
            loss = tf.reduce_mean(losses["reconstruction"](x, out["reconstruction"]))
            if part == "both":
                loss += tf.reduce_mean(losses["kl"](None, out["kl"]))
        variables = [*encoder.trainable_variables, *decoder.trainable_variables]
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            assert gradient is not None and np.abs(gradient).max() > 0, variable.path


@every_page
def test_the_two_outputs_are_the_image_and_the_cloud(page):
    model, encoder, _ = models(page, "digits")
    x = np.random.default_rng(0).integers(0, 2, (5, 28, 28, 1)).astype("float32")
    given = inputs(page, x, np.arange(5))
    out = model(given)
    mean, log_var = encoder(x.reshape(5, 784) if page == "06e_likelihood" else given)
    np.testing.assert_allclose(out["kl"], np.concatenate([mean, log_var], axis=1), atol=1e-6)
    again = model(given)
    assert np.abs(out["reconstruction"] - again["reconstruction"]).max() > 0  # another draw
    assert mean.shape[1] == {"06c": 20, "06e": 40}.get(page[:3], 2)


def numpy_parts(page, dataset, x, y):
    """−ELBO's two parts of each image, without Keras's losses or sampling; two draws of the first.

    Returns:
        What the file says, reconstruction of shape (2, n), and KL of shape (n,), in nats.
    """
    model, encoder, decoder = models(page, dataset)
    facts = load(model, dataset, page)
    x_in = x.reshape(-1, 784) if page == "06e_likelihood" else inputs(page, x, y)
    mean, log_var = (v.astype(float) for v in encoder.predict(x_in, batch_size=1000, verbose=0))
    generator, reconstruction = np.random.default_rng(1), []
    for _ in range(2):
        z = mean + np.exp(log_var / 2) * generator.normal(size=mean.shape)
        z_in = [z, inputs(page, x, y)[1]] if page == "06d_conditional" else z
        decoded = decoder.predict(z_in, batch_size=1000, verbose=0).astype(float)
        p = scipy.special.expit(decoded) if page == "06e_likelihood" else decoded
        p = np.clip(p, 1e-7, 1 - 1e-7).reshape(x.shape)
        nats = -x * np.log(p) - (1 - x) * np.log1p(-p)
        reconstruction.append(nats.sum(axis=(1, 2, 3)))
    kl = (mean**2 + np.exp(log_var) - log_var - 1) / 2
    return facts["held_out"], np.array(reconstruction), kl.sum(axis=1)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "06b_random_draws"])
def test_saved_figures_are_those_of_an_independent_computation(page, dataset, datasets):
    _, (x_test, y_test), _ = datasets[dataset]
    if page == "06e_likelihood":
        x_test = (np.random.default_rng(1).random(x_test.shape) < x_test).astype("float32")
    held_out, (first, second), kl = numpy_parts(page, dataset, x_test, y_test)
    chance = 4 * np.std(first - second) / np.sqrt(len(first))  # one draw an image on either side
    assert held_out["kl_loss"] == pytest.approx(kl.mean(), rel=1e-4)
    assert held_out["reconstruction_loss"] == pytest.approx(first.mean(), abs=chance)
    assert held_out["loss"] == pytest.approx((first + kl).mean(), abs=chance)
    if dataset == "mnist":
        claimed = {"06_variational": 137, "06c_twenty_axes": 100.5}
        assert (first + second).mean() / 2 + kl.mean() <= claimed.get(page, np.inf)


# Collapse and β


def test_collapsed_model_ignores_its_input_and_the_cure_does_not(dataset, datasets):
    x = datasets[dataset][1][0][:500]
    active = {}
    for name in ("", "-beta-low", "-beta-high", "-collapsed"):
        model, encoder, decoder = models("06c_twenty_axes", dataset)
        facts = load(model, dataset, "06c_twenty_axes" + name)
        mean = encoder.predict(x, verbose=0)[0]
        active[name] = int(np.sum(mean.var(axis=0) > 0.01))
        drawn = decoder.predict(mean, verbose=0)
        if name == "-collapsed":
            assert facts["held_out"]["kl_loss"] < 0.05
            assert np.abs(drawn - drawn.mean(axis=0)).max() < 0.05
    assert active["-collapsed"] == 0
    assert active["-beta-low"] >= active[""] > active["-beta-high"] > 0


# Conditional


def test_label_reaches_encoder_and_decoder():
    model, encoder, decoder = models("06d_conditional", "digits")
    load(model, "digits", "06d_conditional")
    one = np.eye(10, dtype="float32")
    z = np.zeros((10, 2), dtype="float32")
    drawn = decoder([z, one]).numpy().reshape(10, -1)
    assert min(np.abs(drawn[a] - drawn[b]).max() for a in range(10) for b in range(a)) > 0.1
    x = np.zeros((10, 28, 28, 1), dtype="float32")
    assert np.ptp(np.array(encoder([x, one])[0]), axis=0).min() > 0


# Likelihood


def test_bound_is_exact_where_the_integral_can_be_done():
    """One axis, a decoder of one line: ∫ p(x|z) p(z) dz on a fine grid."""
    generator = np.random.default_rng(0)
    slope, shift = generator.normal(0, (0.1, 1), (784, 2)).astype("float32").T
    chances = scipy.special.expit(2 * slope + shift)  # of codes far from 0, where p(z) matters
    x = (generator.random((6, 784)) < chances).astype("float32")

    class Encoder:  # only roughly right: the importance weights put it right
        def predict(self, x, **_):
            return np.full((len(x), 1), 1.5, "float32"), np.full((len(x), 1), 0.4, "float32")

    page = definitions(
        PAGES["06e_likelihood"],
        *("log_weights", "bound"),
        encoder=Encoder(),
        decoder=lambda z: z * slope + shift,
        latent_dim=1,
        logsumexp=scipy.special.logsumexp,
    )
    grid = np.linspace(-8, 8, 20_001)
    logits = grid[:, None] * slope.astype(float) + shift
    log_p = np.stack([np.sum(row * logits - np.logaddexp(0, logits), axis=1) for row in x])
    exact = scipy.special.logsumexp(
        log_p + scipy.stats.norm.logpdf(grid) + np.log(grid[1] - grid[0]), axis=1
    )
    weights = page["log_weights"](x, k=40_000, images_at_once=1)
    np.testing.assert_allclose(page["bound"](weights, 40_000), exact, atol=0.1)
    one, few, many = (page["bound"](weights, k).mean() for k in (1, 10, 40_000))
    assert one < few < many <= exact.mean() + 0.1


def test_binarise_draws_by_grey_value_and_leaves_black_and_white_alone():
    page = definitions(PAGES["06e_likelihood"], "binarise", "draw_pixels")
    x = np.tile(np.float32([0, 0.25, 0.75, 1]), (20_000, 1))
    for drawn in (np.array(page["binarise"](x)), page["draw_pixels"](x, seed=0)):
        assert set(np.unique(drawn)) == {0, 1} and drawn.dtype == np.float32
        np.testing.assert_allclose(drawn.mean(axis=0), x[0], atol=0.02)
        assert drawn[:, 0].max() == 0 and drawn[:, 3].min() == 1
    first, second = page["binarise"](x), page["binarise"](x)
    assert np.abs(first - second).max() == 1  # dynamic: another draw at each call
    np.testing.assert_array_equal(page["draw_pixels"](x, seed=0), page["draw_pixels"](x, seed=0))


def test_importance_weighted_bound_of_the_saved_model_is_below_its_elbo(dataset, datasets):
    _, (x_test, _), _ = datasets[dataset]
    x = np.asarray(x_test[:200] > 0.5, dtype="float32").reshape(-1, 784)
    page = definitions(
        PAGES["06e_likelihood"],
        *("vae", "log_weights", "bound"),
        dataset=dataset,
        logsumexp=scipy.special.logsumexp,
    )
    load(page["vae"], dataset, "06e_likelihood")
    weights = page["log_weights"](x, k=100)
    assert weights.shape == (100, 200)
    bounds = [page["bound"](weights, k).mean() for k in (1, 10, 100)]
    assert bounds == sorted(bounds)
    mean, log_var = page["encoder"].predict(x, verbose=0)
    z = mean + np.exp(log_var / 2) * np.random.default_rng(2).normal(size=mean.shape)
    p = scipy.special.expit(page["decoder"].predict(z, verbose=0).astype(float))
    log_p = scipy.stats.bernoulli.logpmf(x, p).sum(axis=1)
    normal = scipy.stats.norm
    log_w = log_p + normal.logpdf(z).sum(axis=1)
    log_w -= normal.logpdf(z, mean, np.exp(log_var / 2)).sum(axis=1)
    assert bounds[0] == pytest.approx(log_w.mean(), abs=1.5)
