"""python -m ae_keras verify: good files pass, and every kind of bad one is named."""

import h5py
import pytest
from helpers import ROOT, build

from ae_keras import __main__ as main
from ae_keras import modelfile, seeds

FACTS = {
    "format": 1, "name": "00_test", "dataset": "digits", "recipe": {"epochs": 2}, "seed": 0,
    "history": {"loss": [2.0, 1.0]}, "held_out": {"loss": 1.0}, "parameters": 45, "seconds": 1.0,
    "keras": "3", "tensorflow": "2",
}  # fmt: skip


def save(stem="00_test", **changes):
    path = modelfile.models_folder() / "digits" / f"{stem}.h5"
    modelfile.save(build(), path, FACTS | changes)
    return path


def test_shipped_files_are_good_and_listed(monkeypatch, capsys):
    monkeypatch.setenv("AE_KERAS_MODELS", str(ROOT / "saved_models"))
    assert main.main(["verify"]) == 0
    assert "all good" in capsys.readouterr().out


def test_good_files_pass_and_experiments_are_left_out(capsys):
    save()
    save("00_test.edited-0123abcd")
    assert main.main(["sums"]) == 0
    assert main.main(["verify"]) == 0
    assert "1 files, all good" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "01_other"}, "its name is another"),
        ({"dataset": "mnist"}, "its dataset is another"),
        ({"parameters": 44}, "it has another number of parameters"),
        ({"recipe": {"epochs": 1}}, "its history has other lengths"),
        ({"held_out": {"loss": float("nan")}}, "a figure is not finite"),
    ],
)
def test_wrong_facts_are_named(capsys, changes, problem):
    save(**changes)
    main.main(["sums"])
    assert main.main(["verify"]) == 1
    assert f"saved_models/digits/00_test.h5: {problem}" in capsys.readouterr().out


def test_damaged_and_exchanged_files_are_named(capsys):
    path = save()
    main.main(["sums"])
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert main.main(["verify"]) == 1
    assert "00_test.h5: cut short" in capsys.readouterr().out
    save(seconds=2.0)
    assert main.main(["verify"]) == 1
    assert "SHA256SUMS is missing or out of date" in capsys.readouterr().out


def test_unknown_command_explains():
    assert main.main(["verfy"]) == 2


def test_sums_are_of_the_whole_file():
    path = save()
    with h5py.File(path) as file:
        assert "ae_keras_digest" in file.attrs
    digest, name = main.sums().split()
    assert name == "digits/00_test.h5" and len(digest) == 64


def test_records_of_seeds_are_listed_and_proved(capsys):
    save()
    seeds.add("00_test", "digits", 0, {"rows": {"a": {"MSE": 0.5}}, "fingerprints": {}})
    main.main(["sums"])
    assert "digits/00_test.seeds.json" in main.sums()
    assert main.main(["verify"]) == 0
    path = seeds.path_of("00_test", "digits")
    path.write_text(path.read_text().replace("0.5", "0.4"))
    main.main(["sums"])
    assert main.main(["verify"]) == 1
    assert "00_test.seeds.json: its checksum" in capsys.readouterr().out
