"""The definitions of 02_sparse, its tables against NumPy, and what its pictures are pictures of."""

import json
import re
import types

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, of, read_notebook, sigmoid

from ae_keras import metrics, modelfile, seeds, taught

PATH = ROOT / "notebooks" / "02_sparse.ipynb"
MODELS = ROOT / "saved_models"
NAMES = {  # rows of the page's tables → saved models
    "32 units, no penalty (01)": "01_simple",
    "32 units, L1": "02_sparse-l1-32",
    "256 units, L1": "02_sparse-l1-256",
    "256 units, top-k, not normalized": "02_sparse-starved",
    "256 units, top-k": "02_sparse",
}
SHOWN = [name for name in NAMES if "not normalized" not in name]  # in the last table
both = pytest.mark.parametrize("dataset", ["mnist", "digits"])


@pytest.fixture(scope="module")
def page():
    wanted = ["keep_largest", "normalize", "share_nonzero", "count_dead", "measure", "pca_copy"]
    wanted += ["plain", "l1_32", "l1_256", "top_k", "starved", "z_toy"]
    return definitions(PATH, *wanted, join=taught.join, metrics=metrics)


def keep(z, k):
    """Keep the k largest of each row by sorting places, not by a threshold."""
    kept = np.zeros_like(z)
    rows, columns = np.arange(len(z))[:, None], np.argsort(z, axis=1)[:, ::-1][:, :k]
    kept[rows, columns] = z[rows, columns]
    return kept


def weights_of(name, dataset):
    return modelfile.read(MODELS / dataset / f"{name}.h5").weights


def forward(name, dataset, x):
    """Compute code and reconstruction with NumPy, from the numbers in the file."""
    w_e, b_e, *middle, w_d, b_d = weights_of(name, dataset)
    z = x.reshape(-1, 784).astype(np.float64) @ w_e + b_e
    if middle:
        mean, variance = middle
        z = (z - mean) / np.sqrt(variance + 1e-3)
    z = keep(z, 25) if name in ("02_sparse", "02_sparse-starved") else np.maximum(z, 0)
    return z, sigmoid(z @ w_d + b_d)


def facts(name, dataset, x):
    z, x_hat = forward(name, dataset, x)
    return {
        "MSE": np.mean(np.square(x.reshape(-1, 784) - x_hat)),
        "units": z.shape[1],
        "share non-zero": np.count_nonzero(z) / z.size,
        "dead units": sum(not z[:, unit].any() for unit in range(z.shape[1])),
    }


def cells(kind="code"):
    return [cell for cell in read_notebook(PATH).cells if cell.cell_type == kind]


def the_cell(text):
    (cell,) = (cell for cell in cells() if text in cell.source)
    return cell


def stored(cell):
    texts = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "\n".join(texts)


def table(cell):
    """Read a stored table as dict of row → dict of column → text."""
    lines = [line for line in stored(cell).splitlines() if re.search(r"  +", line)]
    head, *body = [re.split(r"  +", line.strip()) for line in lines]
    rows = {}
    for label, *values in body:
        rows[label] = dict(zip(head, values, strict=False))
    return rows


def prose():
    return "\n".join(cell.source for cell in cells("markdown"))


def run(cell, **scope):
    """Run a cell with plots that only note what they were given."""
    noted = {}

    def note(*arguments, **named):
        noted["arguments"], noted["named"] = arguments, named

    plots = types.SimpleNamespace(image_grid=note, image_rows=note, codes=note, table=note)
    exec(cell.source, scope | {"np": np, "metrics": metrics, "plots": plots, "keras": keras})
    return noted


@pytest.fixture(scope="module")
def trained(page):
    """The page's top-k network with the weights of the file."""
    page["top_k"].set_weights(weights_of("02_sparse", "mnist"))
    return page["top_k"]


# what the functions do


def test_keep_largest_keeps_k_of_each_row_unchanged(page):
    z = np.random.default_rng(0).normal(size=(20, 9)).astype("float32")
    for k in (1, 4, 9):
        np.testing.assert_array_equal(np.array(page["keep_largest"](z, k)), keep(z, k))
    two = [[0.2, 1.5, 0.1, 0.9, 0.3], [0.7, 0.6, 0.5, 0.4, 0.3]]
    kept = np.array(page["keep_largest"](np.array(two, "float32"), k=2))
    np.testing.assert_allclose(kept, [[0, 1.5, 0, 0.9, 0], [0.7, 0.6, 0, 0, 0]])
    assert stored(the_cell("def keep_largest")).strip() == str(kept)


def test_sparsity_counts_exact_zeros(page):
    z = np.array([[0, 1e-9, 2.0], [0, 0, 3.0]])
    assert page["share_nonzero"](z) == pytest.approx(3 / 6)
    assert page["count_dead"](z) == 1  # a unit, not an image
    assert page["count_dead"](np.zeros((2, 5))) == 5 and page["count_dead"](np.ones((5, 2))) == 0


def test_normalize_works_on_units(page):
    z = np.random.default_rng(0).normal(3, [1, 10, 100], (50, 3))
    normal = page["normalize"](z)
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(normal.std(axis=0), 1)


def test_normalization_in_the_network_has_nothing_to_undo_it(page):
    layers = page["top_k"].get_layer("encoder").layers
    (layer,) = (one for one in layers if isinstance(one, keras.layers.BatchNormalization))
    assert not layer.center and not layer.scale and not layer.trainable_variables
    starved = page["starved"].get_layer("encoder").layers
    assert [type(one) for one in starved] == [type(one) for one in layers if one is not layer]


def test_the_penalties_are_those_of_the_text(page):
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    for model, weight in (("l1_32", 1e-4), ("l1_256", 1.4e-3), ("plain", 0)):
        encoder = page[model].get_layer("encoder")
        totals = []
        for batch in (x, np.tile(x, (4, 1, 1, 1))):  # the penalty doesn't grow with the batch
            z = np.array(encoder(batch))
            totals.append(float(sum(encoder.losses)))
        assert totals == pytest.approx([weight * np.abs(z).sum(axis=1).mean()] * 2, rel=1e-4)
    assert f"{page['l1_256'].count_params():,}" == "402,448"


def test_pca_copy_is_clipped_and_uses_n_numbers(page):
    x = np.random.default_rng(0).random((60, 784)) * 3 - 1
    mean = x[:40].mean(axis=0)
    _, _, components = np.linalg.svd(x[:40] - mean, full_matrices=False)
    pca = types.SimpleNamespace(mean_=mean, components_=components[:32])
    copy = page["pca_copy"](pca, x, 25)
    projected = mean + (x - mean) @ components[:25].T @ components[:25]
    np.testing.assert_allclose(copy, np.clip(projected, 0, 1))
    assert copy.min() == 0 and copy.max() == 1


# what the tables say


def test_toy_codes_are_counted_as_the_text_says(page):
    z = page["z_toy"]
    assert z.sum() == pytest.approx(5.5) and np.count_nonzero(z) == 7
    assert np.count_nonzero(z >= 0.9) == 3  # "the 3 largest are kept"
    assert " + ".join(f"{value:g}" for value in z) + " = 5.5" in prose().replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_validation_table_is_that_of_the_files(mnist, name):
    _, x_valid, _ = mnist
    shown = {}
    for cell in (the_cell("rows_valid = {"), the_cell('rows_valid["256 units, top-k"]')):
        shown |= table(cell)
    for column, value in facts(NAMES[name], "mnist", x_valid).items():
        assert float(shown[name][column]) == pytest.approx(value, abs=6e-5), column


@pytest.mark.parametrize("name", SHOWN)
def test_record_of_seed_0_is_that_of_the_files(mnist, name):
    _, _, x_test = mnist
    row = seeds.read(MODELS / "mnist" / "02_sparse.seeds.json")["0"]["rows"][name]
    assert row == pytest.approx(facts(NAMES[name], "mnist", x_test), abs=2e-5)


@both
@pytest.mark.parametrize("name", SHOWN)
def test_saved_metrics_are_those_of_the_weights(parts, dataset, name):
    _, _, x_test = of(parts, dataset)
    saved = modelfile.read(MODELS / dataset / f"{NAMES[name]}.h5").facts["held_out"]
    assert saved["mse"] == pytest.approx(facts(NAMES[name], dataset, x_test)["MSE"], abs=1e-6)


def test_last_table_is_mean_and_deviation_of_the_record():
    shown = table(the_cell("seeds.over_seeds"))
    records = seeds.read(MODELS / "mnist" / "02_sparse.seeds.json")
    assert list(records) == ["0", "1", "2", "3", "4"]
    for label, row in shown.items():
        for column, text in row.items():
            values = [record["rows"][label][column] for record in records.values()]
            numbers = [float(number) for number in text.split(" ± ")]
            half = 0.06 if column in ("units", "dead units") else 6e-5
            assert numbers[0] == pytest.approx(np.mean(values), abs=half), (label, column)
            if len(numbers) == 2:
                assert numbers[1] == pytest.approx(np.std(values, ddof=1), abs=half)
    assert set(shown) == {"PCA, 25 numbers", "PCA, 32 numbers", *SHOWN}


def test_pca_was_fitted_on_the_training_part(mnist):
    x_train, _, x_test = (x.reshape(len(x), 784) for x in mnist)
    mean = x_train.mean(axis=0, dtype=np.float64)
    moments = x_train.T.astype(np.float64) @ x_train / len(x_train)
    _, vectors = np.linalg.eigh(moments - np.outer(mean, mean))
    records = seeds.read(MODELS / "mnist" / "02_sparse.seeds.json")
    for n in (25, 32):
        basis = vectors[:, -n:]
        copy = np.clip(mean + (x_test - mean) @ basis @ basis.T, 0, 1)
        error = np.mean(np.square(x_test - copy))
        for record in records.values():
            assert record["rows"][f"PCA, {n} numbers"]["MSE"] == pytest.approx(error, rel=1e-4)


def test_claim_holds_for_every_seed():
    for record in seeds.read(MODELS / "mnist" / "02_sparse.seeds.json").values():
        rows = record["rows"]
        top_k, plain, l1 = (rows[name] for name in ("256 units, top-k", SHOWN[0], "256 units, L1"))
        assert top_k["units"] == 256 and top_k["share non-zero"] == pytest.approx(25 / 256)
        assert top_k["MSE"] <= 0.0095 and top_k["MSE"] < plain["MSE"]
        assert top_k["dead units"] <= 0.05 * 256
        assert plain["share non-zero"] > 0.9 and rows["32 units, L1"]["share non-zero"] > 0.8
        assert l1["share non-zero"] > 0.1 and l1["dead units"] > 128
        assert l1["MSE"] > top_k["MSE"]


def test_half_the_code_is_half_the_penalty_and_the_same_picture(mnist):
    _, x_valid, _ = mnist
    z, x_hat = forward("02_sparse-l1-32", "mnist", x_valid)
    shown = table(the_cell("strong_decoder"))
    one, half = shown["the code"], shown["half the code, twice the decoder"]
    assert float(one["L1 of a code"]) == pytest.approx(z.sum(axis=1).mean(), abs=6e-4)
    assert float(half["L1 of a code"]) == pytest.approx(z.sum(axis=1).mean() / 2, abs=6e-4)
    for column, value in (
        ("MSE", np.mean(np.square(x_valid.reshape(-1, 784) - x_hat))),
        ("share non-zero", np.count_nonzero(z) / z.size),
    ):
        assert one[column] == half[column]
        assert float(one[column]) == pytest.approx(value, abs=6e-5)


def test_random_units_win_as_often_as_printed(mnist):
    _, x_valid, _ = mnist
    w = np.random.default_rng(0).normal(0, (2 / 784) ** 0.5, (784, 256))
    sums = x_valid.reshape(-1, 784) @ w
    text = stored(the_cell("random_weights ="))
    for name, z in {
        "as they are": sums,
        "normalized": (sums - sums.mean(axis=0)) / sums.std(axis=0),
    }.items():
        wins = np.count_nonzero(keep(z, 25), axis=0)
        share = wins / len(z)
        line = f"{name}: {np.sum(share < 0.01)} of 256 units win on less than 1 % of the images,"
        line += f"\n    and the luckiest one on {share.max():.0%}"
        assert line in text


# what the pictures are


def test_patterns_are_decoder_rows_sorted_by_use(mnist, trained):
    _, x_valid, _ = mnist
    z, _ = forward("02_sparse", "mnist", x_valid)
    cell = the_cell("plots.image_grid(")
    noted = run(cell, top_k=trained, z_top_k=z)
    images, title = noted["arguments"]
    share = np.count_nonzero(z, axis=0) / len(z)
    rows = weights_of("02_sparse", "mnist")[-2]
    assert images.shape == (64, 28, 28)
    shown = [int(np.flatnonzero((rows == image.ravel()).all(axis=1))[0]) for image in images]
    assert len(set(shown)) == 64 and (np.diff(share[shown]) <= 0).all()
    assert share[shown[0]] == share.max()
    assert f"{share[shown[0]]:.0%} down to {share[shown[-1]]:.1%}" in title


def test_a_unit_is_taken_away_in_each_column(mnist, trained):
    _, x_valid, _ = mnist
    z, x_hat = forward("02_sparse", "mnist", x_valid[:3])
    cell = the_cell("ink that is lost")
    rows, title = run(cell, top_k=trained, z_top_k=z.astype("float32"))["arguments"]
    w_d, b_d = weights_of("02_sparse", "mnist")[-2:]
    largest = np.argsort(-z[2])[:6]
    assert title == "One image without one of its units: " + ", ".join(map(str, largest))
    for n, unit in enumerate(largest):
        code = z[2].copy()
        code[unit] = 0
        without = sigmoid(code @ w_d + b_d)
        np.testing.assert_allclose(rows["one set to 0"][n].ravel(), without, atol=1e-4)
        np.testing.assert_allclose(rows["all 25 units"][n].ravel(), x_hat[2], atol=1e-4)
        lost = np.clip(x_hat[2] - without, 0, 1)
        np.testing.assert_allclose(rows["ink that is lost"][n].ravel(), lost, atol=1e-4)


def test_code_bars_belong_to_their_images(mnist, trained):
    _, x_valid, _ = mnist
    cell = the_cell("z_top_k = encode(")
    scope = {"top_k": trained, "x_valid": x_valid[:500]}
    encode = definitions(PATH, "encode")["encode"]
    names = {"encode": encode, "share_nonzero": lambda z: np.mean(z != 0)}
    images, codes, title, drawn = run(cell, **scope, **names)["arguments"]
    z, x_hat = forward("02_sparse", "mnist", x_valid[:4])
    np.testing.assert_array_equal(images, x_valid[:4])
    np.testing.assert_allclose(codes, z, atol=1e-4)
    np.testing.assert_allclose(drawn.reshape(4, 784), x_hat, atol=1e-4)
    assert "25 bars an image, 9.8% of 256" in title


def test_test_images_are_used_at_the_end_alone():
    sources = [cell.source for cell in cells()]
    last = next(n for n, source in enumerate(sources) if "seeds.over_seeds" in source)
    for n, source in enumerate(sources):
        uses = re.sub(r"held_out=\(x_test, x_test\)|\(x_test, _\), dataset =", "", source)
        assert n >= last or "x_test" not in uses
    chosen = json.dumps(sources[last])
    assert "PCA(32).fit(flat_train)" in chosen and "flat_train, flat_test = x_train" in chosen
