"""06b_random_draws: its yardsticks on cases with known answers, its tables against NumPy."""

import re

import keras
import numpy as np
import pytest
import scipy.stats
from helpers import (
    ROOT,
    definitions,
    drawn,
    figures,
    of,
    read_notebook,
    run_cell,
    stored_tables,
    stored_text,
)
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

from ae_keras import modelfile, taught

PATH = ROOT / "notebooks" / "06b_random_draws.ipynb"
GUESSES = ["plain, N(0, I)", "plain, one normal", "plain, mixture", "VAE, N(0, I)"]


def build(dataset):
    """Build both networks with the weights of their files: encoders and decoders by name."""
    given = {name: getattr(taught, name) for name in ("sample", "kl")}
    names = ("vae", "encoder", "decoder", "plain", "plain_encoder", "plain_decoder")
    found = definitions(PATH, *names, dataset=dataset, **given)
    facts = {}
    for model, stem in (("vae", "06_variational"), ("plain", "06b_random_draws")):
        path = ROOT / "saved_models" / dataset / f"{stem}.h5"
        saved = modelfile.read(path)
        modelfile.set_weights(found[model], saved, path)
        facts[model] = saved.facts
    return found, facts


def test_the_plain_network_is_the_vae_without_the_cloud():
    found, facts = build("digits")
    vae, plain = found["vae"], found["plain"]
    head = vae.get_layer("encoder").get_layer("z_log_var").count_params()
    assert plain.count_params() == vae.count_params() - head
    assert facts["plain"]["parameters"] == plain.count_params()
    x = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    twice = [np.array(plain(x)["reconstruction"]) for _ in range(2)]
    np.testing.assert_array_equal(*twice)  # nothing is drawn
    z = np.reshape(found["plain_encoder"](x), (3, 2))
    np.testing.assert_allclose(twice[0], found["plain_decoder"](z), atol=1e-6)


def test_both_were_trained_the_same_way(dataset):
    recipes = [facts["recipe"] for facts in build(dataset)[1].values()]
    same = [key for key in recipes[0] if key not in ("model", "architecture", "loss", "data")]
    assert {"fit"} <= set(same) or len(same) > 1
    lengths = [len(facts["history"]["loss"]) for facts in build(dataset)[1].values()]
    assert lengths[0] == lengths[1]
    for key in ("optimizer", "fit"):
        if key in recipes[0]:
            assert recipes[0][key] == recipes[1][key], key


def test_kinds_is_the_exponential_of_the_entropy():
    kinds = definitions(PATH, "kinds")["kinds"]
    assert kinds(np.full(10, 0.1)) == pytest.approx(10)
    assert kinds(np.array([0, 0.5, 0, 0.5])) == pytest.approx(2)
    shares = np.random.default_rng(0).dirichlet(np.ones(10))
    assert kinds(shares) == pytest.approx(np.exp(scipy.stats.entropy(shares)))


def test_yardsticks_are_the_votes_of_the_ten_most_similar_images():
    """A judge whose training images are black but for one bright pixel, which tells the digit."""
    random = np.random.default_rng(0)
    x = np.zeros((200, 784))
    y = np.arange(200) % 10
    x[np.arange(200), y] = 5
    x += random.normal(0, 0.1, x.shape)
    judge = KNeighborsClassifier(10).fit(x, y)
    page = definitions(PATH, "yardsticks", judge=judge)
    clear = np.zeros((20, 28, 28, 1))
    clear.reshape(20, 784)[np.arange(20), np.arange(20) % 4] = 5
    assert page["yardsticks"](clear) == {"agreement": 1, "kinds of digit": pytest.approx(4)}
    blurred = np.zeros((1, 784))
    blurred[0, [3, 7]] = 2.5
    votes = judge.predict_proba(blurred)
    found = page["yardsticks"](blurred.reshape(1, 28, 28, 1))
    assert found["agreement"] == votes.max() < 1 and found["kinds of digit"] == pytest.approx(1)
    text = stored_text(PATH)
    assert "one kind: 1.0 – two: 2.0" in text
    entropy = scipy.stats.entropy([0.99, 0.01])
    assert f"one in a hundred is another: {np.exp(entropy):.3f}" in text


def test_each_guess_has_its_own_decoder_and_codes():
    """Plain codes in a far corner: only the fitted guesses go there, and only plainly decoded."""
    codes = np.random.default_rng(0).normal((50, -20), (2, 1), (3000, 2))

    class Decoder:
        def __init__(self, tag):
            self.tag = tag

        def predict(self, z, **_):
            return np.c_[np.full(len(z), self.tag), z]

    scope = {
        "latent_dim": 2,
        "seed": 0,
        "codes_train": {"plain": codes, "VAE": codes * 0},
        "best_mixture": GaussianMixture(2, random_state=0).fit(codes),
        "plain_decoder": Decoder(1),
        "decoder": Decoder(2),
    }
    drawn_codes = run_cell(PATH, '"plain, one normal"', scope)["drawn"]
    assert list(drawn_codes) == GUESSES
    for name, found in drawn_codes.items():
        assert np.all(found[:, 0] == (2 if name.startswith("VAE") else 1))
        fitted = "N(0, I)" not in name
        np.testing.assert_allclose(found[:, 1:].mean(axis=0), (50, -20) if fitted else 0, atol=0.3)
        spread = (2, 1) if fitted else (1, 1)
        np.testing.assert_allclose(found[:, 1:].std(axis=0), spread, rtol=0.1)
    np.testing.assert_array_equal(drawn_codes[GUESSES[0]][:, 1:], drawn_codes[GUESSES[3]][:, 1:])


def test_the_mixture_is_chosen_by_the_validation_codes():
    source = next(c.source for c in read_notebook(PATH).cells if "best_mixture =" in c.source)
    random = np.random.default_rng(0)
    centres = random.normal(0, 8, (10, 2))
    codes = centres[random.integers(10, size=4000)] + random.normal(0, 0.3, (4000, 2))
    scope = {"np": np, "seed": 0, "GaussianMixture": GaussianMixture}
    scope["points"] = lambda name, x: x if name == "plain" else None
    scope |= {"codes_train": {"plain": codes}, "x_valid": codes[::3]}
    exec(source, scope)
    costs = {n: -m.score(codes[::3]) for n, m in scope["mixtures"].items()}
    assert scope["best_mixture"].n_components == min(costs, key=costs.get) >= 10


def test_points_are_plain_codes_or_the_means_of_clouds():
    class Encoder:
        def __init__(self, *outputs):
            self.outputs = outputs

        def predict(self, x, **_):
            return list(self.outputs) if len(self.outputs) > 1 else self.outputs[0]

    codes = np.random.default_rng(0).random((3, 5, 2))
    encoders = {"plain": Encoder(codes[0]), "VAE": Encoder(codes[1], codes[2])}
    points = definitions(PATH, "points", encoders=encoders, latent_dim=2)["points"]
    np.testing.assert_array_equal(points("plain", np.zeros(5)), codes[0])
    np.testing.assert_array_equal(points("VAE", np.zeros(5)), codes[1])


def test_a_walk_with_a_jump_has_a_large_ratio():
    """One decoder follows the code evenly; the other jumps at the middle."""

    class Decoder:
        def __init__(self, jumps):
            self.jumps = jumps

        def predict(self, z, **_):
            grey = np.sign(z[:, :1]) if self.jumps else z[:, :1]
            return np.repeat(grey, 784, axis=1)

    x = np.random.default_rng(0).choice([-1.0, 1.0], (200, 2)) + 0.01
    scope = {"seed": 0, "x_test": x, "latent_dim": 2, "dataset": "digits"}
    scope |= {"encoders": {"even": None, "jump": None}, "points": lambda name, x: x}
    scope |= {"decoders": {"even": Decoder(False), "jump": Decoder(True)}}
    with np.errstate(invalid="ignore"):
        page = run_cell(PATH, "largest / mean change", scope)
    moved = np.isfinite(page["jumps"]["even"])
    assert np.median(page["jumps"]["even"][moved]) == pytest.approx(1, abs=0.01)
    jumped = page["jumps"]["jump"]
    assert np.nanmedian(jumped) == pytest.approx(32, rel=0.01)  # one of the 32 steps has it all


def test_the_stored_table_is_true(datasets):
    of(datasets, "mnist")
    (x, y), (x_test, _), _ = datasets["mnist"]
    tables = stored_tables(PATH)
    rows = next(t for t in tables if "plain, mixture" in t)
    assert list(rows) == ["real test images", *GUESSES]
    judge = KNeighborsClassifier(10).fit(x[:20000].reshape(-1, 784), y[:20000])
    found, _ = build("mnist")
    prior = np.random.default_rng(7).normal(size=(2000, 2)).astype("float32")
    sets = {
        "real test images": x_test[-1000:],
        "plain, N(0, I)": found["plain_decoder"].predict(prior, verbose=0),
        "VAE, N(0, I)": found["decoder"].predict(prior, verbose=0),
    }
    for name, images in sets.items():
        votes = judge.predict_proba(images.reshape(-1, 784))
        shares = np.bincount(votes.argmax(axis=1), minlength=10) / len(images)
        expected = {
            "agreement": votes.max(axis=1).mean(),
            "kinds of digit": np.exp(scipy.stats.entropy(shares)),
        }
        for column, value in expected.items():
            mean, *spread = (float(v) for v in re.findall(r"[\d.]+", rows[name][column]))
            margin = (3 * spread[0] if spread else 0) + (0.015 if value < 1.5 else 0.35)
            assert mean == pytest.approx(value, abs=margin), (name, column)


def test_the_table_is_the_mean_of_five_rounds():
    """The yardsticks give the number of the round, and tell the guesses apart."""

    class Random:
        def default_rng(self, n):
            return n

    class NumPy:
        random = Random()

        def __getattr__(self, name):
            return getattr(np, name)

    source = next(c.source for c in read_notebook(PATH).cells if "rounds = [" in c.source)
    scope = {"np": NumPy(), "x_test": np.zeros(3000), "drawn": dict.fromkeys(GUESSES)}
    scope["draw"] = lambda n: {name: (n, k) for k, name in enumerate(GUESSES)}
    scope["yardsticks"] = lambda given: (
        {"agreement": 0.5, "kinds of digit": float(len(given))}
        if isinstance(given, np.ndarray)
        else {"agreement": 0.1 * given[0], "kinds of digit": 2.0 * given[1] + given[0]}
    )
    tables = []
    scope["plots"] = type("P", (), {"table": tables.append})
    exec(source, scope)
    (rows,) = tables
    assert rows["real test images"] == {"agreement": "0.500", "kinds of digit": "1000.0"}
    spread = np.std(range(5), ddof=1)
    for k, name in enumerate(GUESSES):
        assert rows[name]["agreement"] == f"0.200 ± {0.1 * spread:.3f}"
        assert rows[name]["kinds of digit"] == f"{2 * k + 2:.1f} ± {spread:.1f}"


def test_the_pictures_are_the_drawings_of_the_guesses():
    sets = {name: np.full((20, 28, 28, 1), n / 4) for n, name in enumerate(GUESSES)}
    ((kind, (rows, _), _),) = drawn(PATH, "Ten random drawings", {"drawn": sets})
    assert kind == "image_rows" and list(rows) == GUESSES
    for n, name in enumerate(GUESSES):
        assert rows[name].shape == (10, 28, 28, 1) and np.all(rows[name] == n / 4)
    scope = figures() | {"cost": {1: 3.0, 10: 1.0}, "best_mixture": GaussianMixture(10)}
    run_cell(PATH, "Validation chooses", scope)
    assert "chooses 10 " in scope["plots"].calls[0][1][0]
    assert list(scope["axis"].lines[0].get_ydata()) == [3.0, 1.0]


def test_the_vae_is_that_of_page_06():
    """Its cells build the same network, so that its file is loaded, and not trained again."""
    other = definitions(ROOT / "notebooks" / "06_variational.ipynb", "vae", dataset="mnist")["vae"]
    given = {name: getattr(taught, name) for name in ("sample", "kl")}
    vae = definitions(PATH, "vae", dataset="mnist", **given)["vae"]
    assert [w.shape for w in vae.get_weights()] == [w.shape for w in other.get_weights()]
    assert isinstance(vae, keras.Model) and "06_variational (mnist): loaded" in stored_text(PATH)
