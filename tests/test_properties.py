"""Whatever is done to a file's bytes: it is read as it was written, or refused."""

import hypothesis
import numpy as np
import pytest
from helpers import build
from hypothesis import strategies as st

from ae_keras import modelfile
from ae_keras.errors import DamagedModelError

FACTS = {"format": 1, "name": "a", "recipe": {"epochs": 1}, "history": {}, "held_out": {}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.h5"
    modelfile.save(build(), path, FACTS)
    return path, path.read_bytes(), modelfile.read(path)


places = st.floats(0, 1, exclude_max=True)
corruptions = st.one_of(
    st.tuples(st.just("flip"), places, st.integers(1, 255)),
    st.tuples(st.just("overwrite"), places, st.binary(min_size=1, max_size=600)),
    st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=600)),
    st.tuples(st.just("cut"), places, st.just(None)),
    st.tuples(st.just("swap"), places, places),
)


def corrupt(image, kind, place, what):
    at = int(place * len(image))
    if kind == "flip":
        return image[:at] + bytes([image[at] ^ what]) + image[at + 1 :] if image else image
    if kind == "overwrite":
        return image[:at] + what + image[at + len(what) :]
    if kind == "insert":
        return image[:at] + what + image[at:]
    if kind == "cut":
        return image[:at]
    a, b = sorted((at, int(what * len(image))))
    return image[:a] + image[b:] + image[a:b]


@hypothesis.given(st.lists(corruptions, min_size=1, max_size=4))
@hypothesis.settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_read_gives_what_was_written_or_refuses(saved, steps):
    path, image, original = saved
    damaged = image
    for step in steps:
        damaged = corrupt(damaged, *step)
    path.write_bytes(damaged)
    try:
        found = modelfile.read(path)
    except DamagedModelError:
        assert damaged != image
    else:
        assert found.facts == original.facts
        assert all(map(np.array_equal, found.weights, original.weights))
