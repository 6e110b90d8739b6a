"""Drawings of networks show the model's own tensors, for every kind of model on the pages."""

import keras
import numpy as np
import pytest
from matplotlib.colors import to_hex

from ae_keras import cache, networks, plots
from ae_keras.errors import ArgumentError

layers = keras.layers


def shapes(model):
    return [block.shape for block in networks.blocks_of(model)]


@pytest.fixture
def encoder():
    image = keras.Input((4, 4, 1))
    z = layers.Dense(3, activation="relu")(layers.Flatten()(image))
    return keras.Model(image, z, name="encoder")


@pytest.fixture
def decoder():
    code = keras.Input((3,))
    pixels = layers.Dense(16, activation="sigmoid")(code)
    return keras.Model(code, layers.Reshape((4, 4, 1))(pixels), name="decoder")


def test_nested_models_are_opened(encoder, decoder):
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, decoder(encoder(image)))
    blocks = networks.blocks_of(model)
    assert [b.shape for b in blocks] == [(4, 4, 1), (16,), (3,), (16,), (4, 4, 1)]
    assert [b.model for b in blocks] == ["", "encoder", "encoder", "decoder", "decoder"]
    assert [b.column for b in blocks] == [0, 1, 2, 3, 4]
    assert [b.label for b in blocks][2:4] == ["Dense\nrelu", "Dense\nsigmoid"]


def test_sequentials_joined_by_a_third_give_the_same(encoder, decoder):
    parts = [
        keras.Sequential([keras.Input(m.input_shape[1:]), *m.layers[1:]])
        for m in (encoder, decoder)
    ]
    model = keras.Sequential([keras.Input((4, 4, 1)), *parts])
    assert shapes(model) == [(4, 4, 1), (16,), (3,), (16,), (4, 4, 1)]


def test_a_shared_encoder_is_drawn_twice(encoder):
    a, b = keras.Input((4, 4, 1)), keras.Input((4, 4, 1))
    model = keras.Model([a, b], layers.Concatenate()([encoder(a), encoder(b)]))
    blocks = networks.blocks_of(model)
    assert [block.model for block in blocks].count("encoder (again)") == 2
    last = blocks[-1]
    assert last.shape == (6,) and {blocks[p].model for p in last.parents} == {
        "encoder",
        "encoder (again)",
    }


def test_two_outputs_and_a_cloud(decoder):
    image = keras.Input((4, 4, 1))
    features = layers.Dense(8)(layers.Flatten()(image))
    mean, log_var = (layers.Dense(2, name=name)(features) for name in ("mean", "log_var"))
    z = layers.Lambda(lambda pair: pair[0], output_shape=(2,), name="sample")([mean, log_var])
    encoder = keras.Model(image, [mean, log_var, z], name="encoder")
    mean, log_var, z = encoder(image)
    blocks = networks.blocks_of(keras.Model(image, [layers.Dense(16)(z), mean, log_var]))
    lambda_ = next(b for b in blocks if b.label == "Lambda\nsample")
    assert [blocks[p].label for p in lambda_.parents] == ["Dense\nmean", "Dense\nlog_var"]
    assert "Dense" in {b.label for b in blocks}  # one alone needs no name
    assert len({b.column for b in blocks if b.shape == (2,)}) == 2  # mean and log_var side by side


def test_the_code_of_joined_models_is_what_they_hand_on():
    """A cloud of two numbers, weighed by layers outside that make fewer numbers of it."""
    image, z = keras.Input((6,)), keras.Input((2,))
    encoder = keras.Model(image, layers.Dense(2)(layers.Dense(4)(image)), name="encoder")
    decoder = keras.Model(z, layers.Dense(6)(layers.Dense(4)(z)), name="decoder")
    code = encoder(image)
    price = layers.Dense(1)(code)
    for outputs in ([decoder(code), price], layers.Dense(1)(decoder(code))):
        model = keras.Model(image, outputs)
        assert networks._code_size(networks.blocks_of(model)) == 2
        assert cache._code_size(model) == 2


def test_a_scalar_is_one_number():
    image = keras.Input((4, 4, 1))
    code = layers.Dense(2)(layers.Flatten()(image))
    total = layers.Lambda(lambda z: keras.ops.sum(z, axis=-1), output_shape=(), name="sum")(code)
    model = keras.Model(image, [layers.Dense(16)(code), total])
    assert [b.shape for b in networks.blocks_of(model) if b.label == "Lambda\nsum"] == [(1,)]
    plots.network(model, "drawn without an error")


def test_recurrent_models_and_states():
    series = keras.Input((9, 2))
    _, h, c = layers.LSTM(5, return_state=True)(series)
    again = layers.LSTM(5, return_sequences=True)(layers.RepeatVector(7)(h), initial_state=[h, c])
    assert shapes(keras.Model(series, again)) == [(9, 2), (5,), (5,), (5,), (7, 5), (7, 5)]


def test_the_code_is_orange_in_whole_models_and_halves(encoder, decoder):
    image = keras.Input((4, 4, 1))
    for model in (keras.Model(image, decoder(encoder(image))), encoder, decoder):
        figure = plots.network(model, "Title 3")
        colors = [to_hex(p.get_facecolor()).upper() for p in figure.axes[0].patches]
        assert colors.count(plots.COLORS["code"]) == 1
        assert "3" in {text.get_text() for text in figure.axes[0].texts}
        assert figure.get_suptitle() == "Title 3"


def test_the_code_of_a_sequence_model_is_inside_it():
    """The outputs of a sequence model may be smaller than its code, and are no code."""
    series = keras.Input((9, 1))
    code = layers.LSTM(16)(series)
    model = keras.Model(series, layers.LSTM(1, return_sequences=True)(layers.RepeatVector(9)(code)))
    blocks = networks.blocks_of(model)
    assert networks._code_size(blocks) == 16


def test_convolutions_say_their_window_and_step():
    image = keras.Input((8, 8, 1))
    maps = layers.Conv2D(4, 5, strides=2, padding="same", activation="relu")(image)
    assert networks.blocks_of(keras.Model(image, maps))[1].label == "Conv2D\n5×5, stride 2\nrelu"


def test_what_is_no_network_is_refused():
    with pytest.raises(ArgumentError, match=r"keras\.Model"):
        plots.network(keras.Sequential([layers.Dense(3)]), "title")
    with pytest.raises(ArgumentError):
        plots.network(np.zeros(3), "title")


def test_a_skip_connection_runs_over_the_blocks_in_between():
    """Every arrow ends between two blocks, and one line passes above those that are skipped."""
    image = keras.Input((8, 8, 4))
    features = layers.Conv2D(4, 3, padding="same")(image)
    features = layers.Conv2D(4, 3, padding="same")(features)
    figure = plots.network(keras.Model(image, layers.Add()([features, image])), "skip")
    (axis,) = figure.axes
    (over,) = axis.lines
    x, y = over.get_data()
    assert list(x) == [0, 0, 3]
    heights = [patch.get_y() + patch.get_height() for patch in axis.patches]
    assert max(y) > max(heights)
    heads = [note.xy for note in axis.texts if getattr(note, "arrow_patch", None)]
    edges = sorted({patch.get_x() for patch in axis.patches})
    for head_x, head_y in heads:
        if head_y == 0:  # from neighbour to neighbour: it ends before the next block begins
            assert min(edge - head_x for edge in edges if edge > head_x) < 0.1
    assert len(heads) == 4
