"""The stages of 03c_layer_by_layer: what learns, what is frozen, equal budgets, true tables."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, definitions, drawn, read_notebook, recorded

from ae_keras import fingerprint, modelfile, plots

PATH = ROOT / "notebooks" / "03c_layer_by_layer.ipynb"
KEY = "03c_layer_by_layer"
STEPS = 768 // 128  # batches of an epoch of the images of `sets`
SIZES = [784, 128, 64, 32, 64, 128, 784]
STAGES = [f"{KEY}-stage-{depth}" for depth in (1, 2, 3)]


@pytest.fixture
def page():
    return definitions(PATH, "down", "up", "build_stage", "stack", "new_layers")


def saved(name, dataset="mnist"):
    return modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")


def network(weights, x):
    """Run dense layers, all ReLU but the code of 32 and the sigmoid at the end, in NumPy."""
    h = x.reshape(-1, 784).astype(np.float64)
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for n, (w, b) in enumerate(pairs, 1):
        h = h @ w + b
        if n < len(pairs) and w.shape[1] != 32:
            h = np.maximum(h, 0)
    return 1 / (1 + np.exp(-h))


def scores(x, x_hat):
    x = x.reshape(-1, 784).astype(np.float64)
    kept = np.clip(x_hat, 1e-7, 1 - 1e-7)  # as Keras does
    bce = -np.mean(x * np.log(kept) + (1 - x) * np.log(1 - kept))
    return [bce, np.mean(np.square(x - x_hat))]


def test_each_stage_learns_its_innermost_two_layers_alone(page):
    counts = [a * b + b for a, b in itertools.pairwise(SIZES)]
    for depth, learning in ((1, 201_616), (2, 16_576), (3, 4_192)):
        stage = page["build_stage"](depth)
        assert stage.output_shape == stage.input_shape == (None, 28, 28, 1)
        assert stage.count_params() == sum(counts[:depth] + counts[-depth:])
        found = sum(int(np.prod(w.shape)) for w in stage.trainable_weights)
        assert found == counts[depth - 1] + counts[-depth] == learning
        inner = [*page["down"][depth - 1].weights, *page["up"][-depth].weights]
        assert {id(w) for w in stage.trainable_weights} == {id(w) for w in inner}
    assert stage.count_params() == 222_384


def test_stages_share_their_layers_and_compute_the_formula(page):
    first, last = page["build_stage"](1), page["build_stage"](3)
    for weight in first.weights:
        assert any(weight is other for other in last.weights)
    x = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    for stage in (first, last):
        expected = network(stage.get_weights(), x).reshape(x.shape)
        np.testing.assert_allclose(stage(x), expected, atol=1e-5)


def test_the_network_is_that_of_03(page):
    """Same layers, activations and initial distributions."""
    deep = definitions(ROOT / "notebooks" / "03_deep.ipynb", "encoder", "decoder")

    def dense(layers):
        described = [fingerprint.describe(layer) for layer in layers]
        return [d for d in described if d["class"] == "Dense"]

    mine = dense([*page["down"], *page["up"]])
    assert mine == dense([*deep["encoder"].layers, *deep["decoder"].layers])


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_both_ways_had_the_same_budget_and_no_validation_image(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    facts = {name: saved(name, dataset).facts for name in [*STAGES, KEY, f"{KEY}-direct"]}
    epochs = {name: len(fact["history"]["loss"]) for name, fact in facts.items()}
    assert [*epochs.values()] == [3, 3, 3, 9, 18]
    x = datasets[dataset][0][0]
    x_train = fingerprint.describe(x[: len(x) * 11 // 12])
    for fact in facts.values():
        assert fact["recipe"]["data"]["x"] == fact["recipe"]["data"]["y"] == x_train
        assert fact["recipe"]["batch_size"] == 128
        rate = fact["recipe"]["optimizer"]["learning_rate"]
        assert rate["initial_learning_rate"] == 0.0025


def test_frozen_layers_did_not_move():
    one, two, three = (saved(name).weights for name in STAGES)
    for outer, inner in ((one, two), (two, three)):
        half = len(outer) // 2
        for a, b in zip(outer, [*inner[:half], *inner[-half:]], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(saved(KEY).weights[0], three[0])  # fine-tuning moves all


def test_the_stored_test_table_is_true(datasets):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    x_test = datasets["mnist"][1][0]
    records = recorded(KEY)
    assert "0" in records
    text = "\n".join(
        output["data"]["text/markdown"]
        for cell in read_notebook(PATH).cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    )
    for label, name in (
        ("layer by layer, 9 + 9 epochs", KEY),
        ("direct, 18 epochs", f"{KEY}-direct"),
    ):
        row = records["0"]["rows"][label]
        model = saved(name)
        expected = scores(x_test, network(model.weights, x_test))
        assert [row["BCE"], row["MSE"]] == pytest.approx(expected, abs=1e-5)
        assert model.facts["held_out"]["bce"] == pytest.approx(expected[0], abs=1e-5)
        line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
        for cell, column, places in zip(cells, ("BCE", "MSE"), (4, 5), strict=True):
            values = [record["rows"][label][column] for record in records.values()]
            mean, _, deviation = cell.partition(" ± ")
            assert float(mean) == pytest.approx(np.mean(values), abs=0.6 * 10**-places)
            if len(values) == 1:
                assert deviation == ""
                continue
            assert float(deviation) == pytest.approx(np.std(values, ddof=1), abs=0.6 * 10**-places)


def test_direct_training_wins_under_every_recorded_seed():
    """The page's claim, as far as it has been measured."""
    records = recorded(KEY)
    for record in records.values():
        greedy, direct = (record["rows"][label]["BCE"] for label in record["rows"])
        assert direct < greedy


def test_the_claim_was_measured_over_five_seeds():
    records = recorded(KEY)
    if len(records) < 5:
        pytest.skip(f"only seeds {', '.join(records)} are recorded: `make seeds NB={KEY}`")
    assert list(records) == ["0", "1", "2", "3", "4"]


# What the page trains and shows, with stand-ins


class Trainings:
    """Stands for `cache`: keeps recipe and weights, and changes the weights that may learn."""

    def __init__(self):
        self.recipes, self.starts, self.ends = {}, {}, {}

    def fit_or_load(self, model, name, x, y, *, dataset, held_out=None, **arguments):
        self.recipes[name] = fingerprint.recipe(model, x, y, held_out, arguments)
        self.starts[name] = matrices(model)
        for weight in model.trainable_weights:
            weight.assign(3 * weight)
        self.ends[name] = matrices(model)
        return name


def matrices(model):
    return {layer.name: layer.get_weights()[0] for layer in model.layers if layer.get_weights()}


def run(words, scope):
    return drawn(PATH, words, scope)


@pytest.fixture
def trained(sets):
    """The variables of the page after its trainings, which change what may learn."""
    scope = {"cache": Trainings(), "dataset": "x", "seed": 7, **sets}
    for words in ("def new_layers", "def build_stage", "def train(", "runs = {}"):
        run(words, scope)
    run("greedy = stack(", scope)
    run("direct = stack(", scope)
    return scope


def test_the_page_trains_what_was_shipped(sets, trained):
    """Data, budget, layers and what is frozen are those of the files; the rates fall to the end."""
    data = {key: fingerprint.describe(x) for key, x in sets.items()}
    names = [*STAGES, KEY, f"{KEY}-direct"]
    assert list(trained["cache"].recipes) == list(trained["runs"].values()) == names
    steps = ["stage 1", "stage 2", "stage 3", "fine-tuning", "direct"]
    assert list(trained["runs"]) == steps
    own = {"data.x", "data.y", "seed", "optimizer.learning_rate.decay_steps"}
    own |= {f"{key}[{n}]" for key in ("data.held_out", "validation_data") for n in (0, 1)}
    for name, recipe in trained["cache"].recipes.items():
        assert recipe["data"]["x"] == recipe["data"]["y"] == data["x_train"]
        assert recipe["data"]["held_out"] == [data["x_test"]] * 2
        assert recipe["validation_data"] == [data["x_valid"]] * 2
        rate = recipe["optimizer"]["learning_rate"]
        assert (recipe["seed"], rate["decay_steps"]) == (7, recipe["epochs"] * STEPS)
        changed = fingerprint.differences(saved(name).facts["recipe"], recipe)
        assert {line.split(":")[0] for line in changed} <= own


def test_a_stage_goes_on_from_the_last_one_and_the_rival_starts_anew(sets, trained):
    starts, ends = trained["cache"].starts, trained["cache"].ends
    for before, after in itertools.pairwise([*STAGES, KEY]):
        for layer, matrix in ends[before].items():
            np.testing.assert_array_equal(starts[after][layer], matrix)
    direct = starts[f"{KEY}-direct"]
    for layer, matrix in direct.items():
        assert not np.allclose(matrix, starts[KEY][layer])
        assert not np.allclose(matrix, ends[KEY][layer])
    greedy = {id(weight) for weight in trained["greedy"].weights}
    assert not greedy & {id(weight) for weight in trained["direct"].weights}
    run("direct = stack(", trained)  # from the same seed
    for layer, matrix in trained["cache"].starts[f"{KEY}-direct"].items():
        np.testing.assert_array_equal(matrix, direct[layer])


def test_pre_trained_means_before_fine_tuning(sets, trained):
    layers = trained["cache"].ends[STAGES[-1]].values()
    weights = [part for w in layers for part in (w, np.zeros(w.shape[1]))]
    before = network(weights, sets["x_valid"]).reshape(-1, 28, 28, 1)
    np.testing.assert_allclose(trained["before"], before, atol=1e-3)
    ((_, (rows, title), _),) = run('"pre-trained": before', trained)
    after = trained["greedy"].predict(sets["x_valid"], verbose=0)
    shown = {"input": sets["x_valid"], "pre-trained": before, "fine-tuned": after}
    assert list(rows) == list(shown)
    for name, images in shown.items():
        np.testing.assert_allclose(rows[name], images[:12], atol=1e-3)
    errors = [np.mean((sets["x_valid"] - x) ** 2) for x in (trained["before"], after)]
    assert abs(errors[0] - errors[1]) > 1e-3
    stated = "Validation MSE {:.4f} after pre-training, {:.4f} after fine-tuning"
    assert title == stated.format(*errors)
    ((_, (rows, _), _),) = run('"validation": x_valid', trained)
    np.testing.assert_array_equal(rows["validation"], sets["x_valid"][:12])


def test_the_drawing_colours_the_layers_that_learn(page):
    """Blue are, in each stage, the layers that `build_stage` lets learn."""
    scope = {"plots": plots}
    run("stages = {", scope)
    assert scope["sizes"] == SIZES
    assert scope["figure"].get_suptitle().startswith("Blue layers learn, violet layers are frozen")
    every = [*page["down"], *page["up"]]
    for depth, axis in enumerate(scope["axes"], 1):
        assert axis.get_title() == (f"stage {depth}" if depth < 4 else "fine-tuning")
        used = page["build_stage"](depth).layers if depth < 4 else every
        found = {}
        for patch in axis.patches:
            x = patch.get_xy()[:, 0]
            found[int(x.min())] = np.asarray(patch.get_facecolor())
        assert sorted(found) == [n for n, layer in enumerate(every) if layer in used]
        for n, color in found.items():
            learns = every[n].trainable or depth == 4
            wanted = plots.COLORS["network" if learns else "rival"]
            rgb = [int(wanted[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            assert color[:3] == pytest.approx(rgb)


def test_the_chart_sets_each_run_where_it_began():
    curves = {"stage 1": [5.0, 4], "stage 2": [6.0, 3], "stage 3": [9.0], "fine-tuning": [2.0, 1]}
    curves["direct"] = [8.0, 7, 6, 5, 4, 3, 2]
    values = {name: {"val_bce": v, "bce": [0] * len(v)} for name, v in curves.items()}
    runs = {name: SimpleNamespace(history=value) for name, value in values.items()}
    scope = {"plots": plots, "runs": runs}
    run("epochs trained so far", scope)
    ends = "At the end: 1.0000 layer by layer (blue), 2.0000 direct (violet)"
    assert scope["figure"].get_suptitle() == ends
    lines, texts = scope["axis"].lines, scope["axis"].texts
    starts = {"stage 1": 1, "stage 2": 3, "stage 3": 5, "fine-tuning": 6, "direct": 1}
    for line, text, (name, start) in zip(lines, texts, starts.items(), strict=True):
        assert text.get_text() == name
        assert line.get_ydata() == pytest.approx(curves[name])
        assert list(line.get_xdata()) == [start + n for n in range(len(curves[name]))]
        assert line.get_color() == plots.COLORS["rival" if name == "direct" else "network"]
        assert text.xy in zip(line.get_xdata(), line.get_ydata(), strict=True)


def test_rows_of_the_test_table_are_of_the_models_they_name(sets):
    def times(factor):
        return SimpleNamespace(predict=lambda x, **options: factor * x)

    def over_seeds(key, dataset, rows, decimals):
        assert (key, dataset) == (KEY, "x")
        return rows

    scope = {"greedy": times(0.5), "direct": times(0.6), "stage": times(0.7), "dataset": "x"}
    scope["seeds"] = SimpleNamespace(over_seeds=over_seeds)
    ((_, (rows,), _),) = run("comparison = {", scope | sets)
    x = sets["x_test"]
    factors = {"layer by layer, 9 + 9 epochs": 0.5, "direct, 18 epochs": 0.6}
    assert list(rows) == list(factors)
    for name, factor in factors.items():
        expected = scores(x, factor * x.reshape(-1, 784))
        assert [rows[name]["BCE"], rows[name]["MSE"]] == pytest.approx(expected, rel=1e-4)
