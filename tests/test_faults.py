"""Every row of docs/faults.md about saved models. The small model of helpers stands for all."""

import ast
import os
import subprocess
import sys
import time
import tracemalloc

import h5py
import numpy as np
import pytest
from faults import DELETE, FILE, OTHER, REFUSED_FILES, document
from helpers import ROOT, build, weights_equal

from ae_keras import cache, modelfile
from ae_keras.errors import CacheError, DamagedModelError

FIT = {"dataset": "digits", "epochs": 2, "batch_size": 16, "seed": 3}


def run(model, x, **changes):
    return cache.fit_or_load(model, "00_test", x, x, **FIT | changes)


def same_weights(saved, model):
    return all(map(np.array_equal, saved.weights, model.get_weights()))


def test_documentation_is_current():
    """If this fails: python tests/faults.py"""
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") == document()


@pytest.mark.parametrize("fault", REFUSED_FILES)
def test_refused_file(trained, x, path, monkeypatch, fault):
    corrupt, cause = REFUSED_FILES[fault]
    path.write_bytes(corrupt(path.read_bytes()))
    damaged = path.read_bytes()
    model = build()
    before = model.get_weights()
    monkeypatch.setenv("AE_KERAS_CACHE", "strict")
    with pytest.raises(DamagedModelError) as caught:
        run(model, x)
    message = str(caught.value)
    assert message.startswith(f"{FILE}: ") and message.endswith(f"{cause}. {DELETE}")
    assert (caught.value.what, caught.value.way_out) == (FILE, DELETE)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert path.read_bytes() == damaged  # not touched by looking
    monkeypatch.delenv("AE_KERAS_CACHE")
    with pytest.warns(UserWarning, match="Delete this file to retrain"):
        run(model, x)
    assert weights_equal(model, trained)
    assert same_weights(modelfile.read(path), trained)
    aside = path.with_name("00_test.h5.damaged-1")
    assert aside.exists() == ("other shapes" not in cause)
    assert not aside.exists() or aside.read_bytes() == damaged


def test_single_flipped_bits_are_never_loaded(trained, path):
    image = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(image), size=300, replace=False):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedModelError):
            modelfile.read(path)


def test_claimed_size_is_not_allocated(trained, path):
    path.write_bytes(REFUSED_FILES["13 KB that declare 2 GiB"][0](path.read_bytes()))
    tracemalloc.start()  # NumPy reports its arrays there
    try:
        with pytest.raises(DamagedModelError, match="more than the file"):
            modelfile.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24  # bytes, at the highest
    finally:
        tracemalloc.stop()


def test_code_in_the_configuration_is_never_run(trained, x, path, monkeypatch):
    from faults import edited, poison

    path.write_bytes(edited(poison)(path.read_bytes()))
    model = build()
    model.fit = None
    run(model, x)
    assert weights_equal(model, trained)


def test_package_has_no_way_to_run_a_files_code():
    """No whole-model loading, no pickle, no eval: not as a name, an attribute or an argument."""
    forbidden = {"load_model", "model_from_json", "safe_mode", "pickle", "eval", "exec", "unsafe"}
    for file in (ROOT / "ae_keras").glob("*.py"):
        used = set()
        for node in ast.walk(ast.parse(file.read_text())):
            used |= {getattr(node, field, None) for field in ("id", "attr", "arg", "name")}
        assert not used & forbidden, file.name
    assert "allow_pickle=False" in (ROOT / "ae_keras" / "data.py").read_text()


SCRIPT = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from helpers import build
import numpy as np
from ae_keras import cache, modelfile
x = np.random.default_rng(0).random((64, 6), dtype=np.float32)
def run(model, **changes):
    fit = dict(dataset="digits", epochs=2, batch_size=16, seed=3) | changes
    return cache.fit_or_load(model, "00_test", x, x, **fit)
"""


def start(code, **options):
    script = SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests")) + code
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ),
        **options,
    )


def test_killed_at_any_stage_of_saving(trained, x, path):
    old = path.read_bytes()
    stages = ["modelfile._as_h5", "os.fsync", "modelfile.read", "os.replace"]
    code = (
        "facts = modelfile.read(modelfile.models_folder() / 'digits/00_test.h5').facts\n"
        "model = build()\n{0} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "modelfile.save(model, modelfile.models_folder() / 'digits/00_test.h5', facts)"
    )
    for process in [start(code.format(stage)) for stage in stages]:
        output, _ = process.communicate()
        assert process.returncode == -9, output
    assert path.read_bytes() == old
    left = sorted(path.parent.glob("*.part"))
    assert len(left) == 3  # all but the one that was killed before it wrote
    os.utime(left[0], (time.time() - 7200,) * 2)
    os.utime(left[1], (time.time() - 7200,) * 2)
    modelfile.save(trained, path, modelfile.read(path).facts)
    assert sorted(path.parent.glob("*.part")) == left[2:]  # it may still be another's


def test_a_save_that_fails_leaves_everything(trained, x, path, monkeypatch):
    old = path.read_bytes()
    model = build(activation="tanh")

    def fail(*arguments, **options):
        raise ValueError("no luck")

    monkeypatch.setattr(model, "save", fail)
    with pytest.raises(CacheError) as caught:
        modelfile.save(model, path, {})
    assert f"`{caught.value}`" == OTHER["Keras fails while saving"][1]
    with pytest.warns(UserWarning, match=r"no luck.*lives in memory only"):
        history = run(model, x)
    assert len(history.epoch) == 2
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["00_test.h5"]


def test_full_disk(trained, x, path):
    old = path.read_bytes()
    process = start(
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "model = build()\n"
        "before = model.get_weights()\n"
        "path = modelfile.models_folder() / 'digits/00_test.h5'\n"
        "try:\n    modelfile.save(model, path, modelfile.read(path).facts)\n"
        "except Exception as error:\n    print('SAID', error)\n"
        "history = run(model, epochs=3)\n"
        "assert not all(map(np.array_equal, before, model.get_weights()))\n"
        "print('ALIVE', len(history.epoch))"
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "ALIVE 3" in output and "lives in memory only" in output
    assert OTHER["a full disk"][1].strip("`") in output
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["00_test.h5"]


def test_read_only_folder_is_known_before_training(x, tmp_path):
    folder = modelfile.models_folder() / "digits"
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    for parent in folder.parents:
        if tmp_path.parent.parent.parent in parent.parents:
            parent.chmod(0o755)
    process = start(
        "import warnings\n"
        "warnings.simplefilter('always')\n"
        "model = build()\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "warnings.showwarning = lambda m, *a, **k: print('SAID', m, flush=True)\n"
        "fit = model.fit\n"
        "model.fit = lambda *a, **k: (print('TRAINING'), fit(*a, **k))[1]\n"
        "print('EPOCHS', len(run(model).epoch))"
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    said = OTHER["a read-only folder"][1].strip("`")
    assert output.index(said) < output.index("TRAINING") < output.index("EPOCHS 2")


def test_two_processes_save_and_a_third_reads(trained, x, path):
    code = (
        "path = modelfile.models_folder() / 'digits/00_test.h5'\n"
        "for n in range(8):\n"
        "    path.unlink(missing_ok=True)\n"
        "    run(build())\n"
    )
    processes = [start(code) for _ in range(2)]
    reads = 0  # how many there are depends on the machine
    while any(process.poll() is None for process in processes):
        try:
            assert same_weights(modelfile.read(path), trained)
            reads += 1
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    assert reads
    assert same_weights(modelfile.read(path), trained)
    assert [p.name for p in path.parent.iterdir()] == ["00_test.h5"]


def test_a_reader_keeps_its_file_while_another_saves(trained, path):
    other = build(activation="tanh")
    with h5py.File(path) as held:
        modelfile.save(other, path, modelfile.read(path).facts)
        kernel = held["model_weights/encoder"]
        kernel = kernel[kernel.attrs["weight_names"][0]][()]
    assert np.array_equal(kernel, trained.get_weights()[0])
    assert same_weights(modelfile.read(path), other)
