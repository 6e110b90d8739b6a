"""What happens to files that can't be used, and to those that were never finished."""

import os
import time

import pytest

from ae_keras import files


@pytest.mark.parametrize(
    ("minutes", "name", "stays"),
    [
        (0, "a.h5.x1.part", True),  # somebody is writing it
        (2, "a.h5.x1.part", True),
        (55, "a.h5.x1.part", True),  # on a slow line
        (65, "a.h5.x1.part", False),
        (60 * 24, "mnist.npz.x1.part", False),
        (60 * 24, "a.h5", True),  # finished
        (60 * 24, "a.h5.damaged-1", True),
        (60 * 24, "a.partly", True),
    ],
)
def test_sweep_takes_what_was_left_an_hour_ago_and_nothing_else(tmp_path, minutes, name, stays):
    path = tmp_path / name
    path.write_text("x")
    os.utime(path, (time.time() - 60 * minutes,) * 2)
    files.sweep(tmp_path)
    assert path.exists() == stays


def test_move_aside_keeps_every_file(tmp_path):
    for n, content in enumerate(["first", "second", "third"], start=1):
        path = tmp_path / "a.h5"
        path.write_text(content)
        assert files.move_aside(path) == tmp_path / f"a.h5.damaged-{n}"
        assert not path.exists()
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {f"a.h5.damaged-{n}": c for n, c in enumerate(["first", "second", "third"], 1)}
