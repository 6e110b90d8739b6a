"""The definitions of 07_sequence_to_sequence, taken out of the notebook and put to the test."""

import itertools

import keras
import matplotlib.cbook
import numpy as np
import pytest
import scipy.spatial
from helpers import ROOT, definitions, numpy_lstm
from sklearn.metrics import roc_auc_score

from ae_keras import metrics, modelfile

PATH = ROOT / "notebooks" / "07_sequence_to_sequence.ipynb"
FOLDER = ROOT / "saved_models" / "membrane"
MODELS = {"": "composite", "-copy": "autoencoder", "-next": "forecaster", "-ramp": "small"}
TRAIN, VALID, TEST, ODD = "training", "validation", "test, same rhythm", "test, new rhythm"


@pytest.fixture(scope="module")
def page():
    names = (*MODELS.values(), "x", "y", "both", "regression", "linear", "voltage", "ramps")
    page = definitions(PATH, *names, matplotlib=matplotlib, metrics=metrics)
    page["held_out"] = {}
    for variant, name in MODELS.items():
        path = FOLDER / f"07_sequence_to_sequence{variant}.h5"
        saved = modelfile.read(path)
        modelfile.set_weights(page[name], saved, path)
        page["held_out"][name] = saved.facts["held_out"]
    return page


def encoder_of(model):
    (encoder,) = [layer for layer in model.layers if layer.name == "encoder"]
    return encoder


def by_numpy(encoder, decoder, x):
    """Compute code and output from the weights, without Keras and in double precision."""
    lstm, dense = [layer for layer in encoder.layers if layer.weights]
    _, h, _ = numpy_lstm(lstm, x.astype(np.float64))
    kernel, bias = dense.get_weights()
    code = h @ kernel + bias
    lstm, dense = [layer for layer in decoder.layers if layer.weights]
    steps = decoder.output_shape[1]
    outputs, _, _ = numpy_lstm(lstm, np.repeat(code[:, np.newaxis], steps, axis=1))
    kernel, bias = dense.get_weights()
    return code, outputs @ kernel + bias


def test_scale_is_that_of_the_training_part_alone(page):
    first = page["voltage"][:1000]
    np.testing.assert_allclose([page["mean"], page["scale"]], [first.mean(), first.std()])
    assert page["series"][:1000].mean() == pytest.approx(0, abs=1e-4)
    assert page["series"][:1000].std() == pytest.approx(1, abs=1e-4)
    assert abs(page["series"].mean()) > 0.01  # of all of it they are others


def test_parts_follow_each_other_in_time_and_no_window_crosses_a_border(page):
    parts, series = page["parts"], page["series"]
    borders = list(parts.values())
    assert borders[0][0] == 0 and borders[-1][1] == len(series) == 2500
    assert all(a[1] == b[0] for a, b in itertools.pairwise(borders))
    for part, (start, stop) in parts.items():
        x, y = page["x"][part], page["y"][part]
        assert len(x) == len(y) == stop - start - 60 + 1
        for n in (0, len(x) // 2, len(x) - 1):  # each window is what stands in the series, in order
            both = np.concatenate([x[n], y[n]])[:, 0]
            np.testing.assert_array_equal(both, series[start + n : start + n + 60])


def test_shapes_and_parameters(page):
    def lstm(inputs, units):
        return 4 * units * (inputs + units + 1)

    encoder = lstm(1, 48) + 49 * 8
    decoder = lstm(8, 48) + 49
    assert page["autoencoder"].count_params() == page["forecaster"].count_params()
    assert page["forecaster"].count_params() == encoder + decoder
    assert page["composite"].count_params() == encoder + 2 * decoder
    assert page["composite"].output_shape == [(None, 40, 1), (None, 20, 1)]


def test_composite_has_one_encoder_that_both_targets_train(page):
    """Its code feeds both decoders, and the gradient of either output reaches its weights."""
    import tensorflow as tf

    composite, x = page["composite"], page["x"][TEST][:8]
    encoder = encoder_of(composite)
    copy, ahead = [layer for layer in composite.layers if layer.name in ("copy", "next")]
    code = encoder(x)
    for output, decoder in zip(composite(x), (copy, ahead), strict=True):
        np.testing.assert_allclose(output, decoder(code), atol=1e-6)
    for n in (0, 1):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(composite(x)[n]))
        assert all(
            np.abs(g.numpy()).max() > 0 for g in tape.gradient(loss, encoder.trainable_variables)
        )
    alone = {id(encoder_of(page[name])) for name in ("composite", "autoencoder", "forecaster")}
    assert len(alone) == 3  # each of the three models has an encoder of its own


def test_noise_is_there_in_training_only(page):
    x = page["x"][TEST][:8]
    model = page["forecaster"]
    np.testing.assert_array_equal(model(x), model(x))
    assert np.abs(model(x, training=True) - model(x, training=True)).max() > 1e-4


@pytest.mark.parametrize("ridge", [1e-4, 1.0, 100.0])
def test_linear_autoregression_is_least_squares(page, ridge):
    """A ridge is least squares with extra rows √ridge·I that want 0 (Hoerl and Kennard 1970)."""
    a = np.c_[page["x"][TRAIN][..., 0], np.ones(len(page["x"][TRAIN]))].astype(np.float64)
    wanted = page["y"][TRAIN][..., 0].astype(np.float64)
    a = np.r_[a, np.sqrt(ridge) * np.eye(41)]
    weights, *_ = np.linalg.lstsq(a, np.r_[wanted, np.zeros((41, 20))], rcond=None)
    for part in (VALID, TEST, ODD):
        forecast = np.c_[page["x"][part][..., 0], np.ones(len(page["x"][part]))] @ weights
        np.testing.assert_allclose(page["regression"](ridge)[part][..., 0], forecast, atol=1e-3)


def test_ridge_is_the_best_on_the_validation_part(page):
    ours = metrics.mse(page["y"][VALID], page["linear"][VALID])
    for ridge in (1e-4, 1e-2, 1, 100):
        assert ours <= metrics.mse(page["y"][VALID], page["regression"](ridge)[VALID]) + 1e-12


def test_saved_figures_are_those_of_a_computation_without_keras(page):
    x, y = page["x"][TEST], page["y"][TEST]
    for name, targets in (("autoencoder", [x]), ("forecaster", [y]), ("composite", [x, y])):
        model = page[name]
        decoders = [layer for layer in model.layers if layer.name in ("copy", "next")]
        assert len(decoders) == len(targets)
        every = [by_numpy(encoder_of(model), decoder, x)[1] for decoder in decoders]
        errors = [np.mean((a - b) ** 2) for a, b in zip(every, targets, strict=True)]
        assert page["held_out"][name]["loss"] == pytest.approx(sum(errors), rel=1e-3)
        outputs = model(x) if len(targets) > 1 else [model(x)]
        for ours, theirs in zip(outputs, every, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_forecast_beats_its_rivals_in_the_same_rhythm_and_fails_in_the_new_one(page):
    def errors(part):
        x, y = page["x"][part][..., 0], page["y"][part][..., 0]
        ones = np.ones((len(x), 1))
        a = np.c_[page["x"][TRAIN][..., 0], np.ones(len(page["x"][TRAIN]))]
        weights, *_ = np.linalg.lstsq(a, page["y"][TRAIN][..., 0], rcond=None)
        found = {"mean": 0 * y, "last": x[:, -1:] * np.ones(20), "linear": np.c_[x, ones] @ weights}
        found["lstm"] = np.array(page["forecaster"](page["x"][part]))[..., 0]
        return {name: np.mean((y - forecast) ** 2) for name, forecast in found.items()}

    same, new = errors(TEST), errors(ODD)
    assert same["lstm"] < min(same["mean"], same["last"], same["linear"])
    assert new["lstm"] > new["mean"]  # the failure that the page admits


def test_a_ramp_is_learned_by_heart(page):
    known, *others = np.array(page["small"](page["ramps"]))
    np.testing.assert_allclose(known, page["ramps"][0], atol=0.05)
    for answer, ramp in zip(others, page["ramps"][1:], strict=True):
        to_known, to_own = (np.abs(answer - r).mean() for r in (page["ramps"][0], ramp))
        assert to_known < to_own


def test_code_tells_odd_windows_from_ordinary_ones(page):
    """Distances by brute force, to the three nearest codes of the training part."""
    encoder = encoder_of(page["composite"])
    codes = {part: np.array(encoder(page["x"][part])) for part in (TRAIN, TEST, ODD)}
    scores = []
    for part in (TEST, ODD):
        distances = scipy.spatial.distance.cdist(codes[part], codes[TRAIN])
        scores.append(np.sort(distances, axis=1)[:, :3].mean(axis=1))
    labels = np.repeat([0, 1], [len(scores[0]), len(scores[1])])
    assert roc_auc_score(labels, np.concatenate(scores)) > 0.8


def test_repeat_vector_and_time_distributed_do_what_the_page_says():
    pair = np.array([[1.0, 2.0], [3.0, 4.0]])
    repeated = np.array(keras.layers.RepeatVector(3)(pair))
    np.testing.assert_array_equal(repeated, np.repeat(pair[:, np.newaxis], 3, axis=1))
    layer = keras.layers.TimeDistributed(keras.layers.Dense(1))
    values = np.array(layer(repeated))
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(values, repeated @ kernel + bias, rtol=1e-6)
