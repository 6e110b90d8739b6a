"""05c_probability: its functions against SciPy, its stored table against an independent count."""

import re

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from helpers import ROOT, definitions, drawn, read_notebook, run_cell

PATH = ROOT / "notebooks" / "05c_probability.ipynb"


@pytest.fixture(scope="module")
def page():
    names = ("likelihood", "share_of_white", "nats", "cost_of", "kl")
    return definitions(PATH, *names)


@pytest.fixture(scope="module")
def tables():
    """The stored tables, each as row → cells, in the page's order."""
    found = []
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                lines = [line.strip("|").split(" | ") for line in text.splitlines()[2:]]
                found.append({row.strip(): [c.strip() for c in cells] for row, *cells in lines})
    return found


def printed():
    outputs = [out for cell in read_notebook(PATH).cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


def test_likelihood_is_that_of_independent_coins(page):
    random = np.random.default_rng(0)
    x, p = random.integers(0, 2, 9), random.random(9)
    expected = scipy.stats.bernoulli.pmf(x, p).prod()
    assert page["likelihood"](x, p) == pytest.approx(expected)
    assert page["likelihood"](np.array([1, 0, 1]), np.array([0.8, 0.1, 0.6])) == pytest.approx(
        0.432
    )
    assert "0.432" in printed()


def test_nats_are_minus_the_logarithm_of_the_likelihood_of_each_image(page):
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (3, 28, 28, 1))
    p = random.uniform(0.1, 0.9, (3, 28, 28, 1))
    expected = -scipy.stats.bernoulli.logpmf(x, p).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(page["nats"](x, p), expected)
    np.testing.assert_allclose(page["nats"](x, p[0]), page["nats"](x, np.stack([p[0]] * 3)))


def test_a_share_is_never_quite_0_or_1(page):
    images = np.zeros((8, 28, 28, 1))
    images[:2, 3, 4] = 1
    share = page["share_of_white"](images)
    assert share[3, 4] == pytest.approx(3 / 10) and share[0, 0] == pytest.approx(1 / 10)
    assert page["share_of_white"](1 - 0 * images).max() == pytest.approx(9 / 10)


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 0.5), (-2.0, 3.0), (0.0, 1.0)])
def test_kl_and_density_are_those_of_scipy(page, mean, deviation):
    q, p = scipy.stats.norm(mean, deviation), scipy.stats.norm(0, 1)
    log_variance = 2 * np.log(deviation)
    area, _ = scipy.integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -30, 30)
    assert page["kl"](mean, log_variance) == pytest.approx(area, abs=1e-6)
    z = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(page["cost_of"](z, mean, log_variance), -q.logpdf(z))


def test_the_stored_costs_are_true(tables, mnist):
    """Count white pixels image by image, with the log-likelihood written as a matrix product."""
    x, _, x_test = (part.reshape(len(part), -1) > 0.5 for part in mnist)
    rows, n = tables[0], len(x_test)
    assert list(rows) == ["coin", "mean image", "mean of the class"]
    p = (x.sum(axis=0) + 1) / (len(x) + 2)
    mean_image = -(x_test @ np.log(p) + ~x_test @ np.log(1 - p)).sum() / n
    for name, cost in {"coin": 784 * np.log(2), "mean image": mean_image}.items():
        assert [float(cell) for cell in rows[name]] == pytest.approx([cost, cost], abs=0.06), name


def test_the_stored_cost_of_a_known_class_is_true(tables, mnist, datasets):
    x, _, x_test = (part.reshape(len(part), -1) > 0.5 for part in mnist)
    y, y_test = datasets["mnist"][0][1][: len(x)], datasets["mnist"][1][1]
    total = 0
    for digit in range(10):
        of_class, tested = x[y == digit], x_test[y_test == digit]
        p = (of_class.sum(axis=0) + 1) / (len(of_class) + 2)
        total -= (tested @ np.log(p) + ~tested @ np.log(1 - p)).sum()
    known, by_bce = map(float, tables[0]["mean of the class"])
    assert [known, by_bce] == pytest.approx([total / len(x_test)] * 2, abs=0.06)
    assert known < float(tables[0]["mean image"][0]) < float(tables[0]["coin"][0])


def test_three_ways_to_the_same_divergence(tables):
    rows = tables[1]
    exact = 0.5 * (1 + 0.25 - 1 - np.log(0.25))
    assert float(rows["formula"][0]) == pytest.approx(exact, abs=6e-4)
    assert float(rows["area, 10,000 small steps"][0]) == pytest.approx(exact, abs=6e-4)
    errors = []
    for count in ("10", "1,000", "100,000"):
        value, error = map(float, rows[f"mean of {count} draws"])
        assert abs(value - exact) < 4 * error, count
        errors.append(error)
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # a tenth for a hundred times as many


def test_prose_says_what_the_tables_say(tables):
    prose = " ".join(
        " ".join(c.source.split()) for c in read_notebook(PATH).cells if c.cell_type == "markdown"
    )
    coin, mean_image, known = (float(cells[0]) for cells in tables[0].values())
    assert f"costs {coin:.1f} nats for the coin" in prose
    assert f"saves {coin - mean_image:.0f} nats, and the label another" in prose
    assert f"the label another {mean_image - known:.0f}." in prose
    assert re.search(r"ln p\(x\) = -1\.386, bound -1\.609: 0\.223 nats too low", printed())


def test_white_pixels_of_digits_have_neighbours_and_those_of_draws_do_not():
    """Rows of white lines; coins of 0.5 for digit 0, and of 0.1 for digit 1, drawn by the label."""
    lines = np.zeros((200, 28, 28, 1), "float32")
    lines[:, 3::7] = 1
    labels = np.repeat([0, 1], 100)
    coins = np.stack([np.full((28, 28, 1), p) for p in (0.5, 0.1)])
    scope = {"x_valid": lines, "y_valid": labels, "mean_of_class": coins, "seed": 0}
    page = run_cell(PATH, "def white_neighbours", scope)
    assert page["drawn"].shape == lines.shape and set(np.unique(page["drawn"])) == {0, 1}
    assert page["drawn"][:100].mean() == pytest.approx(0.5, abs=0.01)
    assert page["drawn"][100:].mean() == pytest.approx(0.1, abs=0.01)
    # of a white pixel of digit 0 or 1, five in six and one in six; half or a tenth have a neighbour
    assert page["shares"] == pytest.approx([1, 5 / 6 * 0.5 + 1 / 6 * 0.1], abs=0.01)
    assert page["white_neighbours"](lines.transpose(0, 2, 1, 3)) == 0
    ((name, (rows, title), _),) = drawn(PATH, "White pixels with a white", page)
    assert name == "image_rows" and list(rows) == ["validation", "drawn"]
    assert f"100% in digits, {page['shares'][1]:.0%} in draws" in title
