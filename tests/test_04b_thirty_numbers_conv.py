"""The definitions, tables and saved models of 04b, against NumPy written by hand."""

import functools

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions
from scipy.special import expit
from test_04_convolutional import (
    convolve,
    drawn_by,
    mse,
    number,
    prose,
    relu,
    saved_model,
    stamp,
    table,
    through_pca,
)

from ae_keras import modelfile, taught

STEM = "04b_thirty_numbers_conv"
PATH = ROOT / "notebooks" / f"{STEM}.ipynb"


@pytest.fixture(scope="module")
def page():
    return definitions(
        PATH,
        *("autoencoder", "move", "squared_error", "moved", "emptiest_borders"),
        dataset="mnist",
        join=taught.join,
    )


@pytest.fixture(scope="module")
def network(page):
    modelfile.set_weights(page["autoencoder"], saved_model("mnist", STEM), STEM)
    return functools.partial(page["autoencoder"].predict, batch_size=1000, verbose=0)


def by_hand(weights, x):
    w = iter(weights)
    h = relu(convolve(x, next(w), next(w), stride=2))
    h = relu(convolve(h, next(w), next(w), stride=2))
    h = relu(h.reshape(len(x), -1) @ next(w) + next(w))
    h = relu((h @ next(w) + next(w)) @ next(w) + next(w))
    h = relu(h @ next(w) + next(w))
    h = h.reshape(-1, 7, 7, h.shape[1] // 49)
    return expit(stamp(relu(stamp(h, next(w), next(w))), next(w), next(w)))


def summed(x, x_hat):
    return 784 * mse(x, x_hat)


def test_shapes_and_parameters(page):
    model = page["autoencoder"]
    assert page["encoder"].output_shape == page["decoder"].input_shape == (None, 30)
    assert model.output_shape == model.input_shape == (None, 28, 28, 1)
    assert 7 * 7 * 64 == 3_136 and 3_136 / 30 > 100
    assert f"{model.count_params():,}" == "1,663,263"


def test_move_takes_each_of_nine_places_about_equally_often(page):
    x = np.zeros((900, 28, 28, 1), np.float32)
    x[:, 10, 12] = 1
    moved = np.array(page["move"](x))[..., 0]
    np.testing.assert_array_equal(moved.sum(axis=(1, 2)), 1)
    places, counts = np.unique(np.argwhere(moved)[:, 1:] - (10, 12), axis=0, return_counts=True)
    assert {tuple(place) for place in places} == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert counts.min() > 60


def test_the_move_is_that_of_03b(page):
    """Two pages teach the same thing: they should not drift apart."""
    other = definitions(ROOT / "notebooks/03b_thirty_numbers.ipynb", "move", "draws")
    x = np.random.default_rng(0).random((20, 28, 28, 1), dtype=np.float32)
    mine = definitions(PATH, "move", "draws")
    np.testing.assert_array_equal(mine["move"](x), other["move"](x))


def test_training_moves_the_input_and_the_target_alike_and_evaluation_neither(page):
    """A model that copies its input has no error in training, whatever the move."""
    seen = []

    def move(x):
        return keras.ops.roll(x, (1, -1), axis=(1, 2))

    classes = definitions(PATH, "MovedDigits", move=move)
    image = keras.Input((28, 28, 1))
    kernel = np.zeros((3, 3, 1, 1))
    kernel[1, 1] = 1
    layer = keras.layers.Conv2D(1, 3, padding="same", use_bias=False)
    model = classes["MovedDigits"](image, layer(image))
    layer.set_weights([kernel])

    def loss(y, y_hat):
        seen.append(keras.ops.mean(y * ramp))
        return keras.ops.mean(keras.ops.square(y - y_hat)) + 0 * keras.ops.mean(y_hat * ramp)

    ramp = np.arange(28, dtype=np.float32).reshape(1, 28, 1, 1)
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    history = model.fit(x, np.zeros_like(x), batch_size=8, verbose=0).history
    assert history["loss"][0] == pytest.approx(0, abs=1e-10)  # y is not used: x is the target
    assert float(seen[0]) == pytest.approx(np.mean(np.roll(x, 1, axis=1) * ramp), rel=1e-5)
    seen.clear()
    model.evaluate(x, x, verbose=0)
    assert float(seen[0]) == pytest.approx(np.mean(x * ramp), rel=1e-5)


def test_squared_error_is_summed_over_pixels_and_averaged_over_images(page):
    x = np.zeros((2, 28, 28, 1))
    x_hat = x.copy()
    x_hat[0, 3, 4], x_hat[1, 5, 6], x_hat[1, 7, 8] = 2, 1, 3
    assert page["squared_error"](x, x_hat) == pytest.approx((4 + 1 + 9) / 2)


def test_worked_example(page):
    text = prose(PATH)
    x, x_hat = np.array([0, 1, 0.5]), np.array([0.1, 0.8, 0.5])
    assert np.square(x - x_hat).sum() == pytest.approx(0.05) and "Their sum is 0.05" in text
    assert f"their mean {np.square(x - x_hat).mean():.4f}" in text
    assert f"{3.00 / 784:.4f}" == "0.0038"


def test_moves_of_the_test(page):
    x = np.zeros((1, 28, 28, 1), np.float32)
    x[0, 10, 12] = 1
    at = [tuple(np.argwhere(image[..., 0])[0]) for image in page["moved"](x, 2)]
    assert sorted(at) == [(8, 12), (10, 10), (10, 14), (12, 12)]
    four = definitions(ROOT / "notebooks/04_convolutional.ipynb", "moved", "emptiest_borders")
    images = np.random.default_rng(0).random((40, 28, 28, 1))
    for name, arguments in (("moved", (x, 4)), ("emptiest_borders", (images,))):
        np.testing.assert_array_equal(page[name](*arguments), four[name](*arguments))


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_saved_weights_reach_the_saved_metrics(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    page = definitions(PATH, "autoencoder", join=taught.join, dataset=dataset)
    x = datasets[dataset][1][0]
    saved = saved_model(dataset, STEM)
    modelfile.set_weights(page["autoencoder"], saved, STEM)
    x_hat = page["autoencoder"].predict(x, batch_size=1000, verbose=0)
    np.testing.assert_allclose(x_hat[:100], by_hand(saved.weights, x[:100]), atol=1e-4)
    assert saved.facts["held_out"]["mse"] == pytest.approx(mse(x, x_hat), abs=1e-6)


def test_tables_of_test_errors(network, mnist):
    x_train, _, x_test = mnist
    stored, ours = table(PATH, "published = {"), table(PATH, "over_seeds(")
    for row, clip in (("PCA, not clipped", False), ("PCA, clipped", True)):
        error = summed(x_test, through_pca(x_train, x_test, 30, clip))
        assert number(stored[row]["squared error"]) == pytest.approx(error, abs=0.011)
    assert stored["network"]["squared error"] == ours["network"]["squared error"]
    found = number(ours["network"]["squared error"])
    tolerance = 0.1 if "±" in ours["network"]["squared error"] else 0.006
    assert found == pytest.approx(summed(x_test, network(x_test)), abs=tolerance)
    assert number(ours["network"]["MSE"]) == pytest.approx(found / 784, abs=2e-5)
    published = {row: cells.get("published (MNIST)") for row, cells in stored.items()}
    assert published["PCA, not clipped"] == "13.87" and published["logistic PCA"] == "8.01"
    assert number(stored["PCA, not clipped"]["squared error"]) == pytest.approx(13.87, abs=0.0101)
    assert published["autoencoder of 2006"] == "3.00"


def test_the_claim(mnist):
    assert 784 * saved_model("mnist", STEM).facts["held_out"]["mse"] < 3.00
    cell = table(PATH, "over_seeds(")["network"]["squared error"]
    mean, *deviation = map(float, cell.split(" ± "))
    assert mean + sum(deviation) < 3.00
    assert f"**{cell.split(' ')[0]}**" in prose(PATH)


def test_table_of_moved_digits(page, network, mnist):
    x_train, _, x_test = mnist
    x = page["emptiest_borders"](x_test)
    stored = table(PATH, "free = emptiest_borders")
    assert list(stored) == ["PCA, clipped", "network"]
    for column, n in (("not moved", 0), ("by 2", 2), ("by 4", 4)):
        moves = ((n, 0), (-n, 0), (0, n), (0, -n))
        sets = np.concatenate([np.roll(x, move, axis=(1, 2)) for move in moves])
        errors = {"PCA, clipped": through_pca(x_train, sets, 30), "network": network(sets)}
        for name, x_hat in errors.items():
            expected = pytest.approx(summed(sets, x_hat), abs=0.011)
            assert number(stored[name][column]) == expected, (name, column)


def test_pictures_show_validation_digits_and_what_is_made_of_them(page):
    x_valid = np.random.default_rng(0).random((20, 28, 28, 1), dtype=np.float32)
    ways = {"PCA, clipped": 0.9, "network": 0.8}

    def reconstruct(x):
        return {name: factor * x for name, factor in ways.items()}

    ((_, (rows, title), _),) = drawn_by(
        PATH,
        '{"input": x_valid[:7]}',
        x_valid=x_valid,
        reconstruct=reconstruct,
        squared_error=summed,
    )
    assert list(rows) == ["input", *ways]
    np.testing.assert_array_equal(rows["input"], x_valid[:7])
    for name, factor in ways.items():
        np.testing.assert_allclose(rows[name], factor * x_valid[:7])
        assert f"{summed(x_valid, factor * x_valid):.2f} ({name})" in title
    parts = {"encoder": page["encoder"], "autoencoder": page["autoencoder"]}
    ((_, (images, codes, title, x_hat), _),) = drawn_by(
        PATH, "plots.codes(", x_valid=x_valid, squared_error=summed, **parts
    )
    np.testing.assert_array_equal(images, x_valid[:5])
    np.testing.assert_allclose(codes, page["encoder"](x_valid[:5]), atol=1e-5)
    np.testing.assert_allclose(x_hat, page["decoder"](codes), atol=1e-5)
    assert f"{summed(x_valid, np.array(page['autoencoder'](x_valid))):.2f} on 20" in title
