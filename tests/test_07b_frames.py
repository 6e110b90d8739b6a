"""The definitions of 07b_frames, taken out of the notebook and put to the test."""

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, numpy_lstm

from ae_keras import modelfile

PATH = ROOT / "notebooks" / "07b_frames.ipynb"


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "film", "make_clips", "move_on")


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


def test_shapes_and_parameters(page):
    def lstm(inputs, units):
        return 4 * units * (inputs + units + 1)

    film = page["film"]
    assert film.input_shape == (None, 10, 16, 16, 1)
    assert film.output_shape == (None, 15, 16, 16, 1)
    assert page["encoder"].output_shape == (None, 72)
    see = (9 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 * 32 + 32) + (2 * 2 * 32 * 48 + 48) + 4 * 48
    draw = (72 * 256 + 256) + (9 * 16 * 16 + 16) + (25 * 16 + 1)
    assert film.count_params() == see + lstm(48, 72) + 4 * 72 + lstm(72, 72) + draw


def test_each_frame_is_seen_and_drawn_by_the_same_network(page, dataset):
    """TimeDistributed is that network, one frame at a time; numpy does what lies between."""
    trained(page, dataset)
    clips, _ = page["make_clips"](np.random.default_rng(0).random((4, 28, 28, 1)), seed=7)
    reports = np.stack([page["see"](clips[:, t]) for t in range(10)], axis=1)
    lstm, norm = [layer for layer in page["encoder"].layers if layer.name.startswith(("lstm", "b"))]
    _, h, _ = numpy_lstm(lstm, reports.astype(np.float64))
    gamma, beta, mean, variance = norm.get_weights()
    code = (h - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    np.testing.assert_allclose(page["encoder"](clips[:, :10]), code, atol=1e-4)
    (lstm,) = [x for x in page["decoder"].layers if isinstance(x, keras.layers.LSTM)]
    states, _, _ = numpy_lstm(lstm, np.repeat(code[:, np.newaxis], 15, axis=1))
    frames = np.stack([page["draw"](states[:, t]) for t in range(15)], axis=1)
    np.testing.assert_allclose(page["film"](clips[:, :10]), frames, atol=1e-4)


def test_saved_weights_reach_the_saved_figures_and_the_claim(page, datasets, dataset):
    facts = trained(page, dataset)
    path = ROOT / "saved_models" / dataset / "07b_frames.h5"
    assert path.stat().st_size <= 600_000
    images = datasets[dataset][1][0][:1000]
    clips, _ = page["make_clips"](images, seed=3)
    drawn = page["film"].predict(clips[:, :10], batch_size=100, verbose=0)
    assert facts["held_out"]["mse"] == pytest.approx(np.mean((drawn - clips) ** 2), rel=1e-3)
    other, _ = page["make_clips"](images, seed=99)  # the same digits on ways never used
    again = page["film"].predict(other[:, :10], batch_size=100, verbose=0)
    error = np.mean((again - other)[:, 10:] ** 2)
    assert error == pytest.approx(np.mean((drawn - clips)[:, 10:] ** 2), rel=0.1)
    last = np.mean((other[:, 9:10] - other[:, 10:]) ** 2)
    assert error < last / 2 if dataset == "mnist" else error < last
