"""Tables over several seeds: what is shown, what is refused, and what no longer belongs."""

import json

import numpy as np
import pytest
from helpers import build

from ae_keras import cache, seeds
from ae_keras.errors import ArgumentError, DamagedModelError

VALUES = [0.10, 0.13, 0.11, 0.12, 0.16]


@pytest.fixture
def rows(x):
    """A table of this run, after a model was trained; seeds 0–4 are recorded."""
    cache._fingerprints.clear()
    cache.fit_or_load(build(), "00_test", x, x, dataset="digits", seed=0)
    for seed, value in enumerate(VALUES):
        fingerprints = cache.fingerprints() if seed == 0 else {"00_test": f"of seed {seed}"}
        record = {"rows": table(value), "fingerprints": fingerprints}
        seeds.add("00_test", "digits", seed, record)
    return table(VALUES[0])


def table(value):
    return {"PCA": {"MSE": 0.5, "n": 3}, "network": {"MSE": value, "n": "three"}}


def test_mean_and_deviation(rows, capsys):
    shown = seeds.over_seeds("00_test", "digits", rows)
    mean, deviation = np.mean(VALUES), np.sqrt(np.sum((VALUES - np.mean(VALUES)) ** 2) / 4)
    assert shown["network"] == {"MSE": f"{mean:.4f} ± {deviation:.4f}", "n": "three"}
    assert shown["PCA"] == {"MSE": "0.5000", "n": "3"}
    assert "over 5 seeds" in capsys.readouterr().out
    shown = seeds.over_seeds("00_test", "digits", rows, decimals={"MSE": 1})
    assert shown["network"]["MSE"] == "0.1 ± 0.0"


def test_a_small_spread_is_shown_where_the_digits_show_it(rows):
    """99.93 and 100 differ by less than a thousandth, and by more than the last digit."""
    for seed, value in enumerate((99.93, 99.97, 100.0, 99.93, 99.96)):
        fingerprints = cache.fingerprints() if seed == 0 else {"00_test": f"of seed {seed}"}
        seeds.add("00_near", "digits", seed, {"rows": table(value), "fingerprints": fingerprints})
    shown = seeds.over_seeds("00_near", "digits", table(99.93), decimals={"MSE": 2})
    assert shown["network"]["MSE"] == "99.96 ± 0.03"
    shown = seeds.over_seeds("00_near", "digits", table(99.93), decimals={"MSE": 0})
    assert shown["network"]["MSE"] == "100"


def test_a_value_far_from_all_seeds_is_shown_as_it_is(rows, capsys):
    shown = seeds.over_seeds("00_test", "digits", table(0.9))
    assert shown["network"]["MSE"] == "0.9000 !"
    assert "make seeds NB=00_test" in capsys.readouterr().out
    rows["PCA"]["MSE"] = 0.51  # what varies over no seed has no room
    assert seeds.over_seeds("00_test", "digits", rows)["PCA"]["MSE"] == "0.5100 !"


def test_records_of_other_settings_do_not_count(rows, x, capsys):
    cache.fit_or_load(build(units=4), "00_test", x, x, dataset="digits", seed=0)
    shown = seeds.over_seeds("00_test", "digits", rows)
    assert shown["network"]["MSE"] == "0.1000"
    assert "this run alone" in capsys.readouterr().out


def test_other_rows_do_not_count(rows):
    rows["network"]["more"] = 1.5
    assert seeds.over_seeds("00_test", "digits", rows)["network"]["MSE"] == "0.1000"


def test_new_settings_replace_the_old_records(rows):
    seeds.add("00_test", "digits", 0, {"rows": rows, "fingerprints": {"00_test": "other"}})
    assert list(seeds.read(seeds.path_of("00_test", "digits"))) == ["0"]


def test_a_seed_is_done_only_with_these_settings(rows):
    assert seeds.is_done("00_test", "digits", 3, cache.fingerprints())
    assert not seeds.is_done("00_test", "digits", 5, cache.fingerprints())
    assert not seeds.is_done("00_test", "digits", 3, {"00_test": "other"})
    assert not seeds.is_done("00_none", "digits", 3, cache.fingerprints())


def test_an_altered_record_is_refused(rows):
    path = seeds.path_of("00_test", "digits")
    path.write_text(path.read_text().replace("0.13", "0.03"))
    with pytest.raises(DamagedModelError, match=r"00_test\.seeds\.json: its checksum"):
        seeds.over_seeds("00_test", "digits", rows)
    path.write_text("{")
    with pytest.raises(DamagedModelError, match="make seeds"):
        seeds.read(path)


def test_a_record_under_another_name_is_refused(rows):
    path = seeds.path_of("00_test", "digits")
    other = path.with_name("00_other.seeds.json")
    other.write_text(path.read_text())
    with pytest.raises(DamagedModelError, match="another name"):
        seeds.read(other)


def test_what_is_no_number_is_refused():
    with pytest.raises(ArgumentError, match="PCA, MSE"):
        seeds.over_seeds("00_test", "digits", {"PCA": {"MSE": None}})


def test_rows_are_told_to_make_seeds(rows, monkeypatch, tmp_path):
    monkeypatch.setenv("AE_KERAS_RECORD", str(tmp_path / "record"))
    rows["network"]["MSE"] = np.float32(0.25)
    seeds.over_seeds("00_test", "digits", rows)
    line = json.loads((tmp_path / "record").read_text())
    assert line["rows"]["network"]["MSE"] == 0.25
    assert line["fingerprints"] == cache.fingerprints()
