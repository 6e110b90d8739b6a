"""Metrics against other people's code, and figures by what they contain."""

import io

import keras
import matplotlib.colors
import matplotlib.figure
import matplotlib.pyplot as plt
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


def test_psnr_is_the_mean_over_images_and_not_that_of_the_mean_error():
    """Errors of 0.1 and 0.001, 20 dB and 60 dB: 40 dB, where the mean error would give 23."""
    x = np.full((2, 9, 7, 1), 0.5)
    x_hat = x + np.array([0.1, 0.001]).reshape(2, 1, 1, 1)
    assert metrics.psnr(x, x_hat) == pytest.approx(40)
    assert metrics.mse(x, x_hat) == pytest.approx((0.01 + 0.000001) / 2)


def test_bce_is_in_nats_a_pixel_and_takes_the_original_first():
    x, x_hat = np.array([[1.0, 0.0], [0.25, 1.0]]), np.array([[0.5, 0.25], [0.75, 0.5]])
    each = [np.log(2), np.log(4 / 3), 0.25 * np.log(4 / 3) + 0.75 * np.log(4), np.log(2)]
    assert metrics.bce(x, x_hat) == pytest.approx(np.mean(each))
    assert metrics.bce(np.array([[1.0]]), np.array([[0.0]])) == pytest.approx(7 * np.log(10))


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


def drawn(figure):
    """Draw a figure, so that its parts have their places and colours."""
    figure.savefig(io.BytesIO(), format="png")


def shown(axis):
    """Return what an axis shows of an image."""
    (image,) = axis.images
    return np.asarray(image.get_array())


def test_image_rows_shows_every_image_in_its_row_and_column():
    """Images that are not square, three rows of four: each mistake in the order would show."""
    random = np.random.default_rng(0)
    rows = {name: random.random((4, 9, 7)) for name in ("input", "noisy", "copy")}
    figure = plots.image_rows(rows | {"noisy": rows["noisy"][..., None]}, "Title 0.5")
    assert isinstance(figure, matplotlib.figure.Figure)
    assert len(figure.axes) == 12
    for n, axis in enumerate(figure.axes):
        name = list(rows)[n // 4]
        np.testing.assert_array_equal(shown(axis), rows[name][n % 4])
        assert [text.get_text() for text in axis.texts] == [name] * (n % 4 == 0)
        assert axis.images[0].get_clim() == (0, 1)
        assert axis.images[0].get_cmap().name == "gray"  # 1 is white
    heights = [axis.get_position().y0 for axis in figure.axes[::4]]
    assert heights == sorted(heights, reverse=True)  # the first row on top
    places = [axis.get_position().x0 for axis in figure.axes[:4]]
    assert places == sorted(places)
    assert figure.get_suptitle() == "Title 0.5"


def test_image_rows_does_not_stretch_contrast():
    faint = np.full((2, 5, 5), 0.1)
    figure = plots.image_rows({"a": faint, "b": faint + 0.1}, "title")
    assert {axis.images[0].get_clim() for axis in figure.axes} == {(0, 1)}


def test_image_grid_goes_line_by_line_and_leaves_the_rest_empty(pair):
    images = pair[0]  # five in lines of three
    figure = plots.image_grid(images, "title", columns=3)
    assert len(figure.axes) == 6
    for axis, image in zip(figure.axes, images, strict=False):
        np.testing.assert_array_equal(shown(axis), image[..., 0])
    assert not figure.axes[5].images
    (first, *_, fourth), _ = figure.axes[:4], None
    assert first.get_position().y0 > fourth.get_position().y0


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_image_grid_scales_each_image_or_all_alike(signed, shared):
    """By the largest absolute value where signed, else from the darkest to the brightest."""
    images = np.array([[[0.2, -0.5], [0.1, 0.3]], [[2.0, 1.0], [4.0, 3.0]]])
    axes = plots.image_grid(images, "filters", columns=2, signed=signed, shared=shared).axes
    limits = [axis.images[0].get_clim() for axis in axes]
    own = [(-0.5, 0.5), (-4, 4)] if signed else [(-0.5, 0.3), (1, 4)]
    alike = [(-4, 4)] * 2 if signed else [(-0.5, 4)] * 2
    assert limits == (alike if shared else own)
    assert {axis.images[0].get_cmap().name for axis in axes} == {"RdBu_r" if signed else "gray"}
    assert {axis.axison for axis in axes} == {signed}, "a white pixel at the edge needs a frame"


@pytest.mark.parametrize("images", [np.zeros((3, 784)), np.zeros((0, 28, 28)), np.zeros((28, 28))])
def test_impossible_images_are_refused(images):
    with pytest.raises(ArgumentError, match="shape"):
        plots.image_grid(images, "title")
    with pytest.raises(ArgumentError):
        plots.image_rows({"a": images, "b": np.zeros((3, 28, 28))}, "title")


@pytest.mark.parametrize("columns", [2, 3])
def test_codes_draws_each_image_beside_its_own_code(pair, columns):
    random = np.random.default_rng(0)
    values, copies = random.normal(size=(5, 6)), pair[1]
    given = {} if columns == 2 else {"reconstructions": copies}
    figure = plots.codes(pair[0], values, "Title 0.5", **given)
    axes = np.reshape(figure.axes, (5, columns))
    for line, image, code, copy in zip(axes, pair[0], values, copies, strict=True):
        np.testing.assert_array_equal(shown(line[0]), image[..., 0])
        bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in line[1].patches]
        np.testing.assert_allclose(bars, list(enumerate(code)))
        if columns == 3:
            np.testing.assert_array_equal(shown(line[2]), copy[..., 0])
    limits = {axis.get_ylim() for axis in axes[:, 1]}
    assert len(limits) == 1  # one scale for all, and nothing beyond it
    ((low, high),) = limits
    assert low < values.min() and high > values.max()
    assert figure.get_suptitle() == "Title 0.5"


def test_codes_refuses_what_does_not_belong_together(pair):
    for codes in (np.zeros((4, 6)), np.zeros(5), np.zeros((5, 2, 3))):
        with pytest.raises(ArgumentError, match="one code"):
            plots.codes(pair[0], codes, "title")
    with pytest.raises(ArgumentError, match="one code"):
        plots.codes(pair[0], np.zeros((5, 6)), "title", reconstructions=pair[0][:4])


def as_history(**curves):
    history = keras.callbacks.History()
    history.history = curves
    return history


def curves(axis):
    """Return label → (epochs, values, style, colour) of the lines that an axis shows."""
    return {
        line.get_label(): (
            list(line.get_xdata()),
            list(line.get_ydata()),
            line.get_linestyle(),
            line.get_color(),
        )
        for line in axis.lines
    }


def test_history_draws_training_and_validation_of_each_run():
    runs = {
        "deep": as_history(loss=[3, 2, 1], val_loss=[4, 3, 2]),
        "wide": as_history(loss=[6, 5], val_loss=[8, 7]),
    }
    (axis,) = plots.history(runs, "Training", ylabel="nats").axes
    lines = curves(axis)
    assert {name: line[:3] for name, line in lines.items()} == {
        "deep, training": ([1, 2, 3], [3, 2, 1], "-"),
        "deep, validation": ([1, 2, 3], [4, 3, 2], "--"),
        "wide, training": ([1, 2], [6, 5], "-"),
        "wide, validation": ([1, 2], [8, 7], "--"),
    }
    colours = [line[3] for line in lines.values()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "nats")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(lines)
    drawn(axis.figure)
    assert all(tick == round(tick) for tick in axis.get_xticks())


def test_history_draws_several_curves_and_names_the_ones_there_are():
    history = as_history(loss=[3.0, 2.0], kl_loss=[1.0, 1.5], val_kl_loss=[1.1, 1.6])
    (axis,) = plots.history({"": history}, "Training", metric=["loss", "kl_loss"]).axes
    values = {name: line[1] for name, line in curves(axis).items()}
    assert values == {
        "loss, training": [3.0, 2.0],
        "kl_loss, training": [1.0, 1.5],
        "kl_loss, validation": [1.1, 1.6],
    }
    with pytest.raises(ArgumentError, match="has no such curve"):
        plots.history({"": history}, "Training", metric="kl")


def test_legend_of_a_history_lies_beside_the_curves():
    (axis,) = plots.history({"a": as_history(loss=[3, 2], val_loss=[3, 1])}, "title").axes
    drawn(axis.figure)
    legend = axis.get_legend().get_window_extent()
    assert not axis.get_window_extent().overlaps(legend)
    assert legend.x1 <= axis.figure.bbox.x1 + 1  # and not outside the picture


def test_histograms_are_shares_over_the_same_bins():
    samples = {"a": np.ones(7), "b": np.array([0.0, 0.0, 0.0, 1.0])}
    figure = plots.histograms(samples, "title", "units")
    (axis,) = figure.axes
    tops = [patch.get_xy()[:, 1].max() for patch in axis.patches]
    assert tops == pytest.approx([1, 0.75])
    edges = [np.unique(patch.get_xy()[:, 0]) for patch in axis.patches]
    np.testing.assert_allclose(edges[0], edges[1])
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    colours = [matplotlib.colors.to_rgb(patch.get_edgecolor()) for patch in axis.patches]
    handles = [matplotlib.colors.to_rgb(h.get_edgecolor()) for h in axis.get_legend().get_patches()]
    assert names == ["a", "b"] and colours == handles and colours[0] != colours[1]


def test_scatter_colours_each_point_by_its_own_label():
    """Labels that are not sorted, of which two are missing, and two panels that differ."""
    random = np.random.default_rng(0)
    labels = random.choice([0, 1, 3, 4, 5, 6, 8, 9], 200)
    assert not np.array_equal(labels, np.sort(labels))
    points = {name: random.normal(size=(200, 2)) + 9 * labels[:, None] for name in ("a", "b")}
    figure = plots.scatter(points, labels, "Title 0.5")
    palette = plt.get_cmap("tab10").colors
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]
    for axis, cloud in zip(figure.axes, points.values(), strict=False):
        found = np.concatenate([dots.get_offsets() for dots in axis.collections])
        drawn(figure)  # what has a colour is given it now
        colours = np.concatenate(
            [
                np.broadcast_to(dots.get_facecolor(), (len(dots.get_offsets()), 4))
                for dots in axis.collections
            ]
        )
        of_label = {tuple(point): palette[n] for point, n in zip(cloud, labels, strict=True)}
        assert len(found) == 200
        for point, colour in zip(found, colours, strict=True):
            np.testing.assert_allclose(colour[:3], of_label[tuple(point)])


def test_scatter_writes_each_digit_at_the_middle_of_its_points():
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat([0, 2, 7], 510))
    points = random.normal(size=(1530, 2)) + np.stack([20.0 * labels, -30.0 * labels], axis=1)
    points[np.flatnonzero(labels == 7)[0]] = 1e4  # an outlier moves a mean, and the axis
    axis = plots.scatter({"a": points}, labels, "title").axes[0]
    written = {text.get_text(): text.get_position() for text in axis.texts}
    assert set(written) == {"0", "2", "7"}
    for label, place in written.items():
        np.testing.assert_allclose(place, np.median(points[labels == int(label)], axis=0))
        for position, (low, high) in zip(place, (axis.get_xlim(), axis.get_ylim()), strict=True):
            assert low < position < high


def test_scatter_moves_digits_apart_where_they_would_overlap():
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(500) % 10)
    points = random.normal(0, (1, 20), size=(500, 2))  # all classes lie on one another
    axis = plots.scatter({"a": points}, labels, "title").axes[0]
    size = [np.ptp(limits) for limits in (axis.get_xlim(), axis.get_ylim())]
    places = np.array([text.get_position() for text in axis.texts]) / size
    apart = np.linalg.norm(places[:, np.newaxis] - places, axis=-1) + np.eye(10)
    assert len(places) == 10 and apart.min() > 0.055
    assert np.abs(places).max() < 0.25  # still in the middle


def test_panels_and_chart_are_empty_closed_and_labelled():
    before = plt.get_fignums()
    figure, axes = plots.panels(3, "Title 0.5")
    assert len(axes) == len(figure.axes) == 3
    lefts = [axis.get_position().x0 for axis in axes]
    assert lefts == sorted(lefts)
    assert figure.get_suptitle() == "Title 0.5"
    figure, axis = plots.chart("Title 0.5", "epoch", "nats")
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "nats")
    assert "Title 0.5" in (figure.get_suptitle(), axis.get_title(loc="left"))
    assert plt.get_fignums() == before  # a closed figure is not shown twice


def test_slider_redraws_with_the_values_of_its_sliders():
    asked = []

    def draw(z1, z2):
        asked.append((z1, z2))
        return np.array([[z1, z2, 0.5]]) / 4

    box = plots.slider(draw, z1=(0, 4), z2=(0, 2))
    first, second, picture = box.children
    assert [(s.description, s.min, s.max) for s in (first, second)] == [
        ("z1", 0, 4),
        ("z2", 0, 2),
    ]
    assert asked == [(2, 1)]  # the middle
    second.value = 2
    first.value = 4
    assert asked[1:] == [(2, 2), (4, 2)]
    pixels = plt.imread(io.BytesIO(picture.value))[..., 0]
    lines, columns = pixels.shape[0], pixels.shape[1] // 3
    assert lines == columns  # square pixels
    np.testing.assert_allclose(pixels[0, columns // 2 :: columns], [1, 0.5, 0.125], atol=1 / 255)


def test_table_in_text_and_markdown():
    table = plots.table({"PCA": {"MSE": 0.01683}, "ours": {"MSE": 0.0095, "n": 32}})
    assert repr(table).splitlines() == ["         MSE   n", "PCA   0.0168", "ours  0.0095  32"]
    assert table._repr_markdown_().splitlines() == [
        "|  | MSE | n |",
        "| --- | ---: | ---: |",
        "| PCA | 0.0168 |  |",
        "| ours | 0.0095 | 32 |",
    ]


def test_table_puts_each_value_in_its_own_column():
    """Rows whose columns come in another order, or are missing."""
    table = plots.table({"a": {"x": 1, "y": 2}, "b": {"y": 3, "z": 4}, "c": {"z": 5, "x": 6}})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in
             table._repr_markdown_().splitlines()]  # fmt: skip
    assert cells[0] == ["", "x", "y", "z"]
    assert cells[2:] == [["a", "1", "2", ""], ["b", "", "3", "4"], ["c", "6", "", "5"]]
    assert "\\|" in plots.table({"|z|": {"x": 1}})._repr_markdown_()
    assert repr(plots.table({"a": {"x": np.float32(0.12345)}})).endswith("0.1235")
