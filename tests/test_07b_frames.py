"""The definitions of 07b_frames, taken out of the notebook and put to the test."""

import keras
import numpy as np
import pytest
import scipy.ndimage
from helpers import ROOT, definitions, numpy_lstm, of, stored_tables, stored_text
from skimage.registration import phase_cross_correlation
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from ae_keras import metrics, modelfile

PATH = ROOT / "notebooks" / "07b_frames.ipynb"


GIVEN = {"phase_cross_correlation": phase_cross_correlation, "metrics": metrics}


@pytest.fixture(scope="module")
def page():
    names = ("film", "make_clips", "move_on", "fit_linear")
    return definitions(PATH, *names, dataset="mnist", **GIVEN)


@pytest.fixture(scope="module")
def page_of(page):
    small = definitions(PATH, "film", "judge", "make_clips", dataset="digits", **GIVEN)
    return {"mnist": page, "digits": small}


def trained(page, dataset):
    """Give the page's model the weights that were saved, and return what the file says."""
    path = ROOT / "saved_models" / dataset / "07b_frames.h5"
    saved = modelfile.read(path)
    modelfile.set_weights(page["film"], saved, path)
    return saved.facts


def test_clips_are_a_digit_that_keeps_its_pace_and_stays_inside(page):
    images = np.random.default_rng(0).uniform(0.1, 1, (50, 28, 28, 1)).astype("float32")
    clips, places = page["make_clips"](images, seed=7)
    assert clips.shape == (50, 15, 16, 16, 1) and clips.dtype == np.float32
    assert places.min() >= 0 and places.max() <= 6  # 6 + 10 = 16
    assert np.all(np.abs(np.diff(places, axis=1)) == 1)
    assert len(np.unique(places[:, 0], axis=0)) > 20  # they begin in different places
    for clip, where, image in zip(clips, places, images, strict=True):
        small = image[4:24, 4:24, 0].reshape(10, 2, 10, 2).mean(axis=(1, 3))
        for frame, (row, column) in zip(clip[..., 0], where, strict=True):
            expected = np.zeros((16, 16))
            expected[row : row + 10, column : column + 10] = small
            np.testing.assert_allclose(frame, expected, atol=1e-6)


def test_clips_come_again_with_the_same_seed_only(page):
    images = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    first, _ = page["make_clips"](images, seed=7)
    np.testing.assert_array_equal(first, page["make_clips"](images, seed=7)[0])
    assert not np.array_equal(first, page["make_clips"](images, seed=8)[0])


def test_a_clip_is_the_same_again_after_twelve_frames(page):
    """The shortcut that the page warns of."""
    clips, places = page["make_clips"](np.ones((50, 28, 28, 1), "float32"), seed=7)
    np.testing.assert_array_equal(clips[:, 12:], clips[:, :3])
    assert all(np.any(places[:, k:] != places[:, :-k]) for k in range(1, 12))
    assert "frames 13 to 15 beside frames 1 to 3: MSE 0.0000" in stored_text(PATH)


def test_a_digit_turns_round_at_the_walls(page):
    _, places = page["make_clips"](np.ones((50, 28, 28, 1), "float32"), seed=7)
    steps = np.diff(places, axis=1)
    for n, t, axis in zip(*np.nonzero(steps[:, 1:] != steps[:, :-1]), strict=True):
        assert places[n, t + 1, axis] in (0, 6)


def test_moved_on_is_perfect_where_there_is_no_wall(page):
    clips, places = page["make_clips"](np.ones((200, 28, 28, 1), "float32"), seed=7)
    steps = np.diff(places[:, 8:], axis=1)
    straight = np.all(steps == steps[:, :1], axis=(1, 2))
    moved = page["move_on"](clips)
    assert 5 < straight.sum() < 195
    np.testing.assert_array_equal(moved[straight], clips[straight, 10:])
    assert np.all(np.abs(moved - clips[:, 10:])[~straight].max(axis=(1, 2, 3, 4)) > 0)


def test_moved_on_finds_the_step_of_any_motion(page):
    """A blob that goes three pixels down and one to the left at each frame."""
    clips = np.zeros((1, 15, 16, 16, 1))
    blob = np.zeros((16, 16))
    blob[1:3, 12:15] = [[0.3, 1, 0.5], [0.8, 0.4, 0.2]]
    for t in (8, 9):
        clips[0, t, ..., 0] = scipy.ndimage.shift(blob, (3 * (t - 8), -(t - 8)), order=0)
    moved = page["move_on"](clips)[0, ..., 0]
    for k in range(5):
        expected = scipy.ndimage.shift(blob, (3 * (k + 2), -(k + 2)), order=0)
        np.testing.assert_allclose(moved[k], expected, atol=1e-6)


def test_shapes_and_parameters(page, page_of):
    def lstm(inputs, units):
        return 4 * units * (inputs + units + 1)

    for dataset, units, film in (("mnist", 256, page["film"]), ("digits", 96, None)):
        film = film or page_of[dataset]["film"]
        assert film.input_shape == (None, 10, 16, 16, 1)
        assert film.output_shape == (None, 15, 16, 16, 1)
        see = (9 * 16 + 16) + (9 * 16 * 32 + 32) + (4 * 4 * 32 * 128 + 128) + 4 * 128
        wide = 3 * units // 2
        draw = (units * wide + wide) + (wide * 512 + 512) + (9 * 32 * 16 + 16) + (16 * 16 + 1)
        code = units * 72 + 72 + 4 * 72
        expected = see + lstm(128, units) + code + lstm(72, units) + draw
        assert film.count_params() == expected
        path = ROOT / "saved_models" / dataset / "07b_frames.h5"
        assert modelfile.read(path).facts["parameters"] == expected
    assert page["encoder"].output_shape == (None, 72)


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_each_frame_is_seen_and_drawn_by_the_same_network(page_of, name):
    """TimeDistributed is that network, one frame at a time; NumPy does what lies between."""
    page = page_of[name]
    trained(page, name)
    clips, _ = page["make_clips"](np.random.default_rng(0).random((4, 28, 28, 1)), seed=7)
    reports = np.stack([page["see"](clips[:, t]) for t in range(10)], axis=1)

    def layer(model, kind):
        (found,) = [x for x in model.layers if isinstance(x, kind)]
        return found

    kinds = keras.layers.LSTM, keras.layers.Dense, keras.layers.BatchNormalization
    lstm, dense, norm = (layer(page["encoder"], kind) for kind in kinds)
    _, h, _ = numpy_lstm(lstm, reports.astype(np.float64))
    kernel, bias = dense.get_weights()
    gamma, beta, mean, variance = norm.get_weights()
    code = (h @ kernel + bias - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    np.testing.assert_allclose(page["encoder"](clips[:, :10]), code, atol=1e-3)
    lstm = layer(page["decoder"], keras.layers.LSTM)
    states, _, _ = numpy_lstm(lstm, np.repeat(code[:, np.newaxis], 15, axis=1))
    frames = np.stack([page["draw"](states[:, t]) for t in range(15)], axis=1)
    np.testing.assert_allclose(page["film"](clips[:, :10]), frames, atol=1e-3)


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_saved_weights_reach_the_saved_metrics_and_the_claim(page_of, datasets, name):
    page = page_of[name]
    facts = trained(page, name)
    images = of(datasets, name)[1][0][:2000]
    clips, _ = page["make_clips"](images, seed=3)
    frames = page["film"].predict(clips[:, :10], batch_size=100, verbose=0)
    assert facts["held_out"]["mse"] == pytest.approx(np.mean((frames - clips) ** 2), rel=1e-3)
    other, _ = page["make_clips"](images, seed=99)  # the same digits on ways never used
    again = page["film"].predict(other[:, :10], batch_size=100, verbose=0)
    error = np.mean((again - other)[:, 10:] ** 2)
    assert error == pytest.approx(np.mean((frames - clips)[:, 10:] ** 2), rel=0.1)
    if name == "mnist":
        assert np.mean((again - other) ** 2) <= 0.015
        assert error <= 0.015, "no larger for the five that it never saw"
        last = np.mean((other[:, 9:10] - other[:, 10:]) ** 2)
        moved = np.mean((page["move_on"](other) - other[:, 10:]) ** 2)
        assert error < min(last, moved) / 2


def test_the_linear_rivals_are_ridge_regressions(page):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 8)), random.uniform(0, 1, (60, 5))
    new = random.normal(size=(7, 8))
    for penalty in (0.1, 10.0):
        expected = np.clip(Ridge(alpha=penalty).fit(x, y).predict(new), 0, 1)
        np.testing.assert_allclose(page["fit_linear"](x, y, penalty)(new), expected, atol=1e-8)


def test_the_table_is_what_was_measured(page, datasets):
    """PCA and ridge computed anew by scikit-learn, on fewer clips: never better than the table."""
    (x_train, _), (x_test, labels) = of(datasets, "mnist")[:2]
    facts = trained(page, "mnist")
    table = next(t for t in stored_tables(PATH) if "PCA, 72 numbers" in t and "ridge" in t)
    clips, _ = page["make_clips"](x_test[:2000], seed=3)
    train, _ = page["make_clips"](x_train[:20_000], seed=1)
    pixels, pixels_test = (c[:, :10].reshape(len(c), -1) for c in (train, clips))
    pca = PCA(72, random_state=0).fit(pixels)
    linear = Ridge(alpha=100).fit(pca.transform(pixels), train.reshape(len(train), -1))
    frames = np.clip(linear.predict(pca.transform(pixels_test)), 0, 1).reshape(clips.shape)
    row = table["PCA, 72 numbers"]
    for column, part in (("MSE, ten seen", slice(0, 10)), ("MSE, five predicted", slice(10, 15))):
        error = np.mean((frames[:, part] - clips[:, part]) ** 2)
        assert float(row[column]) == pytest.approx(error, rel=0.01)
    own = page["film"].predict(clips[:, :10], batch_size=100, verbose=0)
    row = table["network"]
    assert float(row["MSE, all fifteen"]) == pytest.approx(facts["held_out"]["mse"], abs=6e-5)
    predicted = np.mean((own - clips)[:, 10:] ** 2)
    assert float(row["MSE, five predicted"]) == pytest.approx(predicted, abs=6e-5)
    judge = page_judge("mnist")
    for name, last in (("the clips themselves", clips[:, -1]), ("network", own[:, -1])):
        right = np.mean(np.argmax(judge.predict(last, verbose=0)["digit"], 1) == labels[:2000])
        assert table[name]["read"] == f"{right:.1%}"
    by_pca, by_ridge = table["PCA, 72 numbers"], table["ridge"]
    assert predicted < float(by_pca["MSE, five predicted"]) / 1.5, "half as much error again"
    assert float(by_ridge["MSE, five predicted"]) < predicted, "the shortcut"
    read = {name: float(r["read"].rstrip("%")) for name, r in table.items()}
    assert read["PCA, 72 numbers"] + 10 < read["network"] < read["ridge"]
    last = np.mean((clips[:, 9:10] - clips[:, 10:]) ** 2)
    assert float(table["last frame"]["MSE, five predicted"]) == pytest.approx(last, abs=6e-5)
    moved = np.mean((page["move_on"](clips) - clips[:, 10:]) ** 2)
    assert float(table["moved on"]["MSE, five predicted"]) == pytest.approx(moved, abs=6e-5)


def page_judge(dataset):
    judge = definitions(PATH, "judge", dataset=dataset, **GIVEN)["judge"]
    path = ROOT / "saved_models" / dataset / "07b_frames-judge.h5"
    modelfile.set_weights(judge, modelfile.read(path), path)
    return judge


def test_walls_are_split_by_the_motion_alone(page, datasets):
    """A clip goes straight on if its last five places lie on one line with the two before."""
    places = page["make_clips"](of(datasets, "mnist")[1][0][:2000], seed=3)[1]
    line = places[:, 9:10] + (places[:, 9:10] - places[:, 8:9]) * np.arange(1, 6)[:, np.newaxis]
    straight = np.all(places[:, 10:] == line, axis=(1, 2)).sum()
    (table,) = [t for t in stored_tables(PATH) if any("bounces" in c for c in t.get("network", {}))]
    columns = [f"straight on ({straight} clips)", f"bounces ({2000 - straight})"]
    assert list(table["network"]) == columns
    assert float(table["moved on"][columns[0]]) < 1e-4


def test_the_code_knows_place_and_direction():
    text = stored_text(PATH)
    shares = [float(part.split("%")[0].split()[-1]) for part in text.split("place: ")[1].split(";")]
    place, direction, digit = shares[:3]
    assert place > 90 and direction > 90 and digit > 60
