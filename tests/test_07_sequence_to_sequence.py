"""The definitions of 07_sequence_to_sequence, taken out of the notebook and put to the test."""

import itertools

import keras
import matplotlib.cbook
import numpy as np
import pytest
from helpers import (
    ROOT,
    definitions,
    numpy_lstm,
    of,
    recorded,
    sigmoid,
    stored_tables,
    stored_text,
)
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor

from ae_keras import metrics, modelfile

PATH = ROOT / "notebooks" / "07_sequence_to_sequence.ipynb"
STEM = "07_sequence_to_sequence"
GIVEN = {"matplotlib": matplotlib, "metrics": metrics, "LinearRegression": LinearRegression}
FUNCTIONS = ("straight_line", "make_ramps", "period_ago", "linear", "nearest", "best_of")
FUNCTIONS += ("ridge_map", "with_gap", "interpolate", "fill_by_nearest", "in_gap", "cut")
MODELS = {"ramps": ("-ramps-copy", "-ramps-next", "-ramps-both"), "membrane": ("-membrane",)}
MODELS |= dict.fromkeys(("mnist", "digits"), ("-copy", "", "-both", "-gap"))


@pytest.fixture(scope="module")
def page():
    names = (*FUNCTIONS, "build", "ramp_models", "forecaster", "ramps", "steep", "y_spikes")
    names += ("x_spikes", "places", "voltage")
    given = {n: None for n in ("x_train", "x_valid", "x_test", "dataset", "digits")}
    page = definitions(PATH, *names, **GIVEN, **given)
    for name, model in page["ramp_models"].items():
        load(model, "ramps", f"-ramps-{name}")
    load(page["forecaster"], "membrane", "-membrane")
    return page


def load(model, dataset, variant):
    path = ROOT / "saved_models" / dataset / f"{STEM}{variant}.h5"
    saved = modelfile.read(path)
    modelfile.set_weights(model, saved, path)
    return saved.facts


def digit_models(dataset):
    """Build the page's models of digits with the weights of their files."""
    names = ("digit_models", "filler")
    found = definitions(PATH, *names, dataset=dataset, **GIVEN)
    models = {name: (model, f"-{name}") for name, model in found["digit_models"].items()}
    models["next"] = models["next"][0], ""
    models["gap"] = found["filler"], "-gap"
    facts = {name: load(model, dataset, variant) for name, (model, variant) in models.items()}
    return {name: model for name, (model, _) in models.items()}, facts


def halves(images):
    return images[:, :14, :, 0], images[:, 14:, :, 0]


# The parts of a model


def test_repeat_vector_and_time_distributed_do_what_the_page_says():
    text = stored_text(PATH)
    assert str(np.full((1, 3, 2), [0.5, -1.0])) in text
    assert str(np.array([[1, 0], [0, 1], [1, 1]]) @ [2, 3] + 0.5) in text


def parts_of(model):
    """Return a model's encoder, and its decoders by task."""
    found = {part.name: part for part in model.layers if isinstance(part, keras.Model)}
    return found.pop("encoder"), found


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


def test_models_agree_with_numpy(page):
    x = page["ramps"]["test"][:5, :9]
    for name, model in page["ramp_models"].items():
        encoder, decoders = parts_of(model)
        assert set(decoders) == ({"copy", "next"} if name == "both" else {name})
        for task, values in model(x).items():
            _, expected = by_numpy(encoder, decoders[task], x)
            np.testing.assert_allclose(values, expected, atol=1e-4)
    x = page["x_spikes"]["test"][:5]
    encoder, decoders = parts_of(page["forecaster"])
    _, expected = by_numpy(encoder, decoders["next"], x)
    np.testing.assert_allclose(page["forecaster"](x)["next"], expected, atol=1e-4)


def test_the_composite_has_one_code_for_two_tasks_and_the_others_their_own(page):
    encoders = {name: parts_of(model)[0] for name, model in page["ramp_models"].items()}
    assert len({id(encoder.layers[1]) for encoder in encoders.values()}) == 3
    assert all(encoder.output_shape == (None, 2) for encoder in encoders.values())
    both = page["ramp_models"]["both"]
    encoder, decoders = parts_of(both)
    x = page["ramps"]["test"][:5, :9]
    for task, values in both(x).items():
        np.testing.assert_allclose(values, decoders[task](encoder(x)), atol=1e-6)


@pytest.mark.parametrize(
    ("dataset", "variant"), [(d, v) for d, variants in MODELS.items() for v in variants]
)
def test_parameters(dataset, variant):
    def lstm(inputs, units):
        return 4 * units * (inputs + units + 1)

    def model(features, units, code, decoders):
        decoder = lstm(code, units) + features * (units + 1)
        return lstm(features, units) + code * (units + 1) + decoders * decoder

    units = 128 if dataset == "mnist" else 64
    decoders = 2 if variant.endswith("both") else 1
    expected = {
        "ramps": model(1, 32, 2, decoders),
        "membrane": model(1, 48, 8, decoders),
    }.get(dataset, model(28, units, 32, decoders))
    if variant == "-gap":
        expected = 2 * lstm(29, units // 2) + 28 * (units + 1)
    facts = modelfile.read(ROOT / "saved_models" / dataset / f"{STEM}{variant}.h5").facts
    assert facts["parameters"] == expected


# Ramps


def test_ramps_are_straight_lines_and_parts_are_others(page):
    for lines in page["ramps"].values():
        steps = np.diff(lines[..., 0], axis=1)
        np.testing.assert_allclose(steps, np.repeat(steps[:, :1], 16, axis=1), atol=1e-5)
        assert np.abs(steps).max() <= 0.1 + 1e-6 and np.abs(lines[:, 0]).max() <= 1
    first = {part: {tuple(line[:2, 0]) for line in lines} for part, lines in page["ramps"].items()}
    assert not first["training"] & (first["validation"] | first["test"])
    steps = np.abs(np.diff(page["steep"][..., 0], axis=1))
    assert steps.min() > 0.1 - 1e-5 and steps.max() < 0.2 + 1e-5


def test_the_straight_line_is_exact(page):
    lines = page["ramps"]["test"]
    found = page["straight_line"](lines[:, :9])
    np.testing.assert_allclose(found["copy"], lines[:, :9], atol=1e-5)
    np.testing.assert_allclose(found["next"], lines[:, 9:], atol=1e-5)


def test_the_table_of_ramps(page):
    table = next(t for t in stored_tables(PATH) if "straight line" in t and "LSTM both" in t)
    for kind, lines in {"like training": page["ramps"]["test"], "steeper": page["steep"]}.items():
        for name, model in page["ramp_models"].items():
            encoder, decoders = parts_of(model)
            for task, decoder in decoders.items():
                _, values = by_numpy(encoder, decoder, lines[:, :9])
                true = lines[:, :9] if task == "copy" else lines[:, 9:]
                shown = float(table[f"LSTM {name}"][f"{task}, {kind}"])
                assert shown == pytest.approx(np.mean((values - true) ** 2), abs=6e-5)
        mean = np.mean(np.square(lines[:, 9:] - page["ramps"]["training"][:, 9:].mean()))
        best = float(table["LSTM next"][f"next, {kind}"])
        assert best < mean / 10 if kind == "like training" else best > 0.001
        assert float(table["straight line"][f"next, {kind}"]) < 1e-4


# The neuron


def test_windows_lie_in_one_part_and_scale_is_that_of_training(page):
    first = page["voltage"][:1000]
    series = (page["voltage"] - first.mean()) / first.std()
    assert list(page["places"].values()) == [(0, 1000), (1000, 1250), (1250, 1520)]
    for part, (start, stop) in page["places"].items():
        x, y = page["x_spikes"][part], page["y_spikes"][part]
        assert len(x) == len(y) == stop - start - 59
        for n in (0, len(x) // 2, len(x) - 1):
            both = np.concatenate([x[n], y[n]])[:, 0]
            np.testing.assert_allclose(both, series[start + n : start + n + 60], atol=1e-6)


def test_rivals_of_the_neuron(page):
    x, y = page["x_spikes"], page["y_spikes"]

    def mse(values):
        return np.mean((values.reshape(len(values), 20) - y["test"][..., 0]) ** 2)

    flat = {part: windows[..., 0] for part, windows in x.items()}
    table = next(t for t in stored_tables(PATH) if "one period ago" in t)
    lags = [x["validation"][:, 40 - lag : 60 - lag] for lag in range(20, 41)]
    errors = [np.mean((value - y["validation"]) ** 2) for value in lags]
    lag = 20 + int(np.argmin(errors))
    expected = {"mean": 0 * y["test"], "last value": np.repeat(x["test"][:, -1:], 20, axis=1)}
    expected["one period ago"] = x["test"][:, 40 - lag : 60 - lag]
    fits = [
        LinearRegression().fit(flat["training"][skip:], y["training"][skip:, :, 0])
        for skip in (0, 250, 500, 750)
    ]
    best = min(
        fits, key=lambda f: np.mean((f.predict(flat["validation"]) - y["validation"][..., 0]) ** 2)
    )
    expected["linear"] = best.predict(flat["test"])
    lookups = [
        KNeighborsRegressor(k).fit(flat["training"], y["training"][..., 0])
        for k in (1, 3, 5, 10, 20)
    ]
    best = min(
        lookups,
        key=lambda f: np.mean((f.predict(flat["validation"]) - y["validation"][..., 0]) ** 2),
    )
    expected["nearest windows"] = best.predict(flat["test"])
    for name, values in expected.items():
        assert float(table[name]["MSE"]) == pytest.approx(mse(values), rel=0.02, abs=1e-4), name
    lstm, linear = float(table["LSTM"]["MSE"]), float(table["linear"]["MSE"])
    assert linear < lstm / 2, "the claim: a linear map makes less than half of the error"


# Digits


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_saved_losses_are_those_of_numpy(datasets, name):
    """The binary cross-entropy of the held-out images, from the weights alone."""
    x, y = halves(of(datasets, name)[1][0])
    models, facts = digit_models(name)
    for task, target in (("copy", x), ("next", y)):
        encoder, decoders = parts_of(models[task])
        _, logits = by_numpy(encoder, decoders[task], x)
        bce = np.mean(np.logaddexp(0, logits) - target * logits)
        assert facts[task]["held_out"]["loss"] == pytest.approx(bce, abs=2e-4)
        expected = sigmoid(logits[:50])
        found = models[task].predict(x[:50], verbose=0)[task]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def table_of_digits():
    return next(t for t in stored_tables(PATH) if "nearest images" in t and "ridge" in t)


def test_rivals_of_the_rest_of_a_digit(datasets):
    """PCA, ridge and nearest images by scikit-learn, from the split as the pages have it."""
    (images, _), (x_test, _) = of(datasets, "mnist")[:2]
    train = images[: len(images) * 11 // 12]
    (x, y), (x_test, y_test) = map(halves, (train, x_test))
    few = slice(0, 1500)

    def flat(a):
        return a.reshape(len(a), -1)

    def mse(values):
        return np.mean((values.reshape(y_test.shape) - y_test) ** 2)

    rows = recorded(STEM)["0"]["rows"]
    mean = np.broadcast_to(y.mean(axis=0), y_test.shape)
    assert rows["mean"]["next: MSE"] == pytest.approx(mse(mean), rel=1e-3)
    last = np.repeat(x_test[:, -1:], 14, axis=1)
    assert rows["last row"]["next: MSE"] == pytest.approx(mse(last), rel=1e-3)
    ridge = Ridge(alpha=10).fit(flat(x), flat(y))
    values = np.clip(ridge.predict(flat(x_test)), 0, 1)
    assert rows["ridge"]["next: MSE"] == pytest.approx(mse(values), rel=2e-3)
    pca = PCA(32, random_state=1).fit(flat(x))
    copy = np.clip(pca.inverse_transform(pca.transform(flat(x_test))), 0, 1)
    error = np.mean((copy - flat(x_test)) ** 2)
    assert rows["PCA, 32 numbers"]["copy: MSE"] == pytest.approx(error, rel=1e-2)
    lookup = KNeighborsRegressor(20, algorithm="brute").fit(flat(x), flat(y))
    error = np.mean((lookup.predict(flat(x_test[few])) - flat(y_test[few])) ** 2)
    assert rows["nearest images"]["next: MSE"] == pytest.approx(error, rel=0.05)


def test_the_claim_holds_over_the_seeds_and_the_table_is_their_mean():
    records = recorded(STEM)
    assert len(records) == 5
    table = table_of_digits()
    for label, row in records["0"]["rows"].items():
        for column in row:
            values = [record["rows"][label][column] for record in records.values()]
            shown = float(table[label][column].split(" ± ")[0])
            assert shown == pytest.approx(np.mean(values), abs=6e-5)
    for record in records.values():
        rows = record["rows"]
        rivals = ("mean", "last row", "ridge", "nearest images")
        best = min(rows[name]["next: MSE"] for name in rivals)
        assert rows["LSTM next"]["next: MSE"] < best
        assert rows["LSTM copy"]["copy: MSE"] < rows["PCA, 32 numbers"]["copy: MSE"]


def test_the_interval_is_one_of_paired_differences():
    low, high = (
        float(v.rstrip(";")) for v in stored_text(PATH).split("95 % interval ")[1].split()[:3:2]
    )
    rows = recorded(STEM)["0"]["rows"]
    difference = rows["nearest images"]["next: MSE"] - rows["LSTM next"]["next: MSE"]
    assert 0 < low < difference < high
    assert high - low < difference / 2


def test_nearest_is_a_mean_of_neighbours(page):
    random = np.random.default_rng(0)
    known, answers = random.normal(size=(700, 4, 3)), random.normal(size=(700, 2, 3))
    new = random.normal(size=(9, 4, 3))
    for k in (1, 5, 20):
        model = KNeighborsRegressor(k).fit(known.reshape(700, -1), answers.reshape(700, -1))
        expected = model.predict(new.reshape(9, -1)).reshape(9, 2, 3)
        np.testing.assert_allclose(page["nearest"](known, answers, k)(new), expected)


def test_ridge_map_is_scikit_learns(page):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 2, 4)), random.uniform(0, 1, (60, 3, 2))
    new = random.normal(size=(7, 2, 4))
    for penalty in (0.1, 10.0):
        model = Ridge(alpha=penalty).fit(x.reshape(60, -1), y.reshape(60, -1))
        expected = np.clip(model.predict(new.reshape(7, -1)), 0, 1).reshape(7, 3, 2)
        np.testing.assert_allclose(page["ridge_map"](x, y, penalty)(new), expected, atol=1e-8)


def test_best_of_takes_what_is_best_on_validation(page):
    methods = [lambda x, level=level: np.full(len(x), level) for level in (0.0, 0.4, 1.0)]
    chosen = page["best_of"](methods, np.zeros(5), np.full(5, 0.5))
    assert chosen(np.zeros(1))[0] == 0.4


# The gap


def test_gaps_hide_eight_rows_and_say_so(page):
    images = np.random.default_rng(0).uniform(0.1, 1, (30, 28, 28, 1))
    first = np.arange(30) % 5 * 3 + 4
    rows, missing = page["with_gap"](images, first)
    assert rows.shape == (30, 28, 29)
    for n, start in enumerate(first):
        hidden = slice(start, start + 8)
        assert missing[n, hidden].all() and missing[n].sum() == 8
        assert not rows[n, hidden, :28].any() and rows[n, hidden, 28].all()
        keep = np.delete(np.arange(28), np.arange(start, start + 8))
        np.testing.assert_allclose(rows[n, keep, :28], images[n, keep, :, 0], atol=1e-6)
        assert not rows[n, keep, 28].any()
    np.testing.assert_array_equal(
        page["in_gap"](images[..., 0], missing),
        np.stack([image[s : s + 8, :, 0] for image, s in zip(images, first, strict=True)]),
    )


def test_the_straight_line_over_the_gap_is_numpys(page):
    images = np.random.default_rng(0).uniform(0, 1, (5, 28, 28, 1))
    first = np.array([4, 7, 10, 13, 16])
    found = page["interpolate"](*page["with_gap"](images, first))
    for n, column in itertools.product(range(5), range(28)):
        ends = first[n] - 1, first[n] + 8
        expected = np.interp(np.arange(first[n], first[n] + 8), ends, images[n, ends, column, 0])
        np.testing.assert_allclose(found[n, :, column], expected, atol=1e-6)


def test_filling_by_the_nearest_compares_visible_rows_alone():
    """The gap of a training image is found again, whatever stands in the gap."""
    images = np.random.default_rng(0).uniform(0, 1, (40, 28, 28, 1)).astype("float32")
    scope = definitions(PATH, "fill_by_nearest", "with_gap", **GIVEN, x_train=images)
    first = np.array([4, 7, 10, 13, 16] * 8)
    rows, missing = scope["with_gap"](images, first)
    filled = scope["fill_by_nearest"](rows, missing, 1)
    for n, start in enumerate(first):
        np.testing.assert_array_equal(filled[n], images[n, start : start + 8, :, 0])


def test_filling_is_measured_in_the_gap_and_the_network_is_the_best(datasets):
    """Each cell of the table, computed anew; nearest images by scikit-learn."""
    (images, _), (x_test, _) = of(datasets, "mnist")[:2]
    train, few = images[: len(images) * 11 // 12, ..., 0], x_test[:2000, ..., 0]
    models, _ = digit_models("mnist")
    with_gap = definitions(PATH, "with_gap", **GIVEN)["with_gap"]
    first = np.random.default_rng(12).choice([4, 7, 10, 13, 16], len(x_test))[:2000]
    rows, missing = with_gap(x_test[:2000], first)
    table = next(t for t in stored_tables(PATH) if "LSTM both ways" in t)
    table = {name: float(row["MSE in the gap"]) for name, row in table.items()}
    found = models["gap"].predict(rows, verbose=0)["row"]
    mean = np.broadcast_to(train.mean(axis=0), few.shape)
    for name, values in (("LSTM both ways", found), ("mean", mean)):
        error = np.mean(((values - few) ** 2)[missing])
        assert table[name] == pytest.approx(error, abs=6e-5)
    chosen = first == 7
    visible = [np.delete(a, np.arange(7, 15), axis=1).reshape(len(a), -1) for a in (train, few)]
    errors = []
    for k in (5, 10, 20):
        lookup = KNeighborsRegressor(k, algorithm="brute").fit(
            visible[0], train[:, 7:15].reshape(-1, 224)
        )
        values = lookup.predict(visible[1][chosen]).reshape(-1, 8, 28)
        errors.append(np.mean((values - few[chosen, 7:15]) ** 2))
    assert min(table, key=table.get) == "LSTM both ways"
    assert table["nearest images"] == pytest.approx(min(errors), rel=0.15)
    low, high = (
        float(v.rstrip(";")) for v in stored_text(PATH).split("95 % interval ")[2].split()[:3:2]
    )
    assert 0 < low < table["nearest images"] - table["LSTM both ways"] < high
