"""06d_conditional: its network, its judge and its tables against independent computations."""

import re

import numpy as np
import pytest
from helpers import (
    ROOT,
    definitions,
    drawn,
    figures,
    of,
    run_cell,
    stored_tables,
    stored_text,
)
from sklearn.neighbors import KNeighborsClassifier

from ae_keras import modelfile, taught

PATH = ROOT / "notebooks" / "06d_conditional.ipynb"
ONE_HOT = np.eye(10, dtype="float32")


def build(dataset):
    """Build the page's network with the weights of its file: model, encoder, decoder, facts."""
    given = {name: getattr(taught, name) for name in ("sample", "kl")}
    found = definitions(PATH, "cvae", "encoder", "decoder", dataset=dataset, **given)
    path = ROOT / "saved_models" / dataset / "06d_conditional.h5"
    saved = modelfile.read(path)
    modelfile.set_weights(found["cvae"], saved, path)
    return found["cvae"], found["encoder"], found["decoder"], saved.facts


def test_label_reaches_encoder_and_decoder():
    _, encoder, decoder, _ = build("digits")
    z = np.zeros((10, 2), dtype="float32")
    shown = np.array(decoder([z, ONE_HOT])).reshape(10, -1)
    assert min(np.abs(shown[a] - shown[b]).max() for a in range(10) for b in range(a)) > 0.1
    x = np.zeros((10, 28, 28, 1), dtype="float32")
    assert np.ptp(np.array(encoder([x, ONE_HOT])[0]), axis=0).min() > 0


def test_the_outputs_are_a_decoded_draw_and_the_kl_of_the_cloud():
    cvae, encoder, decoder, _ = build("digits")
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    given = [x, ONE_HOT[:5]]
    mean, log_var = map(np.array, encoder(given))
    kl = (mean**2 + np.exp(log_var) - 1 - log_var).sum(axis=1) / 2
    out, again = cvae(given), cvae(given)
    np.testing.assert_allclose(out["kl"], kl, rtol=1e-4)
    assert np.abs(out["reconstruction"] - again["reconstruction"]).max() > 0
    many = np.mean([cvae(given)["reconstruction"] for _ in range(200)], axis=0)
    z = mean + np.exp(log_var / 2) * np.random.default_rng(1).normal(size=(200, 5, 2))
    expected = np.mean([decoder([one.astype("float32"), given[1]]) for one in z], axis=0)
    np.testing.assert_allclose(many, expected, atol=0.1)


def test_saved_metrics_are_those_of_an_independent_computation(dataset, datasets):
    x_test, y_test = datasets[dataset][1]
    _, encoder, decoder, facts = build(dataset)
    labels = ONE_HOT[y_test]
    mean, log_var = (
        v.astype(float) for v in encoder.predict([x_test, labels], batch_size=1000, verbose=0)
    )
    z = mean + np.exp(log_var / 2) * np.random.default_rng(1).normal(size=mean.shape)
    p = decoder.predict([z, labels], batch_size=1000, verbose=0).astype(float)
    p = p.clip(1e-7, 1 - 1e-7)
    nats = (-x_test * np.log(p) - (1 - x_test) * np.log1p(-p)).sum(axis=(1, 2, 3))
    kl = ((mean**2 + np.exp(log_var) - log_var - 1) / 2).sum(axis=1)
    assert facts["held_out"]["kl_loss"] == pytest.approx(kl.mean(), rel=1e-3)
    assert facts["held_out"]["reconstruction_loss"] == pytest.approx(nats.mean(), rel=0.01)
    if dataset == "mnist":  # as claimed
        other = modelfile.read(ROOT / "saved_models" / "mnist" / "06_variational.h5").facts
        assert facts["held_out"]["loss"] <= other["held_out"]["loss"] - 5


class Decoder:
    """Draws its label in the left half, and the first number of its code in the right one."""

    def predict(self, given, **_):
        z, label = (np.asarray(part) for part in given)
        images = np.zeros((len(z), 28, 28, 1))
        images[:, :, :14] = (label.argmax(axis=1) / 10).reshape(-1, 1, 1, 1)
        images[:, :, 14:] = z[:, 0].reshape(-1, 1, 1, 1)
        return images


def test_rows_are_labels_and_columns_are_codes():
    scope = {"decoder": Decoder(), "one_hot": ONE_HOT, "seed": 0, "latent_dim": 2}
    ((kind, (rows, _), _),) = drawn(PATH, "Each row: one label", scope)
    assert kind == "image_rows" and list(rows) == [str(digit) for digit in range(10)]
    right = np.stack([rows[str(digit)][:, 5, 20, 0] for digit in range(10)])
    for digit in range(10):
        np.testing.assert_allclose(rows[str(digit)][:, 5, 5, 0], digit / 10)
        np.testing.assert_array_equal(right[digit], right[0])  # the same codes in each row
    assert len(set(right[0])) == right.shape[1]


def test_a_style_is_lent_to_all_ten_digits():
    x, y = np.random.default_rng(0).random((6, 28, 28, 1)), np.array([3, 1, 4, 1, 5, 9])

    class Encoder:
        def predict(self, given, **_):
            image, label = given
            code = image[:, 0, 0] + label.argmax(axis=1)[:, np.newaxis]
            return np.repeat(code, 2, axis=1), None

    scope = {"decoder": Decoder(), "encoder": Encoder(), "one_hot": ONE_HOT}
    scope |= {"x_valid": x, "y_valid": y, "labels_valid": ONE_HOT[y]}
    ((_, (rows, _), _),) = drawn(PATH, "A validation image on the left", scope)
    for n, (label, row) in enumerate(rows.items()):
        assert label == f"{n + 1}: a {y[n]}"
        np.testing.assert_array_equal(row[0], x[n])
        np.testing.assert_allclose(row[1:, 5, 5, 0], np.arange(10) / 10)
        np.testing.assert_allclose(row[1:, 5, 20, 0], x[n, 0, 0, 0] + y[n])


def test_the_judge_compares_with_the_label_that_was_asked_for():
    """A judge that reads every picture as the digit in its left half, but 3s as 8s."""

    class Judge:
        def __init__(self, *_):
            pass

        def fit(self, x, y):
            assert len(x) == len(y) == 100  # training images
            return self

        def predict(self, flat):
            read = np.rint(10 * flat.reshape(-1, 28, 28)[:, 5, 5]).astype(int)
            return np.where(read == 3, 8, read)

        def score(self, *_):
            return 0.5

    scope = {"decoder": Decoder(), "one_hot": ONE_HOT, "seed": 0, "latent_dim": 2}
    scope |= {"KNeighborsClassifier": Judge, "x_train": np.zeros((100, 28, 28, 1))}
    scope |= {"y_train": np.zeros(100), "x_valid": np.zeros((9, 28, 28, 1)), "y_valid": np.zeros(9)}
    page = run_cell(PATH, "by_digit =", scope)
    assert page["by_digit"] == {digit: float(digit != 3) for digit in range(10)}
    assert np.mean(page["read"] == page["asked"]) == pytest.approx(0.9)
    looked = figures() | {k: page[k] for k in ("by_digit", "read", "asked", "real")}
    run_cell(PATH, "is the hardest", looked)
    assert "90.0% of 2,000 drawings; 3 is the hardest" in looked["plots"].calls[0][1][0]
    assert list(looked["axis"].lines[0].get_ydata()) == list(page["by_digit"].values())


def test_what_the_judge_is_said_to_have_read_is_true(datasets):
    of(datasets, "mnist")
    (x, y), _, _ = datasets["mnist"]
    _, _, decoder, _ = build("mnist")
    judge = KNeighborsClassifier(5).fit(x[:20000].reshape(-1, 784), y[:20000])
    asked = np.arange(1000) % 10
    codes = np.random.default_rng(5).normal(size=(1000, 2)).astype("float32")
    images = decoder.predict([codes, ONE_HOT[asked]], verbose=0)
    right = np.mean(judge.predict(images.reshape(-1, 784)) == asked)
    stored = float(re.search(r"read as asked for: ([\d.]+)%", stored_text(PATH))[1]) / 100
    assert stored == pytest.approx(right, abs=0.015) and stored >= 0.95  # as claimed
    valid = x[55_000:57_000].reshape(-1, 784)
    real = float(re.search(r"read as labelled: ([\d.]+)%", stored_text(PATH))[1]) / 100
    assert real == pytest.approx(judge.score(valid, y[55_000:57_000]), abs=6e-4)


def test_the_digit_is_hardly_told_by_the_code(datasets):
    of(datasets, "mnist")
    (x, y), _, _ = datasets["mnist"]
    _, encoder, _, _ = build("mnist")
    codes = encoder.predict([x, ONE_HOT[y]], batch_size=1000, verbose=0)[0]
    vote = KNeighborsClassifier(15).fit(codes[:55_000], y[:55_000])
    guessed = vote.score(codes[55_000:], y[55_000:])
    text = stored_text(PATH)
    found, frequent = re.search(r"from the code: ([\d.]+)%, always.*: ([\d.]+)%", text).groups()
    assert float(found) / 100 == pytest.approx(guessed, abs=0.01)
    assert float(frequent) / 100 == pytest.approx(np.mean(y[55_000:] == 1), abs=6e-4)


def test_the_last_table_is_true(mnist, datasets):
    rows = stored_tables(PATH)[-1]
    x, _, x_test = (part.reshape(len(part), -1).astype(float) for part in mnist)
    y, y_test = datasets["mnist"][0][1][: len(x)], datasets["mnist"][1][1]
    means = np.stack([x[y == digit].mean(axis=0) for digit in range(10)])
    pictures = {
        "mean image": np.broadcast_to(x.mean(axis=0), x_test.shape),
        "mean image of the digit": means[y_test],
        "perfect copy": x_test,
    }
    for name, p in pictures.items():
        p = p.clip(1e-7, 1 - 1e-7)
        cost = -(x_test * np.log(p) + (1 - x_test) * np.log(1 - p)).sum(axis=1).mean()
        assert float(rows[name]["reconstruction"]) == pytest.approx(cost, abs=0.06), name
    for name, stem in {
        "06: no label": "06_variational",
        "with the label": "06d_conditional",
    }.items():
        path = ROOT / "saved_models" / "mnist" / f"{stem}.h5"
        found = modelfile.read(path).facts["held_out"]
        keys = {"reconstruction": "reconstruction_loss", "KL": "kl_loss", "−ELBO": "loss"}
        for column, key in keys.items():
            assert float(rows[name][column]) == pytest.approx(found[key], abs=0.06), (name, column)
