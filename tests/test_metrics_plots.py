"""Metrics against other people's code, and figures by what they contain."""

import keras
import matplotlib.figure
import numpy as np
import pytest
import skimage.metrics

from ae_keras import metrics, plots
from ae_keras.errors import ArgumentError


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    return random.random((5, 28, 28, 1)).astype("float32"), random.random((5, 28, 28, 1))


def test_metrics_agree_with_keras_and_scikit_image(pair):
    x, x_hat = pair
    assert metrics.bce(x, x_hat) == pytest.approx(
        np.mean(keras.losses.binary_crossentropy(x, x_hat.astype("float32"))), rel=1e-5
    )
    assert metrics.mse(x, x_hat) == pytest.approx(np.mean((x - x_hat) ** 2))
    each = [skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x, x_hat)]  # noqa: B905
    assert metrics.psnr(x, x_hat) == pytest.approx(np.mean(each))


def test_ssim_agrees_with_scikit_image(pair):
    x, noise = pair[0], pair[1]
    x[0, :14] = 0  # flat windows, as around a digit
    for x_hat in (noise, np.clip(x + 0.2 * noise, 0, 1), 1 - x, x):
        each = [
            skimage.metrics.structural_similarity(a, b, data_range=1, channel_axis=2)
            for a, b in zip(x.astype("float64"), x_hat, strict=True)
        ]
        assert metrics.ssim(x, x_hat) == pytest.approx(np.mean(each), abs=1e-9)
        assert metrics.ssim(x[..., 0], x_hat[..., 0]) == metrics.ssim(x, x_hat)
    assert metrics.ssim(x, x) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(5, 784), (5, 6, 28), (5, 28, 28, 3)])
def test_ssim_refuses_what_is_no_grey_image(shape):
    with pytest.raises(ArgumentError, match="shape"):
        metrics.ssim(np.zeros(shape), np.zeros(shape))


def test_extremes():
    x = np.array([[0.0, 1.0, 0.5]])
    assert metrics.mse(x, x) == 0
    assert metrics.psnr(x, x) == np.inf
    assert metrics.bce(x, x) == pytest.approx(np.log(2) / 3, abs=1e-6)
    assert np.isfinite(metrics.bce(x, 1 - x))


@pytest.mark.parametrize("metric", [metrics.bce, metrics.mse, metrics.psnr, metrics.ssim])
def test_shapes_must_agree(metric):
    """NumPy would broadcast (n, 28, 28, 1) against (n, 28, 28) and average nonsense."""
    with pytest.raises(ArgumentError, match="shapes"):
        metric(np.zeros((3, 28, 28, 1)), np.zeros((3, 28, 28)))


@pytest.mark.parametrize("metric", [metrics.bce, metrics.psnr, metrics.ssim])
def test_images_of_bytes_are_refused(metric):
    bytes_ = np.random.default_rng(0).integers(0, 256, (3, 8, 8))
    with pytest.raises(ArgumentError, match="Scale images"):
        metric(bytes_, bytes_ / 255)


def test_image_rows_shows_every_image(pair):
    figure = plots.image_rows({"a": pair[0], "b": pair[1][..., 0]}, "Title 0.5")
    assert isinstance(figure, matplotlib.figure.Figure)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    np.testing.assert_array_equal(shown, np.concatenate(pair)[..., 0])
    assert all(axis.images[0].get_clim() == (0, 1) for axis in figure.axes)
    assert figure.get_suptitle() == "Title 0.5"


def test_image_grid_is_centred_at_zero_where_signed(pair):
    figure = plots.image_grid(pair[0] - 0.9, "filters", columns=3, signed=True)
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high == (pair[0][0] - 0.9).min()


@pytest.mark.parametrize("images", [np.zeros((3, 784)), np.zeros((0, 28, 28)), np.zeros((28, 28))])
def test_impossible_images_are_refused(images):
    with pytest.raises(ArgumentError, match="shape"):
        plots.image_grid(images, "title")
    with pytest.raises(ArgumentError):
        plots.image_rows({"a": images, "b": np.zeros((3, 28, 28))}, "title")


def test_history_draws_training_and_validation():
    history = keras.callbacks.History()
    history.history = {"loss": [3, 2, 1], "val_loss": [4, 3, 2]}
    (axis,) = plots.history({"run": history}, "Training").axes
    assert [list(line.get_ydata()) for line in axis.lines] == [[3, 2, 1], [4, 3, 2]]
    assert [line.get_linestyle() for line in axis.lines] == ["-", "--"]


def test_history_draws_several_curves_and_names_the_ones_there_are():
    history = keras.callbacks.History()
    history.history = {"loss": [3.0, 2.0], "kl_loss": [1.0, 1.5], "val_kl_loss": [1.1, 1.6]}
    (axis,) = plots.history({"": history}, "Training", metric=["loss", "kl_loss"]).axes
    assert [line.get_label() for line in axis.lines] == [
        "loss, training",
        "kl_loss, training",
        "kl_loss, validation",
    ]
    with pytest.raises(ArgumentError, match="has no such curve"):
        plots.history({"": history}, "Training", metric="kl")


def test_histograms_are_shares():
    figure = plots.histograms({"a": np.ones(7), "b": np.zeros(3)}, "title", "units")
    tops = [patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches]
    assert tops == pytest.approx([1, 1])


def test_scatter_draws_every_point_in_every_panel():
    points, labels = np.random.default_rng(0).random((10, 2)), np.arange(10)
    *panels, _ = plots.scatter({"a": points, "b": -points}, labels, "title").axes
    np.testing.assert_array_equal(panels[0].collections[0].get_offsets(), points)
    np.testing.assert_array_equal(panels[1].collections[0].get_offsets(), -points)
    assert [panel.get_title() for panel in panels] == ["a", "b"]


def test_table_in_text_and_markdown():
    table = plots.table({"PCA": {"MSE": 0.01683}, "ours": {"MSE": 0.0095, "n": 32}})
    assert repr(table).splitlines() == ["         MSE   n", "PCA   0.0168", "ours  0.0095  32"]
    assert table._repr_markdown_().splitlines()[1:3] == [
        "| --- | ---: | ---: |",
        "| PCA | 0.0168 |  |",
    ]
