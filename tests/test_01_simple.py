"""The definitions of 01_simple, taken out of the notebook and put to the test."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, drawn, read_notebook
from sklearn.decomposition import PCA

from ae_keras import fingerprint, metrics, modelfile, seeds

PATH = ROOT / "notebooks" / "01_simple.ipynb"


@pytest.fixture(scope="module")
def page():
    names = ("latent_dim", "encoder", "decoder", "join", "price", "score")
    return definitions(PATH, *names, metrics=metrics)


@pytest.fixture(scope="module")
def tables():
    """The stored tables, as lists of cells, in order."""
    stored = []
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                lines = text.splitlines()
                stored.append([[c.strip() for c in line.strip("|").split("|")] for line in lines])
    return stored


def numpy_autoencoder(weights, x):
    """Return code and reconstruction by NumPy alone."""
    w_e, b_e, w_d, b_d = weights
    z = np.maximum(x @ w_e + b_e, 0)
    return z, 1 / (1 + np.exp(-(z @ w_d + b_d)))


def numpy_scores(x, x_hat):
    clipped = np.clip(x_hat, 1e-7, 1 - 1e-7)  # as Keras does
    bce = -np.mean(x * np.log(clipped) + (1 - x) * np.log(1 - clipped))
    return bce, np.mean(np.square(x - x_hat))


class Stub:
    """Stands for a model that computes what it is given as a function."""

    def __init__(self, function, weights=()):
        self.function, self.layers = function, [None, SimpleNamespace(get_weights=lambda: weights)]

    def predict(self, x, **options):
        return self.function(x)

    __call__ = predict

    def set_weights(self, weights):
        pass

    def get_weights(self):
        return []


def times(factor):
    return Stub(lambda x: factor * x)


class Trainings:
    """Stands for `cache`: keeps what is to be trained, and from where, and changes the weights."""

    def __init__(self):
        self.recipes, self.starts = {}, {}

    def fit_or_load(self, model, name, x, y, *, dataset, held_out=None, **arguments):
        self.recipes[name] = fingerprint.recipe(model, x, y, held_out, arguments)
        self.starts.setdefault(name, []).append(model.get_weights())
        model.set_weights([weight / 2 for weight in model.get_weights()])


def run(words, scope):
    """Run the one code cell that contains `words`, and return what it asks `plots` to draw."""
    return drawn(PATH, words, scope)


def drawn_by(words, **scope):
    """Return kind, what is shown and title of the one picture that a cell draws."""
    ((kind, (shown, title, *_), _),) = run(words, scope)
    return kind, shown, title


def test_shapes_and_parameters(page):
    encoder, decoder = page["encoder"], page["decoder"]
    assert encoder.output_shape == (None, 32)
    assert decoder.input_shape == (None, 32)
    assert encoder.count_params() == 784 * 32 + 32 == 25_120
    assert decoder.count_params() == 32 * 784 + 784 == 25_872
    autoencoder = page["join"](encoder, decoder)
    assert autoencoder.output_shape == autoencoder.input_shape == (None, 28, 28, 1)
    assert autoencoder.count_params() == 50_992


def test_autoencoder_is_the_formula(page):
    """Encoder, decoder and the two joined compute relu(x W + b) and sigmoid(z W + b)."""
    autoencoder = page["join"](page["encoder"], page["decoder"])
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    z, x_hat = numpy_autoencoder(autoencoder.get_weights(), x.reshape(5, 784))
    np.testing.assert_allclose(page["encoder"](x), z, atol=1e-5)
    np.testing.assert_allclose(np.reshape(autoencoder(x), (5, 784)), x_hat, atol=1e-5)
    np.testing.assert_allclose(page["decoder"](page["encoder"](x)), autoencoder(x), atol=1e-6)


def test_price_of_a_wrong_pixel(page):
    """By hand: the squared difference, and the Kullback–Leibler divergence of two coins."""
    found = page["price"](0.01, 0.11)
    assert found["MSE"] == pytest.approx(0.01)
    assert found["BCE"] == pytest.approx(0.01 * np.log(0.01 / 0.11) + 0.99 * np.log(0.99 / 0.89))
    assert page["price"](0.3, 0.3) == pytest.approx({"MSE": 0, "BCE": 0})


def test_score_names_the_metrics_rightly(page):
    x, x_hat = np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
    assert page["score"](x, x_hat) == pytest.approx({"BCE": np.log(2), "MSE": 0.25})


def test_pca_is_clipped_and_knows_training_images_only():
    random = np.random.default_rng(0)
    x_train = random.random((60, 40)) @ random.random((40, 784)) - 9  # of rank 40
    x_train = x_train.reshape(60, 28, 28, 1)
    page = definitions(PATH, "through_pca", x_train=x_train, PCA=PCA, seed=0)
    x = (random.random((9, 28, 28, 1)) < 0.5).astype("float32")
    found = page["through_pca"](x)
    assert found.shape == x.shape and found.min() == 0 and found.max() <= 1
    flat = x_train.reshape(60, 784)
    mean = flat.mean(axis=0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:32]
    expected = (x.reshape(9, 784) - mean) @ axes.T @ axes + mean
    np.testing.assert_allclose(found.reshape(9, 784), np.clip(expected, 0, 1), atol=1e-4)


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("name", ["01_simple", "01_simple-mse"])
def test_saved_weights_reach_the_saved_metrics_and_beat_pca(datasets, dataset, name):
    if dataset not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets[dataset]
    saved = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5")
    x = x_test.reshape(-1, 784).astype(np.float64)
    bce, mse = numpy_scores(x, numpy_autoencoder(saved.weights, x)[1])
    assert saved.facts["held_out"]["bce"] == pytest.approx(bce, abs=1e-5)
    assert saved.facts["held_out"]["mse"] == pytest.approx(mse, abs=1e-6)
    x_train = x_train[: len(x_train) * 11 // 12].reshape(-1, 784)
    pca = PCA(32, random_state=0).fit(x_train)
    x_pca = np.clip(pca.inverse_transform(pca.transform(x)), 0, 1)
    assert mse < np.mean(np.square(x - x_pca))


def test_the_stored_tables_are_true(datasets, tables):
    """Recompute the tables of validation and test images, and the seeds' means, independently."""
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets["mnist"]
    x_train, x_valid = x_train[:55_000].reshape(-1, 784), x_train[55_000:].reshape(-1, 784)
    x_test = x_test.reshape(-1, 784)
    pca = PCA(32, random_state=0).fit(x_train)
    weights = modelfile.read(ROOT / "saved_models/mnist/01_simple.h5").weights
    valid, test = tables[1], tables[3]
    for x, table in ((x_valid, valid), (x_test, test)):
        expected = {
            "mean image": np.broadcast_to(x_train.mean(axis=0), x.shape),
            "PCA, 32 numbers": np.clip(pca.inverse_transform(pca.transform(x)), 0, 1),
            "perfect copy, 784 numbers": x,
        }
        if table is valid:
            expected["autoencoder, 32 numbers"] = numpy_autoencoder(weights, x)[1]
        rows = {row[0]: row[1:3] for row in table}
        for name, x_hat in expected.items():
            scores = numpy_scores(x.astype(np.float64), x_hat.astype(np.float64))
            assert [float(cell) for cell in rows[name]] == pytest.approx(scores, abs=6e-5), name
    records = seeds.read(ROOT / "saved_models/mnist/01_simple.seeds.json")
    assert list(records) == ["0", "1", "2", "3", "4"]
    for row in test[2:]:
        for column, cell in zip(test[0][1:], row[1:], strict=True):
            if "±" in cell:
                values = [record["rows"][row[0]][column] for record in records.values()]
                mean, deviation = map(float, cell.split(" ± "))
                assert mean == pytest.approx(np.mean(values), abs=6e-5 if mean < 1 else 0.06)
                assert deviation == pytest.approx(
                    np.std(values, ddof=1), abs=6e-5 if mean < 1 else 0.06
                )


def test_units_in_use_are_counted(datasets, tables):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    record = seeds.read(ROOT / "saved_models/mnist/01_simple.seeds.json")["0"]
    weights = modelfile.read(ROOT / "saved_models/mnist/01_simple.h5").weights
    z, _ = numpy_autoencoder(weights, datasets["mnist"][1][0].reshape(-1, 784))
    used = np.sum((z > 0).any(axis=0))
    assert record["rows"]["autoencoder, trained with BCE"]["units in use"] == used


def test_the_changed_number_is_the_largest_of_the_code(page):
    """The picture of one unit's effect changes that unit, and leaves the others as they are."""
    valid_codes = np.tile(np.arange(32.0)[:, None], (1, 32)) + np.eye(32)[:, ::-1] * 50
    found = definitions(PATH, "strongest", valid_codes=valid_codes)
    assert found["strongest"] == 31 - 4
    source = "\n".join(c.source for c in read_notebook(PATH).cells)
    assert "changed[:, strongest] *= factors" in source


def test_a_join_has_the_parts_weights(page):
    encoder, decoder = page["encoder"], page["decoder"]
    joined = page["join"](encoder, decoder)
    assert joined.get_weights()[0] is not None
    encoder.set_weights([np.zeros_like(w) for w in encoder.get_weights()])
    np.testing.assert_array_equal(joined.get_weights()[0], np.zeros((784, 32)))
    keras.utils.set_random_seed(0)


# What the page shows, with stand-ins for its models


def test_pictures_above_the_training_are_of_the_images_they_name(sets):
    kind, rows, title = drawn_by('"training": x_train', **sets)
    assert (kind, list(rows)) == ("image_rows", ["training"])
    assert title.startswith("Ten training images")
    np.testing.assert_array_equal(rows["training"], sets["x_train"][:10])


def test_the_first_copies_are_of_validation_images_as_is_their_error(sets):
    models = {"quick_autoencoder": times(0.5), "autoencoder": times(0.9)}
    _, rows, title = drawn_by("quick_x_hat =", **sets, **models)
    x = sets["x_valid"]
    assert list(rows) == ["input", "output"]
    np.testing.assert_array_equal(rows["input"], x[:10])
    np.testing.assert_array_equal(rows["output"], 0.5 * x[:10])
    assert title.endswith(f"error {np.mean((x / 2) ** 2):.4f}, on 30 validation images")


def test_a_code_stands_between_its_image_and_what_is_drawn_from_it(sets):
    models = {"quick_encoder": Stub(lambda x: x[:, 4:5, :, 0]), "quick_decoder": times(3)}
    models |= {"encoder": times(0), "decoder": times(0)}
    ((kind, (images, codes, _, drawn), _),) = run("some_codes =", sets | models)
    assert kind == "codes" and len(images) == 3
    assert all((image == sets["x_valid"]).all(axis=(1, 2, 3)).any() for image in images)
    np.testing.assert_array_equal(codes, images[:, 4:5, :, 0])
    np.testing.assert_array_equal(drawn, 3 * codes)


def test_the_two_forms_are_compared_with_each_other(sets, capsys):
    """The difference is 0 on the page; of models that differ it is not."""
    models = {"autoencoder": times(1), "quick_autoencoder": times(0.5)}
    run("quick_autoencoder.set_weights(", sets | models)
    assert capsys.readouterr().out.endswith(": 5e-01\n")
    source = "".join(c.source for c in read_notebook(PATH).cells)
    assert "quick_autoencoder.set_weights(autoencoder.get_weights())" in source


def test_rows_of_the_price_table_are_of_the_pixels_they_name(page, tables):
    ((_, (rows,), _),) = run("0.01 (nearly black) drawn", {})
    for row, (label, cells) in zip(tables[0][2:], rows.items(), strict=True):
        true, drawn = map(float, re.findall(r"\d\.\d+", label))
        assert drawn == pytest.approx(true + 0.1)  # as the text says
        assert cells == pytest.approx(page["price"](true, drawn))
        assert row == [label, *(f"{cells[column]:.4f}" for column in ("MSE", "BCE"))]


def check_recipe(name, recipe, sets, seed):
    """A training's data are the right ones, and all else is as it was for the shipped file."""
    data = {key: fingerprint.describe(x) for key, x in sets.items()}
    assert recipe["data"]["x"] == recipe["data"]["y"] == data["x_train"]
    assert recipe["data"]["held_out"] == [data["x_test"]] * 2
    assert recipe["validation_data"] == [data["x_valid"]] * 2
    rate = recipe["optimizer"]["learning_rate"]
    steps = recipe["epochs"] * len(sets["x_train"]) // recipe["batch_size"]
    assert (recipe["seed"], rate["decay_steps"]) == (seed, steps)
    shipped = modelfile.read(ROOT / "saved_models" / "mnist" / f"{name}.h5").facts["recipe"]
    changed = {line.split(":")[0] for line in fingerprint.differences(shipped, recipe)}
    own = {"data.x", "data.y", "seed", "optimizer.learning_rate.decay_steps"}
    own |= {f"{key}[{n}]" for key in ("data.held_out", "validation_data") for n in (0, 1)}
    assert changed <= own


def test_the_two_networks_differ_in_their_loss_alone(page, sets):
    """Same data, steps and layers. The second starts anew, from the seed, and is then measured."""
    parts = {name: page[name] for name in ("encoder", "decoder", "join")}
    scope = {"cache": Trainings(), "dataset": "x", "seed": 5, "x_hat": 1, **sets, **parts}
    scope["autoencoder"] = page["join"](page["encoder"], page["decoder"])
    scope["score"] = lambda *pair: pair
    for words in ("speed =", "def both_metrics", "epochs, batch_size ="):
        run(words, scope)
    for _ in range(2):
        ((_, (rows,), _),) = run("mse_autoencoder = join(", scope)
    (first, second), trainings = scope["cache"].recipes.values(), scope["cache"]
    (difference,) = fingerprint.differences(first, second)
    assert difference == "loss: binary_crossentropy → mean_squared_error"
    for name, recipe in trainings.recipes.items():
        check_recipe(name, recipe, sets, seed=5)
    (start_1,), (start_2, again) = trainings.starts.values()
    for before, start, once_more in zip(start_1[::2], start_2[::2], again[::2], strict=True):
        assert not np.allclose(start, before) and not np.allclose(start, before / 2)
        np.testing.assert_array_equal(start, once_more)
    assert rows["trained with BCE"] == (sets["x_valid"], 1)
    x, x_hat = rows["trained with MSE"]
    assert x is sets["x_valid"]
    np.testing.assert_allclose(x_hat, scope["mse_autoencoder"](x), atol=1e-6)


def test_the_mean_image_is_of_training_images_and_the_table_below_of_validation_images(sets):
    scope = {"through_pca": times(0.7), "autoencoder": times(0.5), "score": lambda *pair: pair}
    ((_, (rows,), _),) = run("mean_image = ", scope | sets)
    x = sets["x_valid"]
    mean = np.broadcast_to(sets["x_train"].mean(axis=0), x.shape)
    copies = dict(zip(rows, (mean, 0.7 * x, 0.5 * x, x), strict=True))
    assert [row.split(",")[0] for row in rows] == [
        "mean image",
        "PCA",
        "autoencoder",
        "perfect copy",
    ]
    for row, pair in rows.items():
        np.testing.assert_array_equal(pair[0], x)
        np.testing.assert_allclose(pair[1], copies[row], rtol=1e-6)


def test_the_table_of_two_losses_is_true(datasets, tables):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    x = datasets["mnist"][0][0][55_000:].reshape(-1, 784).astype(np.float64)
    assert [row[0] for row in tables[2][2:]] == ["trained with BCE", "trained with MSE"]
    for row, name in zip(tables[2][2:], ("01_simple", "01_simple-mse"), strict=True):
        weights = modelfile.read(ROOT / f"saved_models/mnist/{name}.h5").weights
        scores = numpy_scores(x, numpy_autoencoder(weights, x)[1])
        assert [float(cell) for cell in row[1:]] == pytest.approx(scores, abs=6e-5)


def test_the_curves_title_states_the_last_validation_bce():
    curves = {"val_bce": [0.5, 0.3, 0.4], "bce": [0.9, 0.8, 0.7], "val_mse": [0.1] * 3}
    history = SimpleNamespace(history=curves)
    scope = {"history": history, "epochs": 3}
    ((kind, (shown, title), options),) = run('{"autoencoder": history}', scope)
    assert kind == "history" and shown == {"autoencoder": history} and options["metric"] == "bce"
    assert title == "Training: validation BCE 0.4000 after 3 epochs"


def test_patterns_are_rows_of_the_decoders_matrix_and_silent_units_are_not_counted(sets):
    matrix = np.random.default_rng(0).normal(size=(32, 784))
    codes = np.random.default_rng(1).random((30, 32))
    codes[:, [3, 8]] = 0
    codes[4:9] = 0  # an image without a code is no silent unit
    scope = {"latent_dim": 32, "decoder": Stub(None, (matrix, np.zeros(784))), **sets}
    scope["encoder"] = Stub(lambda x: codes if x is sets["x_valid"] else np.ones((1, 32)))
    ((kind, (shown, title), options),) = run("patterns =", scope)
    assert kind == "image_grid" and options == {"signed": True, "shared": True}
    np.testing.assert_array_equal(shown.reshape(32, 784), matrix)
    assert title.endswith("; 30 units are used")


def test_one_number_is_changed_by_the_factors_of_the_row(sets):
    codes = np.random.default_rng(0).random((30, 32))
    scope = {"valid_codes": codes, "decoder": times(1), "encoder": times(0)}
    _, rows, title = drawn_by("strongest = int(", **scope)
    ((label, drawn),) = rows.items()
    unit = int(np.argmax(drawn[-1] - drawn[0]))
    (example,) = codes[(codes == drawn[2]).all(axis=1)]  # times 1
    assert unit == example.argmax() and f"unit {unit} × 0, ½, 1, 1½, 2" == label
    for factor, changed in zip((0, 0.5, 1, 1.5, 2), drawn, strict=True):
        expected = example.copy()
        expected[unit] *= factor
        np.testing.assert_allclose(changed, expected)
    assert title.endswith(f"from 0 to {2 * example.max():.1f}")


def test_errors_on_other_images_are_divided_by_their_own_variance(sets, capsys):
    faces = np.random.default_rng(7).random((100, 28, 28)) / 3
    skimage = SimpleNamespace(
        data=SimpleNamespace(lfw_subset=lambda: np.tile(faces, (2, 1, 1))),
        transform=SimpleNamespace(resize=lambda x, shape: x.reshape(shape)),
    )
    scope = {"skimage": skimage, "autoencoder": times(0.5), "through_pca": times(0.7), **sets}
    run("lfw_subset", scope)
    x_valid, faces = sets["x_valid"], faces[..., None].astype(np.float32)
    images = {"digits": x_valid, "upside-down digits": np.flip(x_valid, 1), "faces": faces}
    shares = {name: np.mean(x**2) / np.var(x) for name, x in images.items()}
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: MSE / variance {0.25 * share:.2f}, by PCA {0.09 * share:.2f}"
        for name, share in shares.items()
    ]
    ((_, (rows, title), _),) = run("inputs =", scope)
    np.testing.assert_array_equal(rows["input"], np.concatenate([x[:4] for x in images.values()]))
    np.testing.assert_array_equal(rows["output"], rows["input"] / 2)
    stated = ", ".join(f"{name} {0.25 * share:.2f}" for name, share in shares.items())
    assert (list(rows), title) == (["input", "output"], f"MSE / variance: {stated}")


def test_rows_of_the_test_table_are_of_the_models_they_name(page, sets):
    """With stand-ins that each err in their own way; all on test images."""
    models = {"autoencoder": times(0.5), "mse_autoencoder": times(0.6), "through_pca": times(0.7)}
    models["encoder"] = Stub(lambda x: np.eye(len(x), 32))  # 20 units are used, each once
    scope = {"dataset": "x", "mean_image": np.full((28, 28, 1), 0.3), "score": page["score"]}
    given = []
    scope["seeds"] = SimpleNamespace(over_seeds=lambda key, _, rows, __: given.append(key) or rows)
    ((_, (rows,), _),) = run("comparison = {", sets | models | scope)
    x = sets["x_test"]
    assert given == ["01_simple"]
    copies = {"mean image": np.full_like(x, 0.3), "PCA, 32 numbers": 0.7 * x}
    copies |= {"autoencoder, trained with BCE": 0.5 * x, "autoencoder, trained with MSE": 0.6 * x}
    copies["perfect copy, 784 numbers"] = x
    assert list(rows) == list(copies)
    for name, x_hat in copies.items():
        found = [rows[name]["BCE"], rows[name]["MSE"]]
        assert found == pytest.approx(numpy_scores(x, x_hat), rel=1e-4), name
    assert rows["autoencoder, trained with BCE"]["units in use"] == 20
    ratio = rows["autoencoder, trained with MSE"]["its MSE / the other's"]
    assert ratio == pytest.approx(0.16 / 0.25, rel=1e-5)


def test_the_picture_shows_the_test_images_whose_errors_it_states(sets):
    copies = {"x_hat_test": 0.5 * sets["x_test"], "x_hat": sets["x_valid"]}
    _, rows, title = drawn_by("32 numbers a digit", **sets, **copies, through_pca=times(0.7))
    x = sets["x_test"]
    assert list(rows) == ["input", "autoencoder", "PCA"]
    for name, factor in {"input": 1, "autoencoder": 0.5, "PCA": 0.7}.items():
        np.testing.assert_allclose(rows[name], factor * x[:12])
    stated = [f"{np.mean(((1 - factor) * x) ** 2):.4f}" for factor in (0.5, 0.7)]
    assert re.findall(r"0\.\d{4}", title) == stated
    assert title.endswith("(autoencoder) and {1} (PCA), 20 test images".format(*stated))


def test_recorded_rows_of_seed_0_are_those_of_the_files(datasets):
    """Each row is the model that it names, on test images; and what the text says of all seeds."""
    records = seeds.read(ROOT / "saved_models/mnist/01_simple.seeds.json")
    if "mnist" in datasets:
        x = datasets["mnist"][1][0].reshape(-1, 784).astype(np.float64)
        for loss, name in {"BCE": "01_simple", "MSE": "01_simple-mse"}.items():
            weights = modelfile.read(ROOT / f"saved_models/mnist/{name}.h5").weights
            row = records["0"]["rows"][f"autoencoder, trained with {loss}"]
            scores = numpy_scores(x, numpy_autoencoder(weights, x)[1])
            assert [row["BCE"], row["MSE"]] == pytest.approx(scores, abs=1e-5)
    used, ratios = [], []
    for record in records.values():
        bce = record["rows"]["autoencoder, trained with BCE"]
        mse = record["rows"]["autoencoder, trained with MSE"]
        used.append(bce["units in use"])
        ratios.append(mse["its MSE / the other's"])
        assert ratios[-1] == pytest.approx(mse["MSE"] / bce["MSE"])
    text = " ".join(" ".join(c.source for c in read_notebook(PATH).cells).split())
    assert "In two of the five trainings, one or two of the 32 units give 0" in text
    assert sorted(used)[2:] == [32] * 3 and set(used) <= {30, 31, 32} and min(used) < 32
    assert "it is above 1 for each of the five seeds" in text and min(ratios) > 1
