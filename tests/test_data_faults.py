"""The download of MNIST from a real server on this machine that misbehaves on demand.

Small arrays stand for MNIST's: the code proves whatever `MNIST_ARRAYS` says.
"""

import hashlib
import http.server
import io
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from faults import DOWNLOADS
from helpers import ROOT
from test_cache import rendered

from ae_keras import data
from ae_keras.errors import DataError

ARRAYS = {
    "x_train": np.random.default_rng(0).integers(0, 256, (90, 28, 28), np.uint8),
    "y_train": np.random.default_rng(2).integers(0, 10, 90, np.uint8),
    "x_test": np.random.default_rng(1).integers(0, 256, (30, 28, 28), np.uint8),
    "y_test": np.random.default_rng(3).integers(0, 10, 30, np.uint8),
}
EXPECTED = {k: (v.shape, hashlib.sha256(v).hexdigest()) for k, v in ARRAYS.items()}


def archive(arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


class Server(http.server.ThreadingHTTPServer):
    behaviour, requests = "good", 0
    good = archive(ARRAYS)
    other = archive(ARRAYS | {"x_train": 255 - ARRAYS["x_train"]})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        how = self.server.behaviour
        if how in ("not found", "broken"):
            return self.send_error(404 if how == "not found" else 500)
        if how == "silent":
            return time.sleep(2)
        body = {"portal": b"<!doctype html> Log in", "other data": self.server.other}
        body = body.get(how, self.server.good)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how == "cut off" or (how == "cut off once" and self.server.requests == 1):
            return self.wfile.write(body[:1000])
        if how == "slow":
            try:
                for n in range(100):
                    self.wfile.write(body[n : n + 1])
                    time.sleep(0.1)
            except OSError:  # the client has had enough
                return None
            return None
        return self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("AE_KERAS_DATA", raising=False)
        monkeypatch.setattr(data, "MNIST_URL", f"http://127.0.0.1:{server.server_port}/mnist.npz")
        monkeypatch.setattr(data, "MNIST_ARRAYS", EXPECTED)
        monkeypatch.setattr(data, "_bundled_digits", lambda: list(ARRAYS.values()))  # quicker
        yield server
        server.shutdown()


@pytest.fixture
def kept():
    return pathlib.Path(os.environ["KERAS_HOME"]) / "datasets" / "mnist.npz"


def test_good_download_is_kept_and_used_again(server, kept):
    for _ in range(2):
        (x_train, y_train), (x_test, y_test), name = data.load_digits()
        assert name == "mnist"
        np.testing.assert_array_equal(x_train[..., 0], ARRAYS["x_train"] / np.float32(255))
        np.testing.assert_array_equal(y_train, ARRAYS["y_train"])
        np.testing.assert_array_equal(x_test[..., 0], ARRAYS["x_test"] / np.float32(255))
        np.testing.assert_array_equal(y_test, ARRAYS["y_test"])
    assert server.requests == 1
    assert kept.read_bytes() == server.good
    assert [file.name for file in kept.parent.iterdir()] == ["mnist.npz"]


@pytest.mark.parametrize("fault", DOWNLOADS)
def test_bad_download_is_said_and_leaves_nothing(server, kept, monkeypatch, capsys, fault):
    server.behaviour = fault
    if fault == "silent":
        monkeypatch.setattr(data, "WAIT_TIMEOUT", 0.5)
    if fault == "slow":
        monkeypatch.setattr(data, "DOWNLOAD_TIMEOUT", 1)
    if fault == "refused":
        monkeypatch.setattr(data, "MNIST_URL", "http://127.0.0.1:9/mnist.npz")
    cause = DOWNLOADS[fault].replace("SIZE", f"{len(server.good):,}")
    assert data.load_digits()[2] == "digits"
    said = capsys.readouterr().out.rpartition("Dataset: ")[2]
    assert f"MNIST's download failed: {cause})" in said
    with pytest.raises(DataError) as caught:
        data.load_digits("mnist")
    assert cause in str(caught.value)
    assert caught.value.what == "MNIST" and "AE_KERAS_DATA" in caught.value.way_out
    assert list(kept.parent.iterdir()) == []


def test_a_passing_fault_is_tried_again(server, capsys):
    server.behaviour = "cut off once"
    assert data.load_digits()[2] == "mnist"
    assert server.requests == 2


def test_half_a_file_of_a_crash_is_swept_after_an_hour(server, kept):
    kept.parent.mkdir(parents=True)
    old, young = (kept.with_name(f"mnist.npz.{n}.part") for n in ("old", "young"))
    for file in (old, young):
        file.write_bytes(server.good[:500])
    os.utime(old, (time.time() - 7200,) * 2)
    assert data.load_digits()[2] == "mnist"
    assert sorted(kept.parent.iterdir()) == [kept, young]


def test_folder_that_cannot_be_written(server, monkeypatch, tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "a file"))
    assert data.load_digits()[2] == "mnist"
    assert "MNIST will not be kept" in capsys.readouterr().out


def test_damaged_file_in_keras_cache_is_moved_aside_and_fetched_again(server, kept):
    kept.parent.mkdir(parents=True)
    kept.write_bytes(server.good[:-100])
    with pytest.raises(DataError) as caught:
        data.load_digits()
    assert caught.value.what == str(kept)
    assert "not MNIST's file, or damaged" in caught.value.cause
    assert "It is now mnist.npz.damaged-1" in caught.value.way_out
    assert kept.with_name("mnist.npz.damaged-1").read_bytes() == server.good[:-100]
    assert data.load_digits()[2] == "mnist"


def test_two_processes_download_at_once(server, kept):
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from ae_keras import data\n"
        "import test_data_faults\n"
        f"data.MNIST_URL, data.MNIST_ARRAYS = {data.MNIST_URL!r}, test_data_faults.EXPECTED\n"
        "print(data.load_digits()[2])"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}  # bytes: text turns \r into \n
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    outputs = []
    for process in processes:
        output, errors = (said.decode() for said in process.communicate())
        outputs.append(output)
        assert "B/s" not in errors
        assert rendered(output) == [
            "Dataset: mnist – 90 training and 30 test images (SHA-256 verified)",
            "mnist",
        ]
    # the bar, while it is there; a process that comes late finds the other's file, and shows none
    assert any(f"/{len(server.good) / 1000:.1f}k" in output for output in outputs)
    assert kept.read_bytes() == server.good
    assert [file.name for file in kept.parent.iterdir()] == ["mnist.npz"]
