"""Helpers for the autoencoder notebooks: data, cached training, figures and metrics.

A helper takes and returns arrays, histories or figures. Layers, losses, optimizers and
their settings stand in the notebooks.
"""

import contextlib
import importlib.util
import logging
import os
import sys
import tempfile

__version__ = "0.1.0"


_NEEDED = {  # module → the package that brings it
    "certifi": "certifi",
    "h5py": "h5py",
    "keras": "keras",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tqdm": "tqdm",
}


def _check_packages():
    missing = [package for name, package in _NEEDED.items() if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"ae_keras needs packages that are not installed: {', '.join(missing)}. "
            f"Install them with: pip install {' '.join(missing)}"
        )


@contextlib.contextmanager
def _quiet():
    """Keep back what goes past Python to the process's stderr, unless an exception follows.

    TensorFlow writes a dozen lines there when it starts, which no log level turns off, and which
    would open every notebook in red.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # there is none, as under pythonw
        yield
        return
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


_check_packages()
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what comes later, such as: no GPU found
if "tensorflow" not in sys.modules:
    with _quiet():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing: many small models
