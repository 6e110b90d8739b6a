"""The notebooks as files: what is stored in them is whole, true, and what their code does."""

import base64
import os
import re
import shutil
import subprocess
import sys
import tomllib

import nbclient
import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT, read_notebook

from ae_keras import modelfile

LIMITS = {"cells": 30, "code lines": 150, "lines a cell": 25, "figures": 8, "bytes": 400_000}
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def stored_text(notebook):
    """Everything that the stored outputs say in words and numbers."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    plain = [
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    ]
    return "\n".join(plain)


def datasets_of(notebook):
    """Name the datasets that a notebook's models are trained on: the digits', or its own."""
    code = "\n".join(cell.source for cell in code_cells(notebook))
    if "load_digits(" in code:
        return {"mnist", "digits"}
    return set(re.findall(r'dataset="(\w+)"', code))


@every_notebook
def test_form(path):
    notebook = read_notebook(path)
    nbformat.validate(notebook)
    code = code_cells(notebook)
    lines = [len(cell.source.splitlines()) for cell in code]
    figures = sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    measured = (len(notebook.cells), sum(lines), max(lines), figures, path.stat().st_size)
    for (what, limit), value in zip(LIMITS.items(), measured, strict=True):
        assert value <= limit, f"{value} {what}"
    assert figures >= 1
    assert re.match(r"# \d\d\w? · ", notebook.cells[0].source)
    assert re.fullmatch(r"\d\d[a-z]?_[a-z_]+", path.stem)
    text = prose(notebook)
    for section in ("The claim", "## What to notice", "## Check yourself", "## Exercises"):
        assert section in text, f"no section {section!r}"
    assert text.count("<details>") == text.count("</details>") >= 4
    assert "saved_models" in text, "the reader isn't told which file to delete"
    assert not re.search("TODO|FIXME|XXX", text), "unfinished"


@every_notebook
def test_outputs_are_stored_and_clean(path):
    notebook = read_notebook(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for n, cell in enumerate(code_cells(notebook), start=1):
        assert cell.source.strip(), "an empty cell"
        assert cell.execution_count == n, f"cell {n} was not executed in order"
        assert set(cell.metadata) <= {"tags"}
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
    text = stored_text(notebook)
    named = set(re.findall(r"^Dataset: (\w+)", text, re.M))
    assert named == datasets_of(notebook) - {"digits"}
    assert "training, because" not in text, "its models did not come from the cache"
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)/", text), "a path"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert not re.search(r"#\s*NBVAL|nbval-(?!check-output)", cell.source, re.I)


@every_notebook
def test_cells_marked_for_checking_have_outputs(path):
    """nbval passes a checked cell whose stored output was stripped."""
    for cell in code_cells(read_notebook(path)):
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert cell.outputs


@every_notebook
def test_figures_in_prose_are_those_of_the_saved_models(path):
    """A number before `<!-- dataset/model metric -->` is that model's held-out figure."""
    check_cited_figures(prose(read_notebook(path)))


def test_figures_in_the_readme_are_those_of_the_saved_models():
    check_cited_figures((ROOT / "README.md").read_text())


def check_cited_figures(text):
    cited = re.findall(r"([\d,]*\.?\d+)\**<!-- (\w+)/([\w-]+) (\w+) -->", text)
    assert cited, "no figure of a saved model is cited"
    for number, dataset, name, metric in cited:
        facts = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5").facts
        value = facts.get(metric, facts["held_out"].get(metric))
        decimals = len(number.partition(".")[2])
        assert f"{value:.{decimals}f}" == number, f"{name}'s {metric} is {value}, not {number}"


@every_notebook
def test_every_number_in_prose_has_a_source(path):
    """Numbers of three decimals and more stand in an output, or say where they are from."""
    notebook = read_notebook(path)
    outputs = stored_text(notebook)
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        text = re.sub(
            r"[\d.]+\**<!--.*?-->|`[^`]*`|\$[^$]*\$|= 0\.\d+|\]\([^)]*\)", "", cell.source
        )
        for number in re.findall(r"(?<![\w.])\d+\.\d{3,}", text):
            assert number in outputs, f"{number} is in no output: …{text[:60]}…"


@every_notebook
def test_picture_is_the_notebooks_own(path):
    for cell in code_cells(read_notebook(path)):
        if "picture" in cell.metadata.get("tags", []):
            png = base64.b64decode(cell.outputs[-1]["data"]["image/png"])
            assert (ROOT / "docs" / "pictures" / f"{path.stem}.png").read_bytes() == png
            return
    pytest.fail("no cell has the tag `picture`")


@every_notebook
def test_models_are_shipped_for_every_dataset(path):
    notebook = read_notebook(path)
    names = set(
        re.findall(
            r'"(\d\d[a-z]?_[a-z_]+(?:-[\w-]+)?)"',
            "".join(c.source for c in code_cells(notebook)),
        )
    )
    assert names and datasets_of(notebook)
    for dataset in datasets_of(notebook):
        shipped = {p.stem for p in (ROOT / "saved_models" / dataset).glob("*.h5")}
        assert names <= shipped


def test_saved_models_belong_to_notebooks_and_are_light():
    stems = {path.stem for path in NOTEBOOKS}
    models = sorted((ROOT / "saved_models").glob("*/*.h5"))
    tracked = [p for p in models if not re.search(r"\.(edited|\d+-epoch)-", p.name)]
    for path in tracked:
        assert path.stem.split("-")[0] in stems, f"{path.name} belongs to no notebook"
    assert sum(path.stat().st_size for path in tracked) <= 60e6


def test_setup_cell_is_the_same_everywhere():
    cells = {code_cells(read_notebook(path))[0].source for path in NOTEBOOKS}
    assert len(cells) == 1
    assert len(cells.pop().splitlines()) <= 12


def test_the_address_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    address = project["project"]["urls"]["Repository"]
    name = address.removeprefix("https://github.com/")
    texts = {path.name: path.read_text() for path in (*NOTEBOOKS, ROOT / "README.md")}
    for file, text in texts.items():
        found = set(re.findall(r"github(?:\.com)?/([\w.-]+/ae_keras)\b", text))
        assert found == {name}, f"{file} names {found}; run: make links REPO={name}"
    for path in NOTEBOOKS:
        notebook = read_notebook(path)
        assert f'"{address}"' in code_cells(notebook)[0].source
        assert f"github/{name}/blob/main/notebooks/{path.name})" in notebook.cells[0].source


def test_links_sets_the_address(tmp_path):
    for folder in ("notebooks", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    command = [sys.executable, tmp_path / "tools" / "notebooks.py", "links"]
    subprocess.run([*command, "somebody/else"], check=True)
    for file in (tmp_path / "README.md", *(tmp_path / "notebooks").glob("*.ipynb")):
        assert "somebody/else" in file.read_text()
        assert "OWNER/ae_keras" not in file.read_text()
    refused = subprocess.run([*command, "nonsense"], capture_output=True, text=True)
    assert refused.returncode and "not of the form owner/name" in refused.stderr


def test_setup_cell_works_wherever_it_is_run(tmp_path):
    """In the root, in notebooks/, and, with nothing around it, by cloning: twice."""
    repository = tmp_path / "origin"
    repository.mkdir()
    for folder in ("ae_keras", "notebooks"):
        shutil.copytree(ROOT / folder, repository / folder)
    git = ["git", "-C", repository, "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    source = code_cells(read_notebook(NOTEBOOKS[0]))[0].source
    source = re.sub(r'REPOSITORY = ".*"', f'REPOSITORY = "{repository.as_uri()}"', source)
    source += "\nprint(pathlib.Path(cache.__file__).parent.parent)"
    (tmp_path / "empty").mkdir()
    cloned = tmp_path / "empty" / "ae_keras"
    for folder, root in (
        (ROOT, ROOT),
        (ROOT / "notebooks", ROOT),
        (tmp_path / "empty", cloned),
        (tmp_path / "empty", cloned),
    ):
        done = subprocess.run(
            [sys.executable, "-c", source], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(root)
        assert "cuda" not in done.stderr, "TensorFlow's start-up log would open the notebook"


@every_notebook
def test_trains_from_a_cold_cache(path, tmp_path):
    """Run it all, digits being the embedded ones, one epoch a model, and see the files appear."""
    environment = os.environ | {
        "AE_KERAS_MODELS": str(tmp_path / "models"),
        "AE_KERAS_DATASET": "digits",
        "AE_KERAS_EPOCHS": "1",
    }
    notebook = read_notebook(path)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute(env=environment)
    text = stored_text(notebook)
    assert "training, because" in text and "loaded" not in text
    (dataset,) = datasets_of(notebook) - {"mnist"}
    made = sorted((tmp_path / "models" / dataset).glob("*.1-epoch-*.h5"))
    assert made
    for file in made:
        facts = modelfile.read(file).facts
        assert all(len(values) == 1 for values in facts["history"].values())
