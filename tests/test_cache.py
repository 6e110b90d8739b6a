"""fit_or_load: what it trains, what it loads, what it refuses, and what it leaves in peace."""

import functools
import json
import os
import re
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from helpers import ROOT, build, weights_equal

from ae_keras import cache, modelfile
from ae_keras.errors import (
    ArgumentError,
    DamagedModelError,
    TrainingDivergedError,
    TrainingRequiredError,
)

FIT = {"dataset": "digits", "epochs": 2, "batch_size": 16, "seed": 3}
RANDOM = np.random.default_rng(1)  # other data than `x`, and each array another size
Y = RANDOM.random((64, 6), dtype=np.float32)  # targets that are not the inputs
VALID = tuple(RANDOM.random((2, 17, 6), dtype=np.float32))
TEST = tuple(RANDOM.random((2, 23, 6), dtype=np.float32))


def run(model, x, y=None, **changes):
    given = {"validation_data": VALID, "held_out": TEST} | FIT | changes
    return cache.fit_or_load(model, "00_test", x, x if y is None else y, **given)


def squared_error(model, pair):
    """Compute a model's mean squared error without Keras's losses."""
    x, y = pair
    return np.mean(np.square(y - model.predict(x, verbose=0)), dtype=np.float64)


def rendered(text):
    """Return the lines that a terminal shows in the end: a carriage return goes back to begin."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def files(path):
    return sorted(p.name for p in path.parent.iterdir())


@pytest.mark.parametrize("seed", [0, 3])
def test_trains_as_fit_does(x, path, seed):
    """With targets that are not the inputs, and with 0, which is a seed like any other."""
    model, plain = build(), build()
    history = run(model, x, Y, seed=seed)
    keras.utils.set_random_seed(seed)
    expected = plain.fit(x, Y, epochs=2, batch_size=16, verbose=0, validation_data=VALID)
    for weight, exact in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert np.array_equal(weight, exact.astype(np.float16))  # half precision, for the file
    assert history.history == expected.history
    assert set(history.history) == {"loss", "val_loss"}
    assert history.epoch == expected.epoch
    assert files(path) == ["00_test.h5"]


def test_without_a_seed_the_random_state_goes_on(x, path):
    weights = []
    for state in (5, 5, 6):
        model = build()
        keras.utils.set_random_seed(state)
        path.unlink(missing_ok=True)
        run(model, x, seed=None)
        weights.append(model.get_weights())
    first, again, other = weights
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_each_seed_trains_its_own_model(x, path):
    models = {}
    for seed in (0, 1, 3):
        path.unlink(missing_ok=True)
        models[seed] = build()
        run(models[seed], x, seed=seed)
    assert not weights_equal(models[0], models[1])
    assert not weights_equal(models[1], models[3])
    assert not weights_equal(models[0], models[3])


def test_loads_the_same_weights_and_history_without_training(trained, x, monkeypatch, capsys):
    model = build()
    monkeypatch.setattr(model, "fit", None)
    history = run(model, x)
    assert weights_equal(model, trained)
    assert history.history == trained.history_seen.history
    assert [len(values) for values in history.history.values()] == [2, 2]
    assert history.history["val_loss"] != history.history["loss"]
    assert history.epoch == [0, 1]
    assert history.held_out == trained.history_seen.held_out


def test_held_out_metrics_are_those_of_the_held_out_part(trained, x):
    """Not those of the training or the validation part, and not of the weights before training."""
    history = run(build(), x)
    parts = {"test": TEST, "validation": VALID, "training": (x, x)}
    errors = {part: squared_error(trained, pair) for part, pair in parts.items()}
    for found in (trained.history_seen.held_out, history.held_out):
        assert found == {"loss": pytest.approx(errors["test"], rel=1e-5)}
    # what fit reports is of the weights before they are rounded for the file
    assert history.history["val_loss"][-1] == pytest.approx(errors["validation"], rel=1e-3)
    for a, b in (("test", "validation"), ("test", "training"), ("validation", "training")):
        assert abs(errors[a] / errors[b] - 1) > 1e-3  # so that a mistake would show
    assert abs(squared_error(build(), TEST) / errors["test"] - 1) > 1e-3


def test_what_is_printed_is_validation_and_never_test(x, capsys):
    model = build()
    run(model, x)
    trained_line = rendered(capsys.readouterr().out)[-1]
    run(build(), x)
    loaded_line = rendered(capsys.readouterr().out)[-1]
    end = f"2 epochs, validation loss {squared_error(model, VALID):.4f}"
    assert re.fullmatch(rf"00_test \(digits\): trained in \d+ s; {end}", trained_line)
    assert loaded_line == f"00_test (digits): loaded; {end}"
    assert f"{squared_error(model, TEST):.4f}" not in trained_line + loaded_line


def test_printed_metrics_have_their_own_names_and_the_loss_comes_once(x, capsys):
    def compiled(loss):
        model = build()
        model.compile("adam", loss, metrics=[keras.metrics.MeanSquaredError(name="mse")])
        return model

    for loss, names in (("mean_squared_error", ["mse"]), ("mean_absolute_error", ["loss", "mse"])):
        history = run(compiled(loss), x, epochs=3)
        said = rendered(capsys.readouterr().out)
        (line,) = [line for line in said if "3 epochs" in line]
        ends = [f"{name} {history.history[f'val_{name}'][-1]:.4f}" for name in names]
        assert sorted(line.partition("validation ")[2].split(", ")) == ends


def test_without_validation_nothing_is_printed_of_it(x, capsys):
    run(build(), x, validation_data=None)
    assert rendered(capsys.readouterr().out)[-1].endswith(" s; 2 epochs")


def test_progress_is_shown_and_gone_in_the_end(x, capsys, monkeypatch):
    often = functools.partial(cache.tqdm.tqdm, mininterval=0)  # however fast the machine is
    monkeypatch.setattr(cache.tqdm, "tqdm", often)
    history = run(build(), x)
    said = capsys.readouterr()
    assert "00_test" not in said.err
    assert "00_test: 100%" in said.out  # the bar, while it is there
    for value in history.history["val_loss"]:
        assert f"val_loss {value:.4f}" in said.out
    assert [line[:33] for line in rendered(said.out)] == [
        "00_test (digits): training, becau",
        f"00_test (digits): trained in {rendered(said.out)[1].split()[4]} s; "[:33],
    ]


def test_file_is_a_whole_model_that_keras_opens(trained, x, path):
    model = keras.models.load_model(path, compile=False)
    np.testing.assert_array_equal(model.predict(x, verbose=0), trained.predict(x, verbose=0))
    weights_only = build()
    weights_only.load_weights(path)
    assert weights_equal(weights_only, trained)


class Halved(keras.layers.Layer):
    """Sums of pairs, and back: one layer, used in both directions."""

    def call(self, inputs, back=False):
        return keras.ops.repeat(inputs, 2, axis=-1) if back else inputs[:, ::2] + inputs[:, 1::2]


def test_code_size_of_a_layer_that_is_used_twice():
    image, halve = keras.Input((6,)), Halved()
    assert cache._code_size(keras.Model(image, halve(halve(image), back=True))) == 3
    dense = keras.layers.Dense(6)
    assert cache._code_size(keras.Model(image, dense(dense(image)))) == 6


def test_code_size_of_a_sequential_model():
    layers = [keras.layers.Dense(units) for units in (5, 2, 6)]
    assert cache._code_size(keras.Sequential([keras.Input((6,)), *layers])) == 2


def test_file_says_where_it_comes_from(trained, x, path):
    with h5py.File(path) as file:
        facts = {k: v for k, v in file.attrs.items() if k.startswith("ae_keras_")}
    assert len(facts.pop("ae_keras_digest")) == len(json.loads(facts["ae_keras_fingerprint"])) == 64
    facts = {key.removeprefix("ae_keras_"): json.loads(value) for key, value in facts.items()}
    assert (facts["format"], facts["name"], facts["dataset"]) == (1, "00_test", "digits")
    assert (facts["parameters"], facts["code_size"], facts["seed"]) == (45, 3, 3)
    assert facts["keras"] == keras.__version__
    assert facts["seconds"] >= 0
    assert facts["recipe"]["epochs"] == 2
    assert facts["held_out"]["loss"] == pytest.approx(squared_error(trained, TEST), rel=1e-5)
    ends = [values[-1] for values in facts["history"].values()]
    assert ends == [values[-1] for values in trained.history_seen.history.values()]


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        ({"activation": "tanh"}, {}, "activation: relu → tanh"),
        ({"units": 4}, {}, "units: 3 → 4"),
        ({"loss": "mean_absolute_error"}, {}, "loss: mean_squared_error → mean_absolute_error"),
        ({"learning_rate": 0.02}, {}, "optimizer.learning_rate: 0.01 → 0.02"),
        ({}, {"epochs": 3}, "epochs: 2 → 3"),
        ({}, {"batch_size": 8}, "batch_size: 16 → 8"),
        ({}, {"seed": 4}, "seed: 3 → 4"),
        ({}, {"shuffle": False}, "shuffle: (absent) → False"),
    ],
)
def test_a_change_makes_the_file_stale(trained, x, path, capsys, arguments, changes, named):
    shipped = path.read_bytes()
    edited = build(**arguments)
    run(edited, x, **changes)
    assert named in capsys.readouterr().out
    assert path.read_bytes() == shipped
    assert [name[:15] for name in files(path)] == ["00_test.edited-", "00_test.h5"]
    again = build(**arguments)  # the experiment has a cache of its own
    again.fit = None
    run(again, x, **changes)
    assert weights_equal(again, edited)


@pytest.mark.parametrize(
    ("part", "named"),
    [("x", "data.x"), ("y", "data.y"), ("held_out", "data.held_out[0]"), ("valid", "validation_d")],
)
def test_other_data_make_the_file_stale(trained, x, capsys, part, named):
    """A single pixel of one part is enough, and the message names the part."""
    changed = {"x": x, "y": x, "held_out": TEST[0], "valid": VALID[0]}
    changed[part] = changed[part].copy()
    changed[part][-1, -1] += 1e-3
    held_out, validation = (changed["held_out"], TEST[1]), (changed["valid"], VALID[1])
    run(build(), changed["x"], changed["y"], held_out=held_out, validation_data=validation)
    said = capsys.readouterr().out
    assert "training, because" in said and f"other settings: {named}" in said


def test_the_way_a_function_is_written_does_not_matter_but_what_it_does(x, capsys):
    beta = 1.0

    def loss(y, y_hat):  # a comment
        return beta * keras.ops.mean(keras.ops.square(y - y_hat))

    run(build(loss=loss), x)

    def loss(y, y_hat):
        return beta * keras.ops.mean(
            keras.ops.square(y - y_hat),
        )

    capsys.readouterr()
    run(build(loss=loss), x)
    assert "loaded" in capsys.readouterr().out
    beta = 2.0
    run(build(loss=loss), x)
    assert "loss.beta: 1.0 → 2.0" in capsys.readouterr().out


def test_deleting_the_file_trains_again_to_the_same_weights(trained, x, path):
    loaded = build()
    run(loaded, x)
    path.unlink()
    run(loaded, x)  # the same cell once more: the model is a trained one
    assert weights_equal(loaded, trained)
    path.unlink()
    trained_before = build()
    run(trained_before, x)
    path.unlink()
    run(trained_before, x)
    assert weights_equal(trained_before, trained)


def test_weights_are_kept_in_half_precision(trained, path):
    """The model in memory has the same weights as its file, which Keras opens, too."""
    found = {}
    with h5py.File(path) as file:
        file["model_weights"].visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    assert len(found) == len(trained.get_weights()) == 4
    assert {array.dtype for array in found.values()} == {np.dtype(np.float16)}
    opened = keras.models.load_model(path, compile=False)
    assert weights_equal(opened, trained)


def test_what_half_precision_cant_hold_is_kept_whole(trained, path):
    facts = modelfile.read(path).facts
    model = build()
    kernel, bias, *others = model.get_weights()
    kernel[0, 0], bias[0] = 1e5, 1 / 3  # beyond float16's range, and between two of its numbers
    model.set_weights([kernel, bias, *others])
    modelfile.save(model, path, facts)
    for saved, weight in zip(modelfile.read(path).weights, model.get_weights(), strict=True):
        assert np.array_equal(saved, weight)
    modelfile.halve(model)
    first, second, *rest = model.get_weights()
    assert np.array_equal(first, kernel) and second[0] == np.float32(np.float16(1 / 3))
    for half, weight in zip(rest, others, strict=True):
        np.testing.assert_allclose(half, weight, rtol=5e-4, atol=1e-7)


@pytest.mark.parametrize("damage", ["cut", "empty", "html", "flipped", "foreign", "nan"])
def test_a_damaged_file_is_never_loaded(trained, x, path, monkeypatch, damage):
    image = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(image[: len(image) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "html":
        path.write_text("<!doctype html><title>Log in to this network</title>")
    elif damage == "flipped":
        weight = trained.get_weights()[0].astype(np.float16).tobytes()
        image[bytes(image).index(weight) + 5] ^= 1
        path.write_bytes(image)
    elif damage == "foreign":
        build().save(path)
    elif damage == "nan":
        facts = modelfile.read(path).facts
        broken = build()
        broken.set_weights([w * np.nan for w in broken.get_weights()])
        with pytest.raises(modelfile.CacheError):
            modelfile.save(broken, path, facts)
        with h5py.File(path, "r+") as file:
            kernel = file["model_weights"]
            while isinstance(kernel, h5py.Group):
                kernel = kernel[sorted(kernel)[0]]
            kernel[...] = np.nan
    damaged = path.read_bytes()
    model = build()
    before = model.get_weights()
    monkeypatch.setenv("AE_KERAS_CACHE", "strict")
    with pytest.raises(DamagedModelError, match=r"00_test\.h5: .+\. Delete this file to retrain"):
        run(model, x)
    assert all(map(np.array_equal, before, model.get_weights()))
    monkeypatch.delenv("AE_KERAS_CACHE")
    with pytest.warns(UserWarning, match="Delete this file to retrain"):
        run(model, x)
    assert weights_equal(model, trained)
    assert files(path) == ["00_test.h5", "00_test.h5.damaged-1"]
    assert path.with_name("00_test.h5.damaged-1").read_bytes() == damaged


def test_weights_of_other_shapes_touch_nothing(trained, path):
    model = build(units=4)
    before = model.get_weights()
    with pytest.raises(DamagedModelError, match="other shapes"):
        modelfile.set_weights(model, modelfile.read(path), path)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_require_forbids_training(x, monkeypatch, path):
    monkeypatch.setenv("AE_KERAS_CACHE", "require")
    with pytest.raises(TrainingRequiredError, match="is not there"):
        run(build(), x)
    monkeypatch.delenv("AE_KERAS_CACHE")
    run(build(), x)
    monkeypatch.setenv("AE_KERAS_CACHE", "require")
    run(build(), x)
    with pytest.raises(TrainingRequiredError, match="activation: relu → tanh"):
        run(build(activation="tanh"), x)
    path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="empty"),
        pytest.raises(TrainingRequiredError, match="empty"),
    ):
        run(build(), x)


@pytest.mark.parametrize("variable", ["AE_KERAS_EPOCHS", "KERAS_MAX_EPOCHS"])
def test_shortened_training_is_never_the_shipped_file(trained, x, path, monkeypatch, variable):
    shipped = path.read_bytes()
    if variable == "AE_KERAS_EPOCHS":
        monkeypatch.setenv(variable, "1")
    else:
        monkeypatch.setattr(keras.config, "max_epochs", lambda: 1)
    assert len(run(build(), x).epoch) == 1
    assert path.read_bytes() == shipped
    path.unlink()
    run(build(), x)
    assert not path.exists()
    assert files(path)[0].startswith("00_test.1-epoch-")


def test_held_out_metrics_of_another_model(trained):
    found = cache.held_out_metrics("00_test", "digits")
    assert found == {"loss": pytest.approx(squared_error(trained, TEST), rel=1e-5)}
    assert cache.held_out_metrics("00_none", "digits") == {}
    assert cache.held_out_metrics("00_test", "mnist") == {}  # another dataset's


def test_results_are_those_of_the_shipped_models(trained, x, path, monkeypatch):
    run(build(activation="tanh"), x)  # an experiment
    monkeypatch.setenv("AE_KERAS_EPOCHS", "1")
    run(build(), x)
    assert len(files(path)) == 3
    found = cache.results("digits")
    assert list(found) == ["00_test"]
    assert found["00_test"]["parameters"] == trained.count_params()
    assert found["00_test"]["held_out"] == cache.held_out_metrics("00_test", "digits")
    assert cache.results("mnist") == {}


def test_fingerprints_are_the_same_whether_trained_or_loaded(x, path):
    run(build(), x)
    first = cache.fingerprints()["00_test"]
    assert first == modelfile.read(path).facts["fingerprint"]
    run(build(activation="tanh"), x)
    assert cache.fingerprints()["00_test"] != first
    run(build(), x)
    assert cache.fingerprints()["00_test"] == first


def test_diverged_training_saves_nothing(x, path):
    with pytest.raises(TrainingDivergedError, match="not finite in epoch 1"):
        run(build(learning_rate=1e30), x)
    assert not path.exists() or files(path) == []


def test_interrupted_training_saves_nothing(x, path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(build(), x, callbacks=[Interrupt()])
    assert files(path) == []


def test_unwritable_folder_is_known_before_training(x, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("not a folder")
    monkeypatch.setenv("AE_KERAS_MODELS", str(tmp_path / "a file"))
    model = build()
    said = []
    fit = model.fit
    model.fit = lambda *a, **k: (said.append("training"), fit(*a, **k))[1]
    with pytest.warns(UserWarning, match=r"can't be written .*AE_KERAS_MODELS") as warned:
        history = run(model, x)
    assert warned and said == ["training"]
    assert len(history.epoch) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "part of a file's name"),
        ({"dataset": ""}, "part of a file's name"),
        ({"x": [[1.0] * 6]}, "no array of numbers"),
        ({"x": np.zeros((64, 5), np.float32)}, "takes"),
        ({"x": np.zeros((64, 6, 1), np.float32)}, "takes"),
        ({"x": np.full((64, 6), np.nan, np.float32)}, "NaN"),
        ({"x": np.full((64, 6), "a")}, "no array of numbers"),
        ({"y": np.zeros((63, 6), np.float32)}, "samples"),
        ({"seed": 1.5}, "whole number"),
    ],
)
def test_bad_arguments_are_refused_by_name(x, change, message):
    arguments = {"name": "00_test", "x": x, "y": x, **FIT} | change
    with pytest.raises(ArgumentError, match=message):
        cache.fit_or_load(build(), **arguments)
    assert not modelfile.models_folder().exists()


@pytest.mark.parametrize(
    ("variable", "value"), [("AE_KERAS_EPOCHS", "0"), ("AE_KERAS_CACHE", "on")]
)
def test_bad_settings_are_refused_by_name(x, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ArgumentError, match=f"{variable}={value}"):
        run(build(), x)


def test_a_model_must_be_compiled_and_of_known_shape(x):
    with pytest.raises(ArgumentError, match=r"model\.compile"):
        cache.fit_or_load(
            keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)]), "00_test", x, x, **FIT
        )
    with pytest.raises(ArgumentError, match="input shape"):
        cache.fit_or_load(keras.Sequential([keras.layers.Dense(6)]), "00_test", x, x, **FIT)


def test_importing_adds_no_slow_package():
    code = (
        "import sys, keras, tensorflow; before = set(sys.modules);"
        "from ae_keras import cache, data, metrics, plots;"
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    ).stdout
    assert "ae_keras" in out
    assert not {"sklearn", "scipy", "matplotlib", "skimage"} & set(eval(out))


@keras.saving.register_keras_serializable("test")
class Weighted(keras.losses.Loss):
    """A loss that keeps its weight to itself: `get_config` doesn't tell it."""

    def __init__(self, weight=1.0):
        super().__init__()
        self._weight = weight

    def call(self, y, y_hat):
        return self._weight * keras.ops.mean(keras.ops.square(y - y_hat))


class Faded(keras.callbacks.Callback):
    def __init__(self, rate):
        super().__init__()
        self._rate = rate


class Beta(keras.Model):
    """A functional model with a number of its own, such as a VAE's β."""


def test_what_get_config_leaves_out_is_noticed_too(x, capsys):
    table, numbers = {"b": 1.0}, np.ones(3)

    def loss(y, y_hat):
        return table["b"] * numbers[0] * keras.ops.mean(keras.ops.square(y - y_hat))

    def with_beta(beta):
        plain = build()
        model = Beta(plain.inputs, plain.outputs)
        model.beta = beta
        model.compile("adam", "mean_squared_error")
        return model

    def change_table():
        table["b"] = 2.0

    def change_numbers():
        numbers[0] = 2.0

    cases = [
        (
            lambda: run(build(loss=Weighted(1.0)), x),
            None,
            lambda: run(build(loss=Weighted(2.0)), x),
        ),
        (lambda: run(build(loss=loss), x), change_table, lambda: run(build(loss=loss), x)),
        (lambda: run(build(loss=loss), x), change_numbers, lambda: run(build(loss=loss), x)),
        (
            lambda: run(build(), x, callbacks=[Faded(1)]),
            None,
            lambda: run(build(), x, callbacks=[Faded(2)]),
        ),
        (lambda: run(with_beta(1.0), x), None, lambda: run(with_beta(9.0), x)),
    ]
    for before, change, after in cases:
        (modelfile.models_folder() / "digits" / "00_test.h5").unlink(missing_ok=True)
        before()
        capsys.readouterr()
        before()
        assert "loaded" in capsys.readouterr().out
        if change:
            change()
        after()
        assert "training, because" in capsys.readouterr().out


def test_three_branches_are_described(x):
    image = keras.Input((6,))
    branches = [keras.layers.Dense(2)(image) for _ in range(3)]
    model = keras.Model(image, keras.layers.Dense(6)(keras.layers.Concatenate()(branches)))
    model.compile("adam", "mean_squared_error")
    run(model, x)


def test_operations_that_are_no_layers_are_described(x, capsys):
    """Such as the comparison with 0 that makes an Embedding's mask."""

    def with_operation(operation):
        number = keras.Input((6,), dtype="int32")
        vectors = keras.layers.Embedding(3, 2, mask_zero=True)(number)
        encoder = keras.Model(number, keras.layers.LSTM(2)(vectors))
        inner = keras.Input((6,), dtype="int32")
        z = operation(encoder(inner))
        model = keras.Model(inner, keras.layers.Dense(6)(z))
        model.compile("adam", "mean_squared_error")
        return model

    numbers = (3 * x).astype("int32")
    for operation in (keras.ops.square, keras.ops.tanh):
        cache.fit_or_load(with_operation(operation), "00_test", numbers, x, **FIT)
        assert "training, because" in capsys.readouterr().out
        cache.fit_or_load(with_operation(operation), "00_test", numbers, x, **FIT)
        assert "loaded" in capsys.readouterr().out


@pytest.mark.parametrize("held_out", [5, np.zeros((64, 6)), (np.zeros((3, 5)), np.zeros((3, 5)))])
def test_bad_held_out_images_are_refused_before_training(x, held_out):
    model = build()
    model.fit = None
    with pytest.raises(ArgumentError, match="held_out"):
        cache.fit_or_load(model, "00_test", x, x, held_out=held_out, **FIT)


def test_a_limit_beyond_the_epochs_changes_nothing(trained, x, monkeypatch):
    monkeypatch.setenv("AE_KERAS_EPOCHS", "100")
    model = build()
    model.fit = None
    run(model, x)
    assert weights_equal(model, trained)


def test_a_training_of_no_epoch_is_refused(x):
    with pytest.raises(ArgumentError, match="nothing would be trained"):
        cache.fit_or_load(build(), "none", x, x, **FIT | {"epochs": 0})
