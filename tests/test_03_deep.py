"""The definitions of 03_deep, what its saved models must show, and whether its tables are true."""

import itertools
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, drawn, read_notebook, recorded, sigmoid
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from ae_keras import fingerprint, metrics, modelfile, plots
from ae_keras.taught import join

PATH = ROOT / "notebooks" / "03_deep.ipynb"
SIZES = [784, 128, 64, 32, 64, 128, 784]
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


@pytest.fixture(scope="module")
def page():
    return definitions(PATH, "encoder", "decoder", "autoencoder", join=join)


@pytest.fixture(scope="module")
def tables():
    """The stored tables by their first row's label, each a dict of row → dict of column → text."""
    stored = []
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                head, _, *body = (
                    [cell.strip() for cell in line.strip("|").split("|")]
                    for line in text.splitlines()
                )
                stored.append({r[0]: dict(zip(head[1:], r[1:], strict=True)) for r in body})
    return stored


def mnist(datasets):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    return datasets["mnist"]


def saved(name, dataset):
    return modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")


def layers(name, dataset):
    """Return a saved model's matrices and biases, in order."""
    weights = saved(name, dataset).weights
    return list(zip(weights[::2], weights[1::2], strict=True))


def encode(layers, x):
    h = x.reshape(-1, 784).astype(np.float64)
    for w, b in layers[:2]:
        h = np.maximum(h @ w + b, 0)
    w, b = layers[2]
    return h @ w + b


def decode(layers, z):
    """Return the pixels before the sigmoid."""
    for w, b in layers[3:5]:
        z = np.maximum(z @ w + b, 0)
    w, b = layers[5]
    return z @ w + b


def scores(x, x_hat):
    """Return BCE and MSE, by NumPy alone."""
    x, x_hat = x.reshape(-1, 784).astype(np.float64), x_hat.reshape(-1, 784)
    kept = np.clip(x_hat, 1e-7, 1 - 1e-7)  # as Keras does
    bce = -np.mean(x * np.log(kept) + (1 - x) * np.log(1 - kept))
    return [bce, np.mean(np.square(x - x_hat))]


def test_shapes_and_parameters(page):
    assert page["encoder"].output_shape == (None, 32)
    assert page["decoder"].input_shape == (None, 32)
    assert page["autoencoder"].output_shape == (None, 28, 28, 1)
    counts = [a * b + b for a, b in itertools.pairwise(SIZES)]
    assert counts[:3] == [100_480, 8_256, 2_080]
    assert page["encoder"].count_params() == sum(counts[:3]) == 110_816
    assert page["autoencoder"].count_params() == sum(counts) == 222_384
    dense = [layer for layer in page["encoder"].layers if "Dense" in type(layer).__name__]
    assert [layer.units for layer in dense] == [128, 64, 32]  # the summary's order


def test_encoder_and_decoder_are_the_formulas(page):
    x = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    weights = page["autoencoder"].get_weights()
    parts = list(zip(weights[::2], weights[1::2], strict=True))
    z = encode(parts, x)
    np.testing.assert_allclose(page["encoder"](x), z, atol=1e-5)
    assert z.min() < 0  # the code is linear
    x_hat = sigmoid(decode(parts, z)).reshape(x.shape)
    np.testing.assert_allclose(page["autoencoder"](x), x_hat, atol=1e-5)


def test_arguments_change_what_they_name(page):
    build_encoder, build_decoder = page["build_encoder"], page["build_decoder"]
    x = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    assert np.min(build_encoder(8, code_activation="relu")(x)) >= 0
    for model, count in ((build_encoder(8, initializer="he_normal"), 3), (build_decoder(8), 3)):
        dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert len(dense) == count
    dense = [layer for layer in build_encoder(8, initializer="he_normal").layers if layer.weights]
    assert {type(layer.kernel_initializer).__name__ for layer in dense} == {"HeNormal"}
    dense = [layer for layer in build_decoder(8, "he_normal").layers if layer.weights]
    kinds = [type(layer.kernel_initializer).__name__ for layer in dense]
    assert kinds == ["HeNormal", "HeNormal", "GlorotUniform"]  # the sigmoid's layer stays


def test_the_worked_example_is_right():
    """No plane is nearer to "exactly one" at the four corners than the page's; no sigmoid helps."""
    page = definitions(PATH, "one_layer", "with_hidden_units")
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], float)
    wanted = np.array([0, 1, 1, 0.0])
    best = np.linalg.lstsq(np.c_[corners, np.ones(4)], wanted, rcond=None)[0]
    np.testing.assert_allclose(best, [0, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(np.abs(page["one_layer"](*corners.T) - wanted), 0.5)
    np.testing.assert_array_equal(page["with_hidden_units"](*corners.T), wanted)


def test_dead_units_are_those_that_never_speak():
    count = definitions(PATH, "count_dead")["count_dead"]
    codes = np.array([[0, 0.0, 1, -2], [0, 3.0, 1, 2]])
    assert count(codes) == 1  # one that is 0 once is not dead, nor is a constant one
    assert count(np.zeros((5, 7))) == 7


def test_logit_and_mean_correlation():
    page = definitions(PATH, "logit", "mean_correlation")
    p = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(sigmoid(page["logit"](p)), p, atol=1e-12)
    assert np.isfinite(page["logit"](np.array([0.0, 1.0]))).all()
    pattern = np.random.default_rng(0).normal(size=(28, 28, 1))
    same = page["mean_correlation"](np.stack([pattern, 2 * pattern, 3 * pattern + 1]))
    assert same == pytest.approx(1)
    opposed = page["mean_correlation"](np.stack([pattern, pattern, -pattern]))
    assert opposed == pytest.approx(-1 / 3)  # pairs: 1, -1, -1


def test_pca_is_clipped_and_knows_training_images_only():
    random = np.random.default_rng(0)
    x_train = random.random((40, 28, 28, 1)) < 0.1
    page = definitions(PATH, "through_pca", x_train=x_train, PCA=PCA)
    x = (random.random((9, 28, 28, 1)) < 0.5).astype("float32")
    found = page["through_pca"](x)
    flat = x_train.reshape(40, 784).astype(float)
    axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:32]
    expected = (x.reshape(9, 784) - flat.mean(axis=0)) @ axes.T @ axes + flat.mean(axis=0)
    np.testing.assert_allclose(found.reshape(9, 784), np.clip(expected, 0, 1), atol=1e-5)


@both
def test_saved_weights_reach_the_saved_metrics(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets[dataset][1][0]
    facts = saved("03_deep", dataset).facts
    simple = saved("01_simple", dataset).facts
    parts = layers("03_deep", dataset)
    bce, mse = scores(x, sigmoid(decode(parts, encode(parts, x))))
    assert facts["held_out"]["bce"] == pytest.approx(bce, abs=1e-5)
    assert facts["held_out"]["mse"] == pytest.approx(mse, abs=1e-6)
    assert facts["code_size"] == simple["code_size"] == 32
    assert bce < simple["held_out"]["bce"]
    if dataset == "mnist":
        assert bce < 0.0780


@both
def test_two_numbers_of_the_deep_code_say_more_than_two_of_pca(datasets, dataset):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x, y), _, _ = datasets[dataset]
    x_train, x_valid = np.split(x, [len(x) * 11 // 12])
    y_train, y_valid = np.split(y, [len(x_train)])
    parts = layers("03_deep-2d", dataset)
    pca = PCA(2, random_state=0).fit(x_train.reshape(-1, 784))
    named = []
    for code in (lambda x: encode(parts, x), lambda x: pca.transform(x.reshape(-1, 784))):
        vote = KNeighborsClassifier(15).fit(code(x_train), y_train)
        named.append(vote.score(code(x_valid), y_valid))
    assert named[0] > named[1] + 0.1
    if dataset == "mnist":  # what the page's prose says
        text = "\n".join(cell.source for cell in read_notebook(PATH).cells)
        stated = re.search(r"(\d+) % of the validation digits.*?(\d+) % by\s+PCA", text, re.S)
        assert [int(n) for n in stated.groups()] == [round(100 * share) for share in named]


def test_recipes_of_the_ablation_differ_in_one_thing_each():
    """The rows of the table are comparable: same data, epochs, seed; what they name apart."""
    from ae_keras.fingerprint import differences

    full = saved("03_deep-short", "mnist").facts["recipe"]
    names = ("relu-code", "he", "relu-he", "constant")
    changed = {}
    for name in names:
        lines = differences(full, saved(f"03_deep-{name}", "mnist").facts["recipe"])
        changed[name] = [line.partition(":")[0] for line in lines]
    assert len(changed["relu-code"]) == 1 and changed["relu-code"][0].endswith(".activation")
    assert len(changed["he"]) == 5 and all("kernel_initializer" in n for n in changed["he"])
    assert sorted(changed["relu-he"]) == sorted(changed["relu-code"] + changed["he"])
    assert {n.split(".")[:2] == ["optimizer", "learning_rate"] for n in changed["constant"]} == {
        True
    }
    budgets = {
        (facts["recipe"]["epochs"], facts["recipe"]["batch_size"], len(facts["history"]["loss"]))
        for facts in (saved(f"03_deep-{name}", "mnist").facts for name in ("short", *names))
    }
    assert budgets == {(10, 128, 10)}


def test_the_map_keeps_the_recipe_that_06b_repeats():
    for dataset in ("mnist", "digits"):
        recipe = saved("03_deep-2d", dataset).facts["recipe"]
        assert recipe["epochs"] == 20 and recipe["batch_size"] == 128
        assert recipe["validation_split"] == pytest.approx(1 / 12, rel=1e-5)
        rate = recipe["optimizer"]["learning_rate"]
        assert rate["initial_learning_rate"] == 0.005


def test_the_stored_test_table_is_true(datasets, tables):
    (x, _), (x_test, _), _ = mnist(datasets)
    x_train = x[:55_000].reshape(-1, 784)
    flat = x_test.reshape(-1, 784)
    pca = PCA(32, random_state=0).fit(x_train)
    rows = next(table for table in tables if "mean image" in table)
    expected = {
        "mean image": np.broadcast_to(x_train.mean(axis=0), flat.shape),
        "PCA, 32 numbers": np.clip(pca.inverse_transform(pca.transform(flat)), 0, 1),
        "perfect copy, 784 numbers": flat,
    }
    for name, x_hat in expected.items():
        cells = [float(rows[name][column]) for column in ("BCE", "MSE")]
        # which pixels of PCA are clipped to exactly 0, where BCE is steep, depends on rounding
        margin = 1.5e-4 if name.startswith("PCA") else 6e-5
        assert cells == pytest.approx(scores(x_test, x_hat), abs=margin), name
    simple = saved("01_simple", "mnist").facts["held_out"]
    cells = [float(rows["01_simple, 32 numbers, one seed"][column]) for column in ("BCE", "MSE")]
    assert cells == pytest.approx([simple["bce"], simple["mse"]], abs=6e-5)
    record = recorded("03_deep")["0"]["rows"]
    parts = layers("03_deep", "mnist")
    ours = scores(x_test, sigmoid(decode(parts, encode(parts, x_test))))
    row = record["deep autoencoder, 32 numbers"]
    assert [row["BCE"], row["MSE"]] == pytest.approx(ours, abs=1e-5)
    for column, value in zip(("BCE", "MSE"), ours, strict=True):  # a mean near this seed
        mean, deviation = map(float, rows["deep autoencoder, 32 numbers"][column].split(" ± "))
        assert mean == pytest.approx(value, abs=3 * deviation)


@pytest.mark.parametrize("key", ["03_deep", "03_deep-ablation"])
def test_stored_means_are_those_of_the_recorded_seeds(tables, key):
    records = recorded(key)
    if len(records) < 5:
        pytest.skip(f"only seeds {', '.join(records)} are recorded: `make seeds NB=03_deep`")
    assert list(records) == ["0", "1", "2", "3", "4"]
    first = next(iter(records["0"]["rows"]))
    table = next(table for table in tables if first in table)
    compared = 0
    for label, row in records["0"]["rows"].items():
        for column in row:
            values = [record["rows"][label][column] for record in records.values()]
            cell = table[label][column]
            if "±" in cell:
                mean, deviation = map(float, cell.split(" ± "))
                places = len(cell.split(" ± ")[0].partition(".")[2])
                margin = 0.6 * 10**-places
                assert mean == pytest.approx(np.mean(values), abs=margin)
                assert deviation == pytest.approx(np.std(values, ddof=1), abs=margin)
                compared += 1
    assert compared >= 2


def test_dead_units_and_validation_bce_of_the_ablation(datasets):
    """Seed 0's rows, recomputed from the files on the last twelfth of the training images."""
    (x, _), _, _ = mnist(datasets)
    x_valid = x[55_000:]
    rows = recorded("03_deep-ablation")["0"]["rows"]
    files = {
        "linear code, default start": "short",
        "ReLU code, default start": "relu-code",
        "linear code, He start": "he",
        "ReLU code, He start": "relu-he",
        "linear code, default start, constant rate": "constant",
    }
    assert list(rows) == list(files)
    for label, name in files.items():
        parts = layers(f"03_deep-{name}", "mnist")
        z = encode(parts, x_valid)
        if label.startswith("ReLU"):
            z = np.maximum(z, 0)
        bce = scores(x_valid, sigmoid(decode(parts, z)))[0]
        assert rows[label]["validation BCE"] == pytest.approx(bce, abs=2e-5)
        assert rows[label]["dead units"] == np.sum(~z.any(axis=0))


# What the page shows, with stand-ins for its models


class Stub:
    """Stands for a model that computes what it is given as a function."""

    def __init__(self, function):
        self.function = function

    def predict(self, x, **options):
        return self.function(x)


def times(factor):
    return Stub(lambda x: factor * x)


CURVES = {"val_bce": [0.5, 0.1, 0.3], "val_mse": [0.9, 0.8, 0.7]}


class Trainings:
    """Stands for `cache`: keeps what is to be trained, and from where, and changes the weights."""

    def __init__(self):
        self.recipes, self.starts, self.models = {}, {}, {}

    def fit_or_load(self, model, name, x, y, *, dataset, held_out=None, **arguments):
        self.recipes[name] = fingerprint.recipe(model, x, y, held_out, arguments)
        self.starts[name], self.models[name] = model.get_weights(), model
        bias = model.get_layer("encoder").get_layer("z").bias
        bias.assign(np.linspace(-9, 9, bias.shape[0]))
        return SimpleNamespace(history=CURVES)


def run(words, scope):
    return drawn(PATH, words, scope)


def test_the_examples_table_and_its_picture_show_what_they_name():
    """The table asks for "exactly one"; each panel is of the function that it is named after."""
    scope = {}
    ((_, (rows,), _),) = run("def one_layer", scope)
    for row, cells in rows.items():
        z = tuple(map(int, re.findall(r"\d", row)))
        assert cells["wanted"] == (sum(z) == 1) == cells["with two hidden units"]
        assert cells["one layer"] == f"{scope['one_layer'](*z):.1f}"
    assert len(rows) == 4
    scope["plots"] = plots
    run("np.meshgrid(", scope)
    grid = np.linspace(0, 1, 41)
    for axis, draw in zip(scope["axes"], ("one_layer", "with_hidden_units"), strict=True):
        (image,) = axis.get_images()
        assert axis.get_title().replace("two ", "").replace(" ", "_") == draw
        assert image.origin == "lower" and list(image.get_extent()) == [0, 1, 0, 1]
        assert image.get_clim() == (0, 1)
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("$z_1$", "$z_2$")
        for row, column in np.ndindex(41, 41):
            expected = scope[draw](grid[column], grid[row])
            assert image.get_array()[row, column] == pytest.approx(expected)


def check_recipe(name, recipe, sets):
    """A training's data are the right ones, and all else is as it was for the shipped file."""
    data = {key: fingerprint.describe(x) for key, x in sets.items()}
    assert recipe["data"]["x"] == recipe["data"]["y"] == data["x_train"]
    assert recipe["data"]["held_out"] == [data["x_test"]] * 2
    assert recipe.get("validation_data") in (None, [data["x_valid"]] * 2)
    assert recipe["seed"] == 7
    rate = recipe["optimizer"]["learning_rate"]
    if name != "03_deep-constant":
        images = 768  # of `sets`, without those for validation
        assert rate["decay_steps"] == recipe["epochs"] * images // recipe["batch_size"]
    changed = fingerprint.differences(saved(name, "mnist").facts["recipe"], recipe)
    own = {"data.x", "data.y", "seed", "optimizer.learning_rate.decay_steps"}
    own |= {f"{key}[{n}]" for key in ("data.held_out", "validation_data") for n in (0, 1)}
    assert {line.split(":")[0] for line in changed} <= own


def test_what_the_page_trains_is_what_was_shipped_and_rows_start_alike(page, sets):
    """Every training has the file's recipe; rows that begin alike have the same first weights.

    A row's numbers are the last validation BCE, and the dead units of its own encoder.
    """
    scope = {"cache": Trainings(), "dataset": "x", "seed": 7, "join": join, **sets}
    scope |= {name: page[name] for name in ("build_encoder", "build_decoder", "autoencoder")}
    for words in ("def train(", 'history = train(autoencoder, "03_deep"', "def short_run"):
        run(words, scope)
    run("ablation = {", scope)
    trainings = scope["cache"]
    assert len(trainings.recipes) == 6
    for name, recipe in trainings.recipes.items():
        check_recipe(name, recipe, sets)
    alike = [("short", "relu-code", "constant"), ("he", "relu-he")]
    for first, *others in alike:
        for other in others:
            starts = [trainings.starts[f"03_deep-{name}"] for name in (first, other)]
            assert all(map(np.array_equal, *starts))
    starts = [trainings.starts[f"03_deep{name}"][0] for name in ("", "-short", "-he")]
    assert not np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[1], starts[2])
    files = ["short", "relu-code", "he", "relu-he", "constant"]
    for (label, row), name in zip(scope["ablation"].items(), files, strict=True):
        weights = trainings.models[f"03_deep-{name}"].get_weights()
        z = encode(list(zip(weights[::2], weights[1::2], strict=True)), sets["x_valid"])
        dead = np.sum(z.max(axis=0) <= 0) if label.startswith("ReLU") else 0
        assert row == {"validation BCE": 0.3, "dead units": dead}
        assert dead > 0 or label.startswith("linear")
        assert ("He start" in label, "constant" in label) == ("he" in name, name == "constant")


def test_the_network_of_two_numbers_is_the_shipped_one(page, sets):
    scope = {"cache": Trainings(), "dataset": "x", "seed": 7, "join": join, **sets}
    scope |= {name: page[name] for name in ("build_encoder", "build_decoder")}
    for _ in range(2):
        starts = scope["cache"].starts.get("03_deep-2d")
        run("build_encoder(2)", scope)
    assert all(map(np.array_equal, starts, scope["cache"].starts["03_deep-2d"]))
    (recipe,) = scope["cache"].recipes.values()
    both = np.concatenate([sets["x_train"], sets["x_valid"]])
    check_recipe("03_deep-2d", recipe, sets | {"x_train": both})
    assert scope["cache"].models["03_deep-2d"].layers[1] is scope["encoder_2d"]


def test_titles_of_curves_and_codes_state_the_validation_metric(sets):
    history = SimpleNamespace(history=CURVES)
    ((kind, (shown, title), options),) = run('{"deep": history}', {"history": history})
    assert (kind, shown, options["metric"]) == ("history", {"deep": history}, "bce")
    assert title == "Training: validation BCE 0.3000 after 60 epochs"
    assert len(saved("03_deep", "mnist").facts["history"]["val_bce"]) == 60
    models = {"encoder": Stub(lambda x: 2 * x[:, :, 0, 0])}
    models["decoder"] = Stub(lambda z: np.tile(z[:, :, None, None] / 4, (1, 1, 28, 1)))
    ((kind, (images, codes, title, x_hat), _),) = run("plots.codes(", models | sets)
    x = sets["x_valid"]
    expected = np.tile(x[:, :, :1] / 2, (1, 1, 28, 1))
    np.testing.assert_array_equal(images, x[:3])
    np.testing.assert_array_equal(codes, 2 * x[:3, :, 0, 0])
    np.testing.assert_array_equal(x_hat, expected[:3])
    mse = np.mean((x - expected) ** 2)
    assert title.endswith(f": MSE {mse:.4f}, 30 validation images")


def test_the_number_raised_is_the_one_that_varies_most_and_raised_by_its_deviation():
    """With a decoder of two layers, whose answers are known."""
    functions = definitions(PATH, "logit", "mean_correlation")
    random = np.random.default_rng(0)
    z = random.normal(size=(30, 6)) * [1, 2, 3, 9, 4, 1] + [0, 0, 80, 0, 0, 0]
    first, second = random.normal(size=(6, 20)) / 90, random.normal(size=(20, 784))
    x_hat = sigmoid(np.maximum(z @ first, 0) @ second).reshape(-1, 28, 28, 1)
    decoder = Stub(lambda z: sigmoid(np.maximum(z @ first, 0) @ second).reshape(-1, 28, 28, 1))
    scope = {"z": z.copy(), "x_hat": x_hat, "decoder": decoder}
    scope |= {name: functions[name] for name in ("logit", "mean_correlation")}
    ((kind, (changes, title), options),) = run("more = z[:8]", scope)
    raised = z[:8].copy()
    raised[:, 3] += np.std(z[:, 3])
    pairs = [(np.maximum(h @ first, 0) @ second).reshape(8, -1) for h in (raised, z[:8])]
    np.testing.assert_allclose(np.reshape(changes, (8, -1)), pairs[0] - pairs[1], atol=1e-6)
    assert (kind, options) == ("image_grid", {"signed": True, "shared": True})
    correlation = (np.corrcoef(pairs[0] - pairs[1]).sum() - 8) / 56
    assert title.startswith("Number 3 of the code raised in 8 images")
    assert f"(mean correlation {correlation:.2f})" in title
    np.testing.assert_array_equal(scope["z"], z)


def test_the_map_shows_validation_points_and_the_share_that_training_points_name():
    random = np.random.default_rng(0)
    scope = {"PCA": PCA, "KNeighborsClassifier": KNeighborsClassifier, "seed": 0}
    for part, n in (("train", 300), ("valid", 80), ("test", 60)):
        y = random.integers(0, 3, n)
        noise = random.normal(size=(n, 784)) * np.r_[1.5, 1.5, 4, 4, np.full(780, 0.01)]
        noise[:, :2] += np.array([(0, 0), (3, 0), (0, 3)])[y]
        scope |= {f"x_{part}": noise.reshape(n, 28, 28, 1), f"y_{part}": y}
    scope["encoder_2d"] = Stub(lambda x: x.reshape(-1, 784)[:, :2])
    run("named = {}", scope)
    ((kind, (shown, labels, title), _),) = run("plots.scatter(", scope)
    flat = scope["x_train"].reshape(-1, 784)
    axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:2].T
    views = {"deep": np.eye(784)[:, :2], "PCA": axes}
    assert kind == "scatter" and labels is scope["y_valid"] and title.startswith("80 validation")
    for (panel, points), (name, view) in zip(shown.items(), views.items(), strict=True):
        train, valid = (scope[f"x_{part}"].reshape(-1, 784) @ view for part in ("train", "valid"))
        near = np.argsort(np.square(valid[:, None] - train[None]).sum(axis=2))[:, :15]
        votes = [np.bincount(scope["y_train"][n], minlength=3).argmax() for n in near]
        assert panel == f"{name}: {np.mean(votes == scope['y_valid']):.0%} named correctly"
        assert np.abs(np.corrcoef(points.T, valid.T)[:2, 2:]).max(axis=1) == pytest.approx([1, 1])


def test_rows_of_the_test_table_are_of_the_models_they_name(sets):
    """With stand-ins that each err in their own way; all on test images."""
    scope = {"autoencoder": times(0.5), "through_pca": lambda x: 0.7 * x, "dataset": "x", **sets}
    held_out = {"01_simple": {"bce": 0.11, "mse": 0.01}}
    scope["cache"] = SimpleNamespace(held_out_metrics=lambda name, dataset: held_out[name])
    scope["seeds"] = SimpleNamespace(over_seeds=lambda key, dataset, rows: {"03_deep": rows}[key])
    scope["score"] = definitions(PATH, "score", metrics=metrics)["score"]
    ((_, (rows,), _),) = run("comparison = {", scope)
    x = sets["x_test"]
    copies = {
        "mean image": np.broadcast_to(sets["x_train"].mean(axis=0), x.shape),
        "PCA, 32 numbers": 0.7 * x,
        "01_simple, 32 numbers, one seed": None,
        "deep autoencoder, 32 numbers": 0.5 * x,
        "perfect copy, 784 numbers": x,
    }
    assert list(rows) == list(copies)
    for name, x_hat in copies.items():
        wanted = [0.11, 0.01] if x_hat is None else scores(x, x_hat)
        assert [rows[name]["BCE"], rows[name]["MSE"]] == pytest.approx(wanted, rel=1e-4), name


def test_the_picture_shows_the_test_images_whose_errors_it_states(sets):
    x = sets["x_test"]
    scope = {"x_hat_test": 0.5 * x, "through_pca": lambda x: 0.7 * x, "x_hat": sets["x_valid"]}
    ((_, (rows, title), _),) = run("32 numbers a digit", scope | sets)
    assert list(rows) == ["input", "deep", "PCA"]
    for name, factor in {"input": 1, "deep": 0.5, "PCA": 0.7}.items():
        np.testing.assert_allclose(rows[name], factor * x[:12])
    stated = [f"{np.mean(((1 - factor) * x) ** 2):.4f}" for factor in (0.5, 0.7)]
    assert title.endswith("MSE {} (deep, seed 0) and {} (PCA), 20 test images".format(*stated))
    ((_, (rows, _), _),) = run('"validation": x_valid', dict(sets))
    np.testing.assert_array_equal(rows["validation"], sets["x_valid"][:12])
