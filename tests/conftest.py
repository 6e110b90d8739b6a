"""Fixtures of all tests; `helpers` holds the functions that they share."""

import contextlib
import gc

import keras
import numpy as np
import pytest
from helpers import build, of, own_settings

from ae_keras import data, modelfile
from ae_keras.errors import DataError


@pytest.fixture(autouse=True)
def own_environment(tmp_path):
    with own_settings(tmp_path):
        yield


@pytest.fixture(autouse=True, scope="module")
def own_session():
    """Let go of a module's models when it is done; they pile up otherwise."""
    yield
    keras.utils.clear_session()
    gc.collect()


@pytest.fixture(scope="session")
def datasets():
    """Both datasets by name; MNIST only where it can be had."""
    found = {"digits": data.load_digits("digits")}
    with contextlib.suppress(DataError):
        found["mnist"] = data.load_digits("mnist")
    return found


@pytest.fixture(params=["mnist", "digits"])
def dataset(request, datasets):
    """The name of each dataset; a test that needs MNIST is skipped where it can't be had."""
    if request.param not in datasets:
        pytest.skip("MNIST is not at hand")
    return request.param


@pytest.fixture(scope="session")
def parts(datasets):
    """Cut each dataset into training, validation and test images, independently of the pages."""
    found = {}
    for name, ((x, _), (x_test, _), _) in datasets.items():
        begin = len(x) - len(x) // 12
        found[name] = x[:begin], x[begin:], x_test
    return found


@pytest.fixture(scope="session")
def mnist(parts):
    """x_train, x_valid, x_test of MNIST; a test that asks for them is skipped without MNIST."""
    return of(parts, "mnist")


@pytest.fixture
def sets():
    """Different images, of a different number, for each of a page's sets."""
    random = np.random.default_rng(0)
    sizes = {"x_train": 256 * 3, "x_valid": 30, "x_test": 20}
    return {k: random.random((n, 28, 28, 1), dtype=np.float32) for k, n in sizes.items()}


@pytest.fixture(scope="session")
def x():
    images = np.random.default_rng(0).random((64, 6), dtype=np.float32)
    images.flags.writeable = False  # all tests share it
    return images


@pytest.fixture
def path():
    return modelfile.models_folder() / "digits" / "00_test.h5"


@pytest.fixture(scope="module")
def made(request, x, tmp_path_factory):
    """The weights, history and file of what the module's `run` trains, once for all its tests."""
    model = build()
    with own_settings(tmp_path_factory.mktemp("made")):
        history = request.module.run(model, x)
        file = modelfile.models_folder() / "digits" / "00_test.h5"
        return model.get_weights(), history, file.read_bytes()


@pytest.fixture
def trained(made, path):
    """A model with these weights, and its file at `path`."""
    model = build()
    weights, model.history_seen, file = made
    model.set_weights(weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(file)
    return model
