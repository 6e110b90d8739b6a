"""09b_manifold: the answers, densities and tables, against SciPy and quadrature."""

import numpy as np
import pytest
from helpers import ROOT, definitions, stored_tables, stored_text
from scipy.integrate import quad
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import norm

from ae_keras import modelfile, seeds

PATH = ROOT / "notebooks" / "09b_manifold.ipynb"
NAMES = {0.05: "09b_manifold-little-noise", 0.1: "09b_manifold", 0.2: "09b_manifold-much-noise"}
PLACES = np.linspace(0, 1, 4000)


@pytest.fixture(scope="module")
def page():
    """The page's functions, with the numbers of points that it trains on."""
    names = ("spiral", "draw_parts", "best_answer", "log_density", "gradient", "fork")
    return definitions(PATH, *names)


@pytest.fixture(scope="module")
def curve():
    """The spiral by its definition: one and a half turns, the radius from 0.15 to 1."""
    root = np.sqrt(PLACES)
    return ((0.15 + 0.85 * root) * np.exp(3j * np.pi * root)).view(float).reshape(-1, 2)


def network(name, x):
    """Compute a stored denoiser's answers by NumPy alone."""
    w, b, w2, b2, w3, b3 = modelfile.read(ROOT / "saved_models" / "spiral" / f"{name}.h5").weights
    return np.maximum(np.maximum(x @ w + b, 0) @ w2 + b2, 0) @ w3 + b3


def test_the_spiral_is_the_one_described(page, curve):
    np.testing.assert_allclose(page["spiral"](PLACES), curve, atol=1e-5)


def test_noise_is_normal_and_parts_differ(page):
    parts = page["draw_parts"](page["spiral"], 0.1)
    noise = {part: noisy - clean for part, (noisy, clean) in parts.items()}
    assert [len(n) for n in noise.values()] == [20_000, 5_000, 5_000]
    for values in noise.values():
        assert values.mean() == pytest.approx(0, abs=0.005)
        assert values.std() == pytest.approx(0.1, abs=0.002)
    clean = [parts[part][1][:100] for part in parts]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(clean[first], clean[second])
    again = page["draw_parts"](page["spiral"], 0.1)
    np.testing.assert_array_equal(parts["test"][0], again["test"][0])


def test_the_worked_example(page):
    two = np.array([[-1.0], [1.0]])
    weights = norm.pdf(0.3, two.ravel(), 0.5)
    expected = weights @ two / weights.sum()
    assert page["best_answer"](np.array([[0.3]]), two, 0.5).item() == pytest.approx(expected[0])
    assert f"from 0.3 to {expected[0]:.2f}" in stored_text(PATH)
    shares = weights / weights.sum()
    assert shares.round(3).tolist() == [0.083, 0.917], "as the prose says"


def test_the_best_answer_is_bayes(page, curve):
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (50, 2))
    for stddev in NAMES:
        logs = -cdist(x, curve, "sqeuclidean") / (2 * stddev**2)
        weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        found = page["best_answer"](x, curve, stddev)
        np.testing.assert_allclose(found, weights @ curve, atol=1e-9)


def test_the_density_adds_up_to_one_and_is_that_of_scipy(page):
    clean = np.array([[0.0, 0.0], [1.0, 0.5]])
    x = np.random.default_rng(0).normal(size=(20, 2))
    each = norm.logpdf(x[:, np.newaxis], clean, 0.3).sum(axis=2)
    expected = logsumexp(each, axis=1) - np.log(2)
    np.testing.assert_allclose(page["log_density"](x, clean, 0.3), expected, rtol=1e-9)

    def along(u):  # one clean point: the integral over a circle of radius u
        return 2 * np.pi * u * np.exp(page["log_density"](np.array([[u, 0.0]]), clean[:1], 0.3))[0]

    assert quad(along, 0, 5)[0] == pytest.approx(1, abs=1e-6)


def test_the_arrow_is_the_gradient(page, curve):
    """And a density of one point is a parabola, as the second answer says."""
    x = np.random.default_rng(1).normal(size=(30, 2))
    one = np.array([[0.2, -0.1]])
    np.testing.assert_allclose(0.25 * page["gradient"](x, one, 0.5), one - x, atol=1e-6)
    for stddev in (0.1, 0.2):
        arrows = page["best_answer"](x, curve, stddev) - x
        np.testing.assert_allclose(
            stddev**2 * page["gradient"](x, curve, stddev), arrows, atol=2e-5
        )


def test_the_table_of_answers(page, curve):
    noisy, clean = page["draw_parts"](page["spiral"], 0.1)["test"]
    weights = np.exp(-cdist(noisy, curve, "sqeuclidean") / 0.02)
    answers = {
        "not moved": noisy,
        "network": network("09b_manifold", noisy),
        "best answer": weights @ curve / weights.sum(axis=1, keepdims=True),
    }
    records = seeds.read(ROOT / "saved_models" / "spiral" / "09b_manifold.seeds.json")
    assert len(records) == 5
    table = next(t for t in stored_tables(PATH) if "best answer" in t)
    for method, answer in answers.items():
        row = records["0"]["rows"][method]
        distance = cdist(answer, curve).min(axis=1).mean()
        error = np.sqrt(np.mean(np.sum((answer - clean) ** 2, axis=1)))
        assert row["distance to the spiral"] == pytest.approx(distance, abs=2e-4)
        assert row["distance to the clean point (RMS)"] == pytest.approx(error, abs=1e-5)
        for column in row:
            mean = np.mean([r["rows"][method][column] for r in records.values()])
            assert float(table[method][column].split()[0]) == pytest.approx(mean, abs=5.1e-5)
    for record in records.values():  # the claim, under every seed
        assert 0.0795 < record["rows"]["not moved"]["distance to the spiral"] < 0.0805
        assert record["rows"]["network"]["distance to the spiral"] < 0.015
        best = record["rows"]["best answer"]["distance to the clean point (RMS)"]
        assert best < record["rows"]["network"]["distance to the clean point (RMS)"] < 1.03 * best


def test_clean_points_move(curve):
    records = records_of("09b_manifold-clean")
    for stddev, name in NAMES.items():
        row = records["0"][f"σ = {stddev}"]
        lengths = np.linalg.norm(network(name, curve) - curve, axis=1)
        assert row["network: mean"] == pytest.approx(lengths.mean(), abs=1e-5)
        assert row["network: largest"] == pytest.approx(lengths.max(), abs=1e-4)
        weights = np.exp(-cdist(curve, curve, "sqeuclidean") / (2 * stddev**2))
        best = weights @ curve / weights.sum(axis=1, keepdims=True)
        lengths = np.linalg.norm(best - curve, axis=1)
        assert row["best answer: mean"] == pytest.approx(lengths.mean(), abs=1e-5)
        ends = lengths.argsort()[-10:]
        assert np.all((ends < 100) | (ends > 3900)), "the largest arrows are at the two ends"
    for rows in records.values():  # the claim, and that more noise moves them more
        means = [rows[f"σ = {stddev}"]["network: mean"] for stddev in NAMES]
        assert means == sorted(means) and means[1] == pytest.approx(0.01, abs=0.005)


def records_of(key):
    found = seeds.read(ROOT / "saved_models" / "spiral" / f"{key}.seeds.json")
    assert len(found) == 5
    return {seed: record["rows"] for seed, record in found.items()}


def test_arrows_of_the_networks_follow_the_gradient(page, curve):
    records = records_of("09b_manifold-arrows")
    for stddev, name in NAMES.items():
        x = page["draw_parts"](page["spiral"], stddev)["test"][0][:1000].astype(float)
        logs = -cdist(x, curve, "sqeuclidean") / (2 * stddev**2)
        weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        expected = weights @ curve - x
        arrows = network(name, x) - x
        row = records["0"][f"σ = {stddev}"]
        cosine = np.vdot(arrows, expected) / np.linalg.norm(arrows) / np.linalg.norm(expected)
        assert row["cosine of all arrows"] == pytest.approx(cosine, abs=1e-4)
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (arrows, expected)]
        single = np.mean(np.sum(unit[0] * unit[1], axis=1))
        assert row["cosine, mean of single arrows"] == pytest.approx(single, abs=1e-3)
        relative = np.linalg.norm(arrows - expected) / np.linalg.norm(expected)
        assert row["relative difference"] == pytest.approx(relative, abs=1e-3)
        for rows in records.values():  # the claim, under every seed
            assert rows[f"σ = {stddev}"]["cosine of all arrows"] >= 0.98


def test_the_fork_has_three_equal_parts(page):
    x, y = page["fork"](np.arange(0.05, 3, 0.1) / 3).T
    assert np.all((x[:10] < 0) & (y[:10] == 0))
    np.testing.assert_allclose(y[10:20], x[10:20] / 2, atol=1e-6)
    np.testing.assert_allclose(y[20:], -x[20:] / 2, atol=1e-6)


def test_between_the_branches_the_answer_is_on_neither():
    between = np.stack([np.full(101, 0.3), np.linspace(-0.15, 0.15, 101)], axis=1)
    answer = network("09b_manifold-fork", between)
    x, y = answer.T
    to_branch = np.abs(np.abs(y) - x / 2) / np.hypot(1, 0.5)  # to the nearer of the two lines
    assert to_branch.max() > 0.08
