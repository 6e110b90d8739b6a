"""The start page: its table is that of the files, its map that of the pages, its links exist."""

import re

import keras
import numpy as np
import pytest
from helpers import NOTEBOOKS, ROOT, definitions, read_notebook
from sklearn.decomposition import PCA

from ae_keras import cache, metrics, modelfile

PATH = ROOT / "notebooks" / "00_start_here.ipynb"
PROSE = "\n".join(c.source for c in read_notebook(PATH).cells if c.cell_type == "markdown")


def stored_rows():
    """Return the stored table of results: row label → dict of column → text."""
    for cell in read_notebook(PATH).cells:
        for output in cell.get("outputs", []):
            if "perfect copy" in (text := output.get("data", {}).get("text/markdown", "")):
                cells = [[c.strip() for c in row[1:-1].split("|")] for row in text.splitlines()]
                head, _, *rows = cells
                return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    raise AssertionError("no table of results is stored")


def test_every_page_is_on_the_map_once():
    listed = re.findall(r"^\| \[[^]]+\]\((\w+)\.ipynb\)", PROSE, re.M)
    assert listed == [path.stem for path in NOTEBOOKS if path != PATH]


def test_links_to_pages_lead_to_pages():
    for name in re.findall(r"\]\((\w+\.ipynb)\)", PROSE):
        assert (ROOT / "notebooks" / name).is_file(), name


def test_a_model_may_have_nats_or_pixel_metrics():
    network = definitions(PATH, "network")["network"]
    facts = {"parameters": 1234, "code_size": 2, "seconds": 9.6}
    vae = network(facts | {"held_out": {"loss": 136.46, "mse": 30.0}})
    assert (vae["nats"], vae["MSE"], vae["parameters"]) == ("136.5", "", "1,234")
    plain = network(facts | {"held_out": {"loss": 0.1, "bce": 0.1, "mse": 0.02, "psnr": 20.123}})
    assert (plain["BCE"], plain["MSE"], plain["PSNR (dB)"]) == ("0.1000", "0.0200", "20.12")
    assert (plain["nats"], plain["training (s)"]) == ("", "10")


def test_a_baseline_is_measured_on_test_images():
    x_test = np.random.default_rng(0).random((4, 28, 28, 1))
    baseline = definitions(PATH, "baseline", x_test=x_test, metrics=metrics)["baseline"]
    row = baseline(7, np.full_like(x_test, 0.5))
    assert row["code"] == 7
    assert float(row["BCE"]) == pytest.approx(np.log(2), abs=6e-5)
    assert float(row["MSE"]) == pytest.approx(np.mean((x_test - 0.5) ** 2), abs=6e-5)


def test_stored_results_are_those_of_the_files():
    rows = stored_rows()
    for path in sorted((ROOT / "saved_models" / "mnist").glob("*.h5")):
        facts = modelfile.read(path).facts
        assert rows[path.stem]["parameters"] == f"{facts['parameters']:,}"
        assert rows[path.stem]["training (s)"] == f"{facts['seconds']:.0f}"
        for metric in {"bce", "mse"} & set(facts["held_out"]):
            if shown := rows[path.stem][metric.upper()]:
                assert shown == f"{facts['held_out'][metric]:.4f}"


def test_stored_baselines_are_true(datasets):
    if "mnist" not in datasets:
        pytest.skip("MNIST is not at hand")
    (x_train, _), (x_test, _), _ = datasets["mnist"]
    x_train, x_test = x_train[:55_000].reshape(-1, 784), x_test.reshape(-1, 784)
    rows = stored_rows()
    for size in (2, 32):
        pca = PCA(size, svd_solver="covariance_eigh").fit(x_train)
        x_pca = np.clip(pca.inverse_transform(pca.transform(x_test)), 0, 1)
        mse = np.mean(np.square(x_test - x_pca), dtype=np.float64)
        assert float(rows[f"PCA, {size} numbers"]["MSE"]) == pytest.approx(mse, abs=6e-5)
    mean = np.mean(np.square(x_test - x_train.mean(axis=0)), dtype=np.float64)
    assert float(rows["mean image"]["MSE"]) == pytest.approx(mean, abs=6e-5)


def test_results_leave_experiments_out(tmp_path, monkeypatch):
    monkeypatch.setenv("AE_KERAS_MODELS", str(tmp_path))
    (tmp_path / "digits").mkdir()
    source = (ROOT / "saved_models/digits/01_simple.h5").read_bytes()
    for name in ("01_simple", "01_simple-mse", "01_simple.edited-12345678", "01_simple.1-epoch-1"):
        (tmp_path / "digits" / f"{name}.h5").write_bytes(source)
    assert list(cache.results("digits")) == ["01_simple", "01_simple-mse"]


def test_a_model_that_is_not_there_is_said_and_not_raised(tmp_path, capsys):
    """Whoever deletes 01's file and runs all pages can still read this one."""
    cells = [cell.source for cell in read_notebook(PATH).cells if cell.cell_type == "code"]
    (source,) = (source for source in cells if "load_model(path" in source)
    exec(source, {"root": tmp_path, "dataset": "mnist", "keras": keras})
    assert capsys.readouterr().out == "01_simple.h5 is not there: run page 01 to train it\n"
