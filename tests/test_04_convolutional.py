"""The definitions, tables and saved models of 04_convolutional, against NumPy written by hand."""

import functools
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import ROOT, Recorder, definitions, drawn, read_notebook, recorded, run_cell
from matplotlib.patches import Rectangle
from scipy.special import expit
from sklearn.decomposition import PCA

from ae_keras import fingerprint, metrics, modelfile, plots, taught

PATH = ROOT / "notebooks" / "04_convolutional.ipynb"
MODELS = {  # file → name on the page
    "04_convolutional": "autoencoder",
    "04_convolutional-classic": "classic",
    "04_convolutional-dense": "dense",
}
ROWS = {"dense": "dense", "convolutional": "autoencoder", "classic": "classic"}


@functools.cache
def page_for(dataset):
    return definitions(
        PATH,
        *MODELS.values(),
        *("patch", "convolve", "feature_map", "three_operations", "enlarge_flat", "checkerboard"),
        *("moved", "emptiest_borders"),
        dataset=dataset,
        join=taught.join,
    )


@pytest.fixture(scope="module")
def page():
    return page_for("mnist")


@pytest.fixture(scope="module")
def trained(page):
    """The page's models by name, with MNIST's weights."""
    for name, variable in MODELS.items():
        modelfile.set_weights(page[variable], saved_model("mnist", name), name)
    return {row: page[variable] for row, variable in ROWS.items()}


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
    h = relu(z @ next(w) + next(w)).reshape(len(x), 7, 7, -1)
    return expit(stamp(relu(stamp(h, next(w), next(w))), next(w), next(w)))


@functools.cache
def saved_model(dataset, name):
    return modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")


def through_pca(x_train, x, components, clip=True):
    """Project on the eigenvectors of the training images' covariance."""
    mean = x_train.reshape(-1, 784).mean(axis=0)
    centred = x_train.reshape(-1, 784) - mean
    vectors = np.linalg.eigh(centred.T @ centred)[1][:, -components:]
    flat = (x.reshape(-1, 784) - mean) @ vectors @ vectors.T + mean
    return (np.clip(flat, 0, 1) if clip else flat).reshape(x.shape)


def mse(x, x_hat):
    return np.mean(np.square(x - x_hat), dtype=np.float64)


def table(path, words):
    """Return the stored table of the code cell that contains `words`: row → column → text."""
    (cell,) = [c for c in read_notebook(path).cells if c.cell_type == "code" and words in c.source]
    (text,) = [
        o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {})
    ]
    head, _, *lines = [
        [part.strip() for part in line.strip("|").split(" | ")] for line in text.splitlines()
    ]
    return {row: dict(zip(head[1:], cells, strict=True)) for row, *cells in lines}


def number(text):
    """Return the first number of a cell such as "0.0012 ± 0.0000"."""
    return float(re.match(r"[\d.]+", text).group())


def prose(path):
    cells = [c.source for c in read_notebook(path).cells if c.cell_type == "markdown"]
    return " ".join(" ".join(cells).split())


def drawn_by(path, words, **scope):
    """Run the code cell that contains `words`, and return the calls of `plots` that it makes."""
    return drawn(path, words, scope)


def test_shapes_and_parameters(page):
    classic, dense, autoencoder = page["classic"], page["dense"], page["autoencoder"]
    assert page["classic_encoder"].output_shape == (None, 4, 4, 8) and 4 * 4 * 8 == 128
    assert page["encoder"].output_shape == page["decoder"].input_shape == (None, 128)
    assert page["dense_encoder"].output_shape == (None, 128)
    for model in (classic, dense, autoencoder):
        assert model.output_shape == model.input_shape == (None, 28, 28, 1)
    counts = {"classic": 4_385, "dense": 840_872, "convolutional": 844_673}
    assert {name: page[v].count_params() for name, v in ROWS.items()} == counts
    stored = table(PATH, '"parameters"')
    assert {name: row["parameters"] for name, row in stored.items()} == {
        name: f"{count:,}" for name, count in counts.items()
    }
    assert (counts["convolutional"] - counts["dense"]) / counts["convolutional"] < 0.005
    assert (784 + 1) * 784 == 615_440
    second = [layer for layer in page["encoder"].layers if layer.name.startswith("conv2d")]
    assert [layer.count_params() for layer in second] == [18_496]  # question 2


def test_autoencoder_is_decoder_of_encoder(page):
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    parts = page["decoder"](page["encoder"](x))
    np.testing.assert_allclose(page["autoencoder"](x), parts, atol=1e-6)
    assert np.min(page["encoder"](x)) < 0  # a linear code


def test_worked_example(page):
    np.testing.assert_array_equal(page["feature_map"], [[2, 2, 0, 0], [3, 3, 0, 0], [2, 2, 0, 0]])
    x, k = np.random.default_rng(0).normal(size=(2, 7, 7))
    k = k[:3, :3]
    by_windows = relu(convolve(x[None, :, :, None], k[:, :, None, None], -0.3, padding="valid"))
    np.testing.assert_allclose(page["convolve"](x, k, -0.3), by_windows[0, :, :, 0])
    assert np.any(page["convolve"](x, k, -0.3) == 0)
    np.testing.assert_array_equal(
        page["convolve"](np.ones((5, 5)), page["kernel"]), 0
    )  # question 1


def test_the_window_drawn_is_the_one_computed_by_hand(page):
    (cell,) = [c.source for c in read_notebook(PATH).cells if "One window, one number" in c.source]
    (window,) = re.findall(r"axes\[0\], patch, .*window=\((\d), (\d), 3\)", cell)
    (target,) = re.findall(r"feature_map, .*window=\((\d), (\d), 1\)", cell)
    assert window == target  # without padding, a window's corner is its place in the map
    row, column = map(int, window)
    np.testing.assert_array_equal(
        page["patch"][row : row + 3, column : column + 3], [[0, 0, 1]] * 3
    )
    assert page["feature_map"][row, column] == 3
    np.testing.assert_array_equal(
        page["patch"][row : row + 3, column + 2 : column + 5], [[1, 1, 0]] * 3
    )
    assert page["feature_map"][row, column + 2] == 0


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
    stamps = page["enlarge_flat"](1, "ones")
    np.testing.assert_array_equal(
        stamps["transposed, 3×3"][..., 0], np.tile([[4, 2], [2, 1]], (4, 4))
    )
    np.testing.assert_array_equal(stamps["transposed, 4×4"], np.full((8, 8, 1), 4))
    y = page["enlarge_flat"](9, "glorot_uniform")["up-sampling, then 3×3"]
    np.testing.assert_allclose(y, np.broadcast_to(y[0, 0], y.shape), atol=1e-6)


def test_checkerboard_measures_what_alternates(page):
    checkerboard = page["checkerboard"]
    assert checkerboard(np.full((3, 8, 8), 0.7)) == pytest.approx(0)
    stripes = np.tile([0.0, 2.0], (2, 8, 4))  # mean 1, and 1 up and down around it
    assert checkerboard(stripes) == pytest.approx(1 / 2)
    assert checkerboard(np.tile([[4, 2], [2, 1]], (1, 4, 4))) == pytest.approx(1.1875 / 6.25)
    wide = np.tile([0.0, 0.0, 2.0, 2.0], (2, 8, 2))
    assert checkerboard(wide) == pytest.approx(0)
    assert checkerboard(wide, 4) == pytest.approx(1 / 2)
    mixed = np.concatenate([stripes[:1], np.ones((1, 8, 8))])  # energies 2 and 1, of which 1
    assert checkerboard(mixed) == pytest.approx(1 / 3)


def test_random_kernels_alternate_alike_whatever_their_size(page):
    stored = table(PATH, "all weights 1")
    equal = [row["all weights 1"] for row in stored.values()]
    random = [row["random"] for row in stored.values()]
    assert (equal, random[0]) == (["0%", "19%", "0%"], "0%")
    y = page["enlarge_flat"](3000, "glorot_uniform")
    for way, text in zip(list(stored)[1:], random[1:], strict=True):
        share = page["checkerboard"](y[way].transpose(2, 0, 1))
        assert share == pytest.approx(0.75, abs=0.02)  # 3/4 of the energy for independent weights
        assert float(text.rstrip("%")) / 100 == pytest.approx(0.75, abs=0.02)


def test_moves(page):
    x = np.zeros((1, 28, 28, 1), np.float32)
    x[0, 10, 12] = 1
    at = [tuple(np.argwhere(image[..., 0])[0]) for image in page["moved"](x, 2)]
    assert sorted(at) == [(8, 12), (10, 10), (10, 14), (12, 12)]
    np.testing.assert_array_equal(page["moved"](x, 0), np.repeat(x, 4, axis=0))
    images = np.zeros((30, 28, 28, 1), np.float32)
    images[:, 3, 10] = np.linspace(1, 0.5, 30)[:, None]  # ink at the border, less and less
    for n, place in {7: (4, 4), 5: (23, 23), 20: (23, 4)}.items():
        images[n] = 0
        images[n][place] = 1
    np.testing.assert_array_equal(page["emptiest_borders"](images), images[[5, 7, 20]])
    for place in ((3, 10), (10, 3), (24, 10), (10, 24)):  # all four sides are border
        images[5] = 0
        images[5][place] = 0.1
        np.testing.assert_array_equal(page["emptiest_borders"](images), images[[7, 20, 5]])


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_reach_the_saved_metrics(datasets, dataset, name):
    """Keras computes what NumPy does from the file, and over the test images it is the metric."""
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets[dataset][1][0]
    model = page_for(dataset)[MODELS[name]]
    modelfile.set_weights(model, saved_model(dataset, name), name)
    x_hat = model.predict(x, batch_size=500, verbose=0)
    few = by_hand(name, saved_model(dataset, name).weights, x[:100])
    np.testing.assert_allclose(x_hat[:100], few, atol=1e-4)
    held_out = saved_model(dataset, name).facts["held_out"]
    assert held_out["mse"] == pytest.approx(mse(x, x_hat), abs=1e-6)
    x_hat = np.clip(x_hat.astype(np.float64), 1e-7, 1 - 1e-7)
    bce = -np.mean(x * np.log(x_hat) + (1 - x) * np.log1p(-x_hat), dtype=np.float64)
    assert held_out["bce"] == pytest.approx(bce, abs=2e-5)


def test_table_of_test_errors(mnist):
    """PCA learns from the 55,000 training images and is clipped; networks are as in their files."""
    x_train, _, x_test = mnist
    stored = table(PATH, "perfect copy")
    x_pca = through_pca(x_train, x_test, 128)
    assert stored["PCA, 128"]["MSE"] == f"{mse(x_test, x_pca):.4f}" == "0.0034"
    assert number(stored["PCA, 128"]["BCE"]) == pytest.approx(metrics.bce(x_test, x_pca), abs=2e-4)
    mean = np.broadcast_to(x_train.mean(axis=0), x_test.shape)
    assert stored["mean image, 0"]["MSE"] == f"{mse(x_test, mean):.4f}"
    assert stored["perfect copy, 784"] == {
        "BCE": f"{metrics.bce(x_test, x_test):.4f}",
        "MSE": "0.0000",
    }
    names = {"classic": "-classic", "dense": "-dense", "convolutional": ""}
    for row, variant in names.items():
        held_out = saved_model("mnist", f"04_convolutional{variant}").facts["held_out"]
        for column in ("BCE", "MSE"):  # a row over seeds states their mean
            value = number(stored[f"{row}, 128"][column])
            tolerance = 1e-4 if row == "classic" else 6e-4
            assert value == pytest.approx(held_out[column.lower()], abs=tolerance)
    twins = table(PATH, "over_seeds(")
    for row in ("dense, 128", "convolutional, 128"):
        assert stored[row] == twins[row]


def test_the_claim(mnist):
    error = {name: saved_model("mnist", name).facts["held_out"]["mse"] for name in MODELS}
    pca = mse(mnist[2], through_pca(mnist[0], mnist[2], 128))
    assert error["04_convolutional"] <= 0.0015
    assert error["04_convolutional"] < pca / 2
    assert error["04_convolutional"] < error["04_convolutional-dense"]
    assert error["04_convolutional-classic"] > pca
    twins = table(PATH, "over_seeds(")
    parts = {row: [number(t) for t in twins[row]["MSE"].split(" ± ")] for row in twins}
    if all(len(part) == 2 for part in parts.values()):  # over seeds: further apart than they spread
        (dense, sd_dense), (conv, sd_conv) = parts["dense, 128"], parts["convolutional, 128"]
        assert conv + sd_conv < dense - sd_dense


def test_prose_agrees_with_the_tables(page, mnist):
    text, stored = prose(PATH), table(PATH, "perfect copy")
    assert f"PCA {stored['PCA, 128']['MSE']}." in text
    moved = table(PATH, "free = emptiest_borders")
    failure = text.partition("**A failure.**")[2].partition("Which model")[0]
    for row in ("PCA", "dense", "convolutional"):
        assert moved[row]["by 4"] in failure
    free = page["emptiest_borders"](mnist[2])
    assert len(free) == 1000  # as the table's line says
    assert free.sum() == pytest.approx(free[:, 4:-4, 4:-4].sum())


def test_table_of_moved_digits(page, trained, mnist):
    x_train, _, x_test = mnist
    border = x_test.copy()
    border[:, 4:24, 4:24] = 0
    x = x_test[border.max(axis=(1, 2, 3)) == 0][:1000]
    stored = table(PATH, "free = emptiest_borders")
    assert list(stored) == ["PCA", "classic", "dense", "convolutional"]
    for column, n in (("not moved", 0), ("by 2", 2), ("by 4", 4)):
        padded = np.pad(x, ((0, 0), (n, n), (n, n), (0, 0)))
        corners = [(2 * n, n), (0, n), (n, 2 * n), (n, 0)]
        sets = np.concatenate([padded[:, i : i + 28, j : j + 28] for i, j in corners])
        errors = {"PCA": mse(sets, through_pca(x_train, sets, 128))}
        for name in ("dense", "convolutional"):
            errors[name] = mse(sets, trained[name].predict(sets, batch_size=1000, verbose=0))
        for name, error in errors.items():
            assert number(stored[name][column]) == pytest.approx(error, abs=6e-5), (name, column)


def test_training_left_no_checkerboard(page, trained, mnist):
    x = mnist[1][:1000]
    x_hat = trained["convolutional"].predict(x, batch_size=500, verbose=0)
    for stride in (2, 4):
        assert page["checkerboard"](x_hat, stride) < 1.1 * page["checkerboard"](x, stride)


def test_picture_shows_validation_digits_and_what_each_method_makes_of_them():
    x_valid = np.random.default_rng(0).random((20, 28, 28, 1))
    ways = {"PCA": 0.9, "classic": 0.5, "dense": 0.7, "convolutional": 0.8}

    def reconstruct(x):
        return {name: factor * x for name, factor in ways.items()}

    ((kind, (rows, title), _),) = drawn_by(
        PATH, 'rows = {"input": x_valid[:7]}', x_valid=x_valid, reconstruct=reconstruct
    )
    assert kind == "image_rows"
    assert list(rows) == ["input", *ways]
    np.testing.assert_array_equal(rows["input"], x_valid[:7])
    for name, factor in ways.items():
        np.testing.assert_allclose(rows[name], factor * x_valid[:7])
        assert f"{mse(x_valid, factor * x_valid):.4f} ({name})" in title
    assert "20 validation images" in title


def test_feature_maps_are_those_of_the_kernels_shown(page):
    x_valid = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    scope = {"encoder": page["encoder"], "x_valid": x_valid, "keras": keras}
    ((_, (kernels, _), _),) = drawn_by(PATH, "learned = first", **scope)
    weights, bias = page["encoder"].get_layer("first").get_weights()
    np.testing.assert_array_equal(kernels, np.moveaxis(weights[:, :, 0], 2, 0))
    first = page["encoder"].get_layer("first")
    ((_, (maps, title), _),) = drawn_by(PATH, "maps_of =", first=first, **scope)
    expected = relu(convolve(x_valid[1:2], weights, bias, stride=2))[0]
    np.testing.assert_allclose(maps, expected.transpose(2, 0, 1), atol=1e-5)
    assert f"; {np.sum(expected.max(axis=(0, 1)) == 0)} of 32" in title


# What the page trains and shows, with stand-ins for its models

MODEL_ROWS = ("classic", "dense", "convolutional")
MOVES = [(1, 0), (-1, 0), (0, 1), (0, -1)]  # down, up, right and left


def times(factor):
    """Stand for a model that multiplies images by a factor."""
    return SimpleNamespace(predict=lambda x, **options: factor * x)


def test_the_numbers_drawn_are_those_computed():
    """The grids show image, kernel and map in this order, and the stamps of each size."""
    shown = {"patch": np.eye(5, 6), "kernel": np.eye(3) * 2, "feature_map": np.eye(3, 4) * 3}
    scope = {"plots": plots, "Rectangle": Rectangle, **shown}
    run_cell(PATH, "One window, one number", scope)
    for axis, (name, values) in zip(scope["axes"], shown.items(), strict=True):
        assert axis.get_title().split()[-2] == {"patch": "x,", "kernel": "k,"}.get(name, "y,")
        np.testing.assert_array_equal(axis.get_images()[0].get_array(), values)
        texts = {text.get_position(): text.get_text() for text in axis.texts}
        assert texts == {(c, r): f"{value:g}" for (r, c), value in np.ndenumerate(values)}
    stamps = {f"transposed, {n}×{n}": np.full((8, 8, 1), n) + np.eye(8)[..., None] for n in (3, 4)}
    scope["enlarge_flat"] = lambda filters, weights: stamps if weights == "ones" else None
    for axis in run_cell(PATH, "stamps = enlarge_flat", scope)["axes"]:
        expected = stamps[axis.get_title()][:6, :6, 0]
        np.testing.assert_array_equal(axis.get_images()[0].get_array(), expected)


def test_the_map_by_hand_is_compared_with_keras(page, capsys):
    for more in (0.0, 0.5):  # a wrong map is found
        wrong = {"patch": page["patch"], "kernel": page["kernel"]}
        run_cell(PATH, "by_keras =", {"feature_map": page["feature_map"] + more, **wrong})
        assert capsys.readouterr().out == f"largest difference to Keras: {more}\n"


def test_the_four_kernels_do_what_the_title_says(page):
    """On a bright rectangle: copy, left edges, upper edges, outlines, in this order."""
    x = np.zeros((1, 28, 28, 1), np.float32)
    x[0, 10:18, 8:20] = 1
    _, left, upper, outlines = np.array(page["three_operations"](x)["convolved"])[0].T
    (rows, columns), (upper_rows, _) = (np.nonzero(m.T) for m in (left, upper))
    assert set(columns) == {7, 8} and set(rows) == set(range(9, 19))
    assert set(upper_rows) == {9, 10}
    inner = np.zeros((28, 28), bool)
    inner[11:17, 9:19] = True
    np.testing.assert_array_equal(outlines.T > 0, (x[0, ..., 0] == 1) & ~inner)
    maps = {"convolved": 5 * np.arange(1, 9).reshape(1, 2, 1, 4), "pooled": np.ones((1, 1, 1, 4))}

    def three_operations(images):
        np.testing.assert_array_equal(images, x_valid[1:2])
        return maps

    x_valid = np.random.default_rng(0).random((3, 28, 28, 1))
    scope = {"three_operations": three_operations, "x_valid": x_valid, "x_train": x}
    ((_, (rows, title), _),) = drawn_by(PATH, "each map from 0 to 1", **scope)
    assert title.startswith("Columns: copy, left edges, upper edges, outlines.")
    assert list(rows) == list(maps)
    for n in range(4):
        np.testing.assert_allclose(rows["convolved"][n].ravel(), [(n + 1) / (n + 5), 1])


def test_what_the_page_trains_is_what_was_shipped(page, sets):
    """Each network by its name, on the right data, with the file's recipe, for equal epochs."""
    recipes, trained = {}, {}

    def fit_or_load(model, name, x, y, *, dataset, held_out, **arguments):
        recipes[name] = fingerprint.recipe(model, x, y, held_out, arguments)
        trained[name] = model
        return name

    scope = {"cache": SimpleNamespace(fit_or_load=fit_or_load), "dataset": "x", "seed": 7, **sets}
    scope |= {name: page[name] for name in MODELS.values()}
    for words in ("def train(", "histories = {", 'histories["classic"]'):
        run_cell(PATH, words, scope)
    assert trained == {name: page[variable] for name, variable in MODELS.items()}
    assert {row: MODELS[name] for row, name in scope["histories"].items()} == ROWS
    data = {key: fingerprint.describe(x) for key, x in sets.items()}
    own = {"data.x", "data.y", "seed", "optimizer.learning_rate.decay_steps"}
    own |= {f"{key}[{n}]" for key in ("data.held_out", "validation_data") for n in (0, 1)}
    for name, recipe in recipes.items():
        assert recipe["data"]["x"] == recipe["data"]["y"] == data["x_train"]
        assert recipe["data"]["held_out"] == [data["x_test"]] * 2
        assert recipe["validation_data"] == [data["x_valid"]] * 2
        assert (recipe["seed"], recipe["epochs"], recipe["loss"]) == (7, 14, "binary_crossentropy")
        rate = recipe["optimizer"]["learning_rate"]
        assert rate["decay_steps"] == 14 * 768 // recipe["batch_size"]
        changed = fingerprint.differences(saved_model("mnist", name).facts["recipe"], recipe)
        assert {line.split(":")[0] for line in changed} <= own
    twins = [recipes[f"04_convolutional{name}"] for name in ("", "-dense")]
    assert twins[0]["batch_size"] == twins[1]["batch_size"]


def test_curves_are_of_the_mse_and_the_title_is_of_the_last_one(sets):
    histories = {
        name: {"mse": [n, n / 2], "val_mse": [n + 1, 0.1 * n], "bce": [9, 9], "val_bce": [9, 9]}
        for n, name in enumerate(ROWS, 1)
    }
    runs = {name: SimpleNamespace(history=values) for name, values in histories.items()}
    scope = run_cell(PATH, "axis.set_yscale", {"histories": runs, "plots": plots, **sets})
    assert scope["figure"].get_suptitle() == "Convolutional: MSE 0.2000 on 30 validation images"
    lines = {line.get_label(): list(line.get_ydata()) for line in scope["axis"].lines}
    for name, values in histories.items():
        assert lines[f"{name}, training"] == values["mse"]
        assert lines[f"{name}, validation"] == values["val_mse"]
    labels = [text.get_text() for text in scope["axis"].get_yticklabels()]
    assert [float(label) for label in labels] == pytest.approx(list(scope["axis"].get_yticks()))


def test_reconstructions_are_of_the_models_they_name(sets):
    """PCA knows training images only, and is clipped."""
    models = {"classic": times(0.5), "dense": times(0.6), "convolutional": times(0.7)}
    random = np.random.default_rng(1)
    x_train = random.random((200, 128)) @ random.normal(size=(128, 784)) / 20  # of rank 128
    sets["x_train"] = x_train.reshape(-1, 28, 28, 1)
    scope = {"models": models, "PCA": PCA, "latent_dim": 128, "seed": 0, **sets}
    x = sets["x_test"]
    found = run_cell(PATH, "def reconstruct", scope)["reconstruct"](x)
    assert list(found) == ["PCA", *models]
    for name, factor in (("classic", 0.5), ("dense", 0.6), ("convolutional", 0.7)):
        np.testing.assert_array_equal(found[name], factor * x)
    expected = through_pca(sets["x_train"], 9 * x - 4, 128)
    assert expected.min() == 0 and expected.max() == 1
    np.testing.assert_allclose(scope["through_pca"](9 * x - 4), expected, atol=1e-4)
    np.testing.assert_array_equal(found["PCA"], scope["through_pca"](x))


def test_rows_of_the_checkerboard_table_are_of_the_images_they_name(page, trained, mnist):
    """With stand-ins, and the stored table from the files."""
    x = np.random.default_rng(0).random((4, 28, 28, 1))
    x_hats = {"PCA": x.round(), "convolutional": x**3}
    scope = {"x_hats": x_hats, "x_valid": x, "checkerboard": page["checkerboard"]}
    ((_, (rows,), _),) = drawn_by(PATH, '"every 2 pixels"', **scope)
    stored = table(PATH, '"every 2 pixels"')
    images = {"originals": x} | x_hats
    assert list(rows) == list(images) and list(stored) == ["originals", "PCA", *MODEL_ROWS]
    for name, some in images.items():
        for n in (2, 4):
            expected = f"{page['checkerboard'](some[..., 0], n):.2%}"
            assert rows[name][f"every {n} pixels"] == expected
    x_valid = mnist[1]
    images = {"originals": x_valid, "PCA": through_pca(mnist[0], x_valid, 128)}
    for name in MODEL_ROWS:
        images[name] = trained[name].predict(x_valid, batch_size=500, verbose=0)
    for name, some in images.items():
        for n in (2, 4):
            share = number(stored[name][f"every {n} pixels"]) / 100
            assert share == pytest.approx(page["checkerboard"](some, n), abs=1.1e-4), (name, n)


def test_rows_of_the_test_tables_are_of_the_models_they_name(sets):
    """With stand-ins that each err in their own way; all on test images."""
    factors = {"PCA": 0.4, "classic": 0.5, "dense": 0.6, "convolutional": 0.7}
    models = {name: times(factors[name]) for name in MODEL_ROWS}
    held_out = {"01_simple": {"bce": 0.11, "mse": 0.01}, "03_deep": {"bce": 0.07, "mse": 0.05}}
    scope = {"models": models, "dataset": "x", "plots": Recorder(), **sets}
    scope["seeds"] = SimpleNamespace(over_seeds=lambda *a: {("04_convolutional", "x"): a[2]}[a[:2]])
    scope["cache"] = SimpleNamespace(held_out_metrics=lambda name, dataset: held_out[name])
    scope["reconstruct"] = lambda x: {name: factor * x for name, factor in factors.items()}
    run_cell(PATH, "twins =", scope)
    run_cell(PATH, "perfect copy", scope)
    (_, (twins,), _), (_, (rows,), _) = scope["plots"].calls
    x = sets["x_test"]
    copies = {f"{name}, 128": factor * x for name, factor in factors.items()}
    copies["mean image, 0"] = np.broadcast_to(sets["x_train"].mean(axis=0), x.shape)
    copies["perfect copy, 784"] = x
    assert list(twins) == ["dense, 128", "convolutional, 128"]
    assert set(rows) == {*copies, "01_simple, 32", "03_deep, 32"}
    for name, x_hat in copies.items():
        for found in (rows, twins) if name in twins else (rows,):
            assert found[name]["MSE"] == pytest.approx(mse(x, x_hat), rel=1e-5)
            assert found[name]["BCE"] == pytest.approx(metrics.bce(x, x_hat), rel=1e-5)
    for name, facts in held_out.items():
        assert rows[f"{name}, 32"] == {"BCE": facts["bce"], "MSE": facts["mse"]}


def test_moved_digits_are_measured_against_themselves(page, sets):
    """The columns are of the distances they name; the picture's images and scores are these."""
    shade = np.linspace(0, 1, 784).reshape(28, 28, 1)  # a model that errs more below than above
    factors = {"PCA": 0.4, "classic": 0.5, "dense": 0.6, "convolutional": 0.7}

    def reconstruct(x):
        return {name: factor * x * shade for name, factor in factors.items()}

    scope = {name: page[name] for name in ("moved", "emptiest_borders")} | sets
    scope["x_test"] = np.concatenate([sets["x_test"] / n for n in (4, 2, 3)])
    scope |= {"reconstruct": reconstruct, "x_hats": factors, "plots": Recorder()}
    run_cell(PATH, "free = emptiest_borders", scope)
    ((_, (rows,), _),) = scope.pop("plots").calls
    free = page["emptiest_borders"](scope["x_test"])
    for n, column in {0: "not moved", 1: "by 1", 2: "by 2", 4: "by 4"}.items():
        x = np.concatenate([np.roll(free, (a * n, b * n), (1, 2)) for a, b in MOVES])
        for name, x_hat in reconstruct(x).items():
            assert rows[name][column] == pytest.approx(mse(x, x_hat), rel=1e-5), (name, column)
    assert len(rows["PCA"]) == 4
    for n, row in enumerate(rows.values()):  # all different
        row |= {"not moved": 0.5 + n, "by 1": 0.1 + n, "by 2": 0.2 + n, "by 4": 0.4 + n}
    ((_, (shown, title), _),) = drawn_by(PATH, "right = np.concatenate", **scope)
    right = np.concatenate([np.roll(free[:3], n, axis=2) for n in (0, 2, 4)])
    np.testing.assert_array_equal(shown.pop("input"), right)
    assert list(shown) == ["PCA", "dense", "convolutional"]
    for name, images in shown.items():
        np.testing.assert_allclose(images, factors[name] * right * shade)
    stated = ", ".join(f"{name} {rows[name]['by 4']:.4f}" for name in shown)
    assert title.endswith(f"MSE of {len(free)} digits moved by 4: {stated}")


def test_the_first_picture_and_the_drawing_are_of_what_they_name(page):
    x, x_test = np.random.default_rng(0).random((2, 24, 28, 28, 1))
    digits = SimpleNamespace(load_digits=lambda: ((x, None), (x_test, None), "x"))
    ((_, (rows, title), _),) = drawn_by(PATH, '"validation": x_valid[:8]', data=digits)
    np.testing.assert_array_equal(rows["validation"], x[22:])
    assert title.endswith("of 2 validation images")
    ((kind, (model, title), _),) = drawn_by(
        PATH, "plots.network(", **{name: page[name] for name in ("join", "encoder", "decoder")}
    )
    assert kind == "network" and model.count_params() == 844_673
    assert title.endswith(": 844,673 parameters")


def test_recorded_rows_of_seed_0_are_those_of_the_files():
    rows = recorded("04_convolutional")["0"]["rows"]
    for row, name in {"dense": "-dense", "convolutional": ""}.items():
        held_out = saved_model("mnist", f"04_convolutional{name}").facts["held_out"]
        found = rows[f"{row}, 128"]
        assert found["BCE"] == pytest.approx(held_out["bce"], abs=2e-5)
        assert found["MSE"] == pytest.approx(held_out["mse"], abs=1e-6)
