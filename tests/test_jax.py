"""Every page runs from the saved models on Keras's JAX backend; skipped where JAX is missing."""

import importlib.util

import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT, read_notebook
from nbclient import NotebookClient

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed"
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_page_runs_on_jax(path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # the kernel is a process of its own
    monkeypatch.setenv("AE_KERAS_CACHE", "require")
    monkeypatch.setenv("AE_KERAS_MODELS", str(ROOT / "saved_models"))
    notebook = read_notebook(path)
    asked = nbformat.v4.new_code_cell("keras.backend.backend()")
    notebook.cells.append(asked)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, resources=where).execute()
    assert asked.outputs[0].data["text/plain"] == "'jax'"
