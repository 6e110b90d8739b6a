"""06f_recurrence: its loops against Keras and SciPy, its numbers against the page's own words."""

import re

import keras
import numpy as np
import pytest
import scipy.special
from helpers import ROOT, definitions, numpy_lstm, read_notebook

PATH = ROOT / "notebooks" / "06f_recurrence.ipynb"


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "recurrent", "lstm", "softmax")


@pytest.fixture(scope="module")
def printed():
    outputs = [out for cell in read_notebook(PATH).cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


@pytest.fixture(scope="module")
def prose():
    cells = read_notebook(PATH).cells
    return " ".join(" ".join(c.source.split()) for c in cells if c.cell_type == "markdown")


def test_recurrent_is_keras_simple_rnn(page):
    random = np.random.default_rng(0)
    x = random.normal(size=(7, 3))
    layer = keras.layers.SimpleRNN(5, return_sequences=True)
    layer.build((None, 7, 3))
    weights = [random.normal(size=w.shape) for w in layer.get_weights()]
    layer.set_weights(weights)
    np.testing.assert_allclose(page["recurrent"](x, *weights), layer(x[None])[0], atol=1e-5)


def test_the_example_by_hand(page, printed, prose):
    states = page["recurrent"](np.array([[1.0], [0], [0]]), *map(np.array, ([[0.5]], [[0.8]], [0])))
    expected = [np.tanh(0.5), np.tanh(0.8 * np.tanh(0.5))]
    expected.append(np.tanh(0.8 * expected[1]))
    np.testing.assert_allclose(states[:, 0], expected)
    said = " ".join(f"{value:.3f}" for value in expected)
    assert f"by hand [{said}]" in printed
    assert f"return_sequences=True: (1, 3, 1) [{said}]" in printed
    assert f"return_sequences=False: (1, 1) [{expected[2]:.3f}]" in printed
    assert all(f" = {value:.3f}$" in prose for value in expected)


@pytest.mark.parametrize("steps", [1, 9])
def test_lstm_is_the_one_of_the_books(page, steps):
    random = np.random.default_rng(1)
    x = random.normal(size=(4, steps, 3))
    layer = keras.layers.LSTM(5)
    layer.build((None, steps, 3))
    layer.set_weights([random.normal(size=w.shape) for w in layer.get_weights()])
    _, last, _ = numpy_lstm(layer, x)
    found = page["lstm"](x, *layer.get_weights())
    np.testing.assert_allclose(found, last, atol=1e-6)
    np.testing.assert_allclose(found, layer(x), atol=1e-5)


def test_one_step_of_the_drawing(prose):
    """The gates 0.5, 0.2 and 0.7, the candidate 0.5 and the old cell 1."""
    cell = 0.5 * 1 + 0.2 * 0.5
    assert f"= {cell:.1f}, \\qquad" in prose
    assert f"= {0.7 * np.tanh(cell):.2f}.$$" in prose


def test_the_claim(printed):
    difference = float(re.search(r"largest difference of 32,000 numbers: (\S+)", printed)[1])
    size = float(re.search(r"mean size of these numbers: (\S+)", printed)[1])
    assert difference < 1e-5 < size / 100
    assert re.findall(r"([\d,]+) (?:in Keras|counted)", printed) == ["7,808"] * 2
    assert keras.layers.LSTM(32).compute_output_shape((None, 28, 28)) == (None, 32)


def test_a_new_lstm_is_changed_least_by_the_first_row(printed, prose):
    first, last = map(float, re.search(r"first row (\S+), by the last (\S+)", printed).groups())
    assert "about a seventieth of what the last row does" in prose
    assert 60 < last / first < 80


def test_effect_of_a_row_is_a_mean_change_of_the_last_state(page):
    """With an LSTM that sees one column alone, and images that are black there."""
    random = np.random.default_rng(2)
    images = random.random((6, 28, 28))
    layer = keras.layers.LSTM(3)
    layer.build((None, 28, 28))
    given = {"rows_of_digits": images, "layer": layer, "lstm": page["lstm"]}
    given["by_hand"] = page["lstm"](images, *layer.get_weights())
    effect = definitions(PATH, "effect_of_row", **given)["effect_of_row"]
    white = images.copy()
    white[:, 9] = 1
    expected = np.abs(layer(white) - layer(images)).mean()
    assert effect(9) == pytest.approx(float(expected), rel=1e-3)
    assert effect(27) > effect(0)
    np.testing.assert_array_equal(images, given["rows_of_digits"])


def test_softmax_and_its_loss(page, printed, prose):
    scores = np.random.default_rng(0).normal(size=(4, 5)) * 300
    np.testing.assert_allclose(page["softmax"](scores), scipy.special.softmax(scores, axis=-1))
    probabilities = scipy.special.softmax([2.0, 1.0, 0.0])
    costs = -np.log(probabilities)
    shown, answer = re.search(r"probabilities \[(.*?)\] – answer: (\w+)", printed).groups()
    assert [float(p) for p in shown.split()] == pytest.approx(probabilities, abs=6e-4)
    assert answer == "cat"
    assert f"if 'bird' is right: {costs[2]:.2f}" in printed
    assert f"{costs[0]:.2f} if *cat* is right, and {costs[2]:.2f} if *bird*" in prose
    assert "'dog' is row 1 of the table: True" in printed
