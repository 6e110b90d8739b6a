"""The notebooks as files: what is stored in them is whole, true, and what their code does."""

import ast
import base64
import inspect
import itertools
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib

import nbformat
import numpy as np
import outputs
import pytest
from helpers import NOTEBOOKS, ROOT, read_notebook, trains

from ae_keras import modelfile, seeds, taught

LIMITS = {"cells": 60, "lines a cell": 25, "bytes": 400_000}
START = "00_start_here"  # a page of its own kind: it claims nothing, and asks nothing
SETUP = """
import pathlib
import subprocess
import sys

REPOSITORY = "{address}"
for root in (pathlib.Path(".."), pathlib.Path("."), pathlib.Path("ae_keras")):
    if (root / "ae_keras/cache.py").exists():
        break
else:  # Colab opens this page alone: fetch the rest
    subprocess.run(["git", "clone", "-q", "--depth=1", REPOSITORY, "ae_keras"], check=True)
sys.path.insert(0, str(root.resolve()))
"""
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


def address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["project"]["urls"]["Repository"]


@every_notebook
def test_form(path):
    notebook = read_notebook(path)
    nbformat.validate(notebook)
    code = code_cells(notebook)
    lines = max(len(cell.source.splitlines()) for cell in code)
    measured = (len(notebook.cells), lines, path.stat().st_size)
    for (what, limit), value in zip(LIMITS.items(), measured, strict=True):
        assert value <= limit, f"{value} {what}"
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert re.match(r"# \d\d\w? · ", notebook.cells[0].source)
    assert re.fullmatch(r"\d\d[a-z]?_[a-z_]+", path.stem)
    text = prose(notebook)
    if path.stem != START:
        for part in ("The claim", "## What to notice", "## Check yourself", "## Exercises"):
            assert part in text, f"no section {part!r}"
        assert text.count("<details>") >= 4
    assert text.count("<details>") == text.count("</details>")
    if trains(notebook):
        assert "saved_models" in text, "the reader isn't told which file to delete"
    assert not re.search("TODO|FIXME|XXX|@@", text), "unfinished"


@every_notebook
def test_no_sentence_is_taken_for_a_list(path):
    """A line that begins with "3. " inside a paragraph: some viewers make a list of it."""
    lines = prose(read_notebook(path)).splitlines()
    for before, line in itertools.pairwise(lines):
        in_list = re.match(r"\s*\d+\. |   ", before) or not before.strip()
        assert in_list or not re.match(r"\d+\. ", line), line


@every_notebook
def test_lines_fit_a_hundred_columns(path):
    """Prose too, except tables, links and formulas."""
    notebook = read_notebook(path)
    lines = prose(notebook).splitlines()
    long = [line for line in lines if len(line) > 100 and not re.search(r"\]\(|\||\$", line)]
    long += [
        li for cell in code_cells(notebook) for li in cell.source.splitlines() if len(li) > 100
    ]
    assert not long


@every_notebook
def test_tables_and_folds_are_whole(path):
    """A table without its head is shown as bars; a fold within a line hides what follows."""
    text = "\n".join(
        c.source + "\n" for c in read_notebook(path).cells if "markdown" in c.cell_type
    )
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert re.match(r".*\n\|[ :|-]+\|\n\|", table), f"no head: {table[:80]}"
    for line in text.splitlines():
        assert not re.search("(?<=.)<details>|</details>.", line), line


@every_notebook
def test_code_in_prose_can_be_copied(path):
    """A fence opens and closes on a line of its own, and what stands between is Python."""
    text = prose(read_notebook(path))
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", text, re.S | re.M)
    assert len(blocks) == text.count("```python") == text.count("```") / 2
    for block in blocks:
        ast.parse(textwrap.dedent(block))


@every_notebook
def test_it_begins_as_all_do(path):
    """The set-up cell, then the page's imports in one place, with the seed in sight."""
    setup, imports, *others = code_cells(read_notebook(path))
    assert setup.metadata["tags"] == ["setup"]
    assert setup.source == SETUP.format(address=address()).strip()
    assert imports.metadata["tags"] == ["imports"]
    assert imports.source.startswith("from ae_keras import "), "TensorFlow's log opens the page"
    assert re.findall("^seed = .*$", imports.source, re.M) == ["seed = 0"], "make seeds needs it"
    assert "keras.utils.set_random_seed(seed)" in imports.source
    if path.stem < "06":  # 06 and 07 import where they need it
        for cell in others:
            assert not re.search(r"^(import|from) ", cell.source, re.M)


@every_notebook
def test_becomes_a_python_script(path):
    assert read_notebook(path).metadata["language_info"]["file_extension"] == ".py"


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
    assert named == datasets_of(notebook) - {"digits"} or path.stem == START
    if path.stem != START:  # which shows the cache at work
        assert "training, because" not in text, "its models did not come from the cache"
    assert not re.search(r"<[\w. ]+ (object )?at 0x", text), "it changes from run to run"
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
def test_metrics_in_prose_are_those_of_the_saved_models(path):
    """A number before `<!-- dataset/model metric -->` is that model's held-out metric."""
    check_cited_metrics(prose(read_notebook(path)))


def test_metrics_in_the_readme_are_those_of_the_saved_models():
    text = (ROOT / "README.md").read_text()
    assert check_cited_metrics(text) > 5


def check_cited_metrics(text):
    """Compare numbers that name a model, or a row and a column of a seeds record, with the file.

    0.0911<!-- mnist/01_simple bce -->
    0.0921 ± 0.0011<!-- mnist/01_simple seeds network, BCE -->
    """
    text = " ".join(text.split())
    cited = re.findall(r"([\d,]*\.?\d+)\**<!-- (\w+)/([\w-]+) (\w+) -->", text)
    for number, dataset, name, metric in cited:
        facts = modelfile.read(ROOT / "saved_models" / dataset / f"{name}.h5").facts
        value = facts.get(metric, facts["held_out"].get(metric))
        decimals = len(number.partition(".")[2])
        assert f"{value:.{decimals}f}" == number, f"{name}'s {metric} is {value}, not {number}"
    measured = re.findall(
        r"(\d[\d.]*) ± (\d[\d.]*)\**<!-- (\w+)/([\w-]+) seeds ((?:(?!-->).)+), ([^,]+?) -->", text
    )
    for mean, deviation, dataset, key, row, column in measured:
        records = seeds.read(ROOT / "saved_models" / dataset / f"{key}.seeds.json")
        values = [record["rows"][row][column] for record in records.values()]
        decimals = len(mean.partition(".")[2])
        found = [f"{v:.{decimals}f}" for v in (np.mean(values), np.std(values, ddof=1))]
        assert found == [mean, deviation], f"{key}, {row}, {column}: {' ± '.join(found)}"
    sources = re.findall(r"<!--(.*?)-->", text)
    kinds = r"measured|published|bound|\w+/[\w-]+ \w+|\w+/[\w-]+ seeds .+, .+"
    unknown = [source for source in sources if not re.fullmatch(f" (?:{kinds}) ", source)]
    assert not unknown, "a source that nothing checks"
    assert len(cited) + len(measured) == sum("/" in source for source in sources)
    return len(cited) + len(measured)


@pytest.mark.parametrize(
    "text",
    [
        "0.0910<!-- mnist/01_simple bce -->",
        "0.0911<!-- mnist/01_simple mse -->",
        "0.0911<!-- guessed -->",
        "about<!-- mnist/01_simple bce -->",
    ],
)
def test_a_wrong_citation_is_noticed(text):
    facts = modelfile.read(ROOT / "saved_models" / "mnist" / "01_simple.h5").facts
    assert check_cited_metrics(f"{facts['held_out']['bce']:.4f}<!-- mnist/01_simple bce -->") == 1
    text = text.replace("0.0911", f"{facts['held_out']['bce']:.4f}")
    text = text.replace("0.0910", f"{facts['held_out']['bce'] + 1e-4:.4f}")
    with pytest.raises(AssertionError):
        check_cited_metrics(text)


@every_notebook
def test_every_number_in_prose_has_a_source(path):
    """Numbers of three decimals and more stand in an output, or say where they are from."""
    notebook = read_notebook(path)
    outputs = stored_text(notebook)
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        text = re.sub(
            r"(?:[\d.]+ ± )?[\d.]+\**<!--.*?-->|`[^`]*`|\$[^$]*\$|= 0\.\d+|\]\([^)]*\)",
            "",
            cell.source,
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
    assert path.stem == START, "no cell has the tag `picture`"


@every_notebook
def test_models_are_shipped_for_every_dataset(path):
    notebook = read_notebook(path)
    code = "".join(c.source for c in code_cells(notebook))
    code = re.sub(r"over_seeds\([^,]+,", "", code)  # the name of a table, and of no model
    names = set(re.findall(r'"(\d\d[a-z]?_[a-z_]+(?:-[\w-]+)?)"', code))
    names.discard(START)  # it trains a model of its own, to show how
    beginnings = set(re.findall(r'f"(\d\d[a-z]?_[a-z_]+-[\w-]*){', code))
    assert names or beginnings or path.stem == START or not trains(notebook)
    # a model whose name ends with another dataset's, as that of 07's neuron, is shipped there alone
    own = {name: ROOT / "saved_models" / name.rpartition("-")[2] for name in names}
    names -= {name for name, folder in own.items() if (folder / f"{name}.h5").is_file()}
    assert datasets_of(notebook)
    for dataset in datasets_of(notebook):
        shipped = {p.stem for p in (ROOT / "saved_models" / dataset).glob("*.h5")}
        assert names <= shipped
    anywhere = {p.stem for p in (ROOT / "saved_models").glob("*/*.h5")}
    for beginning in beginnings:
        assert any(name.startswith(beginning) for name in anywhere)


def test_saved_models_belong_to_notebooks_and_are_light():
    stems = {path.stem for path in NOTEBOOKS}
    models = sorted((ROOT / "saved_models").glob("*/*.h5"))
    tracked = [p for p in models if not modelfile.EXPERIMENT.search(p.name)]
    for path in [*tracked, *(ROOT / "saved_models").glob("*/*.seeds.json")]:
        stem = path.name.partition(".")[0].partition("-")[0]
        assert stem in stems, f"{path.name} belongs to no notebook"
        assert path.stat().st_size <= 12e6, f"{path.name} is too large"
    assert sum(path.stat().st_size for path in tracked) <= 100e6


def test_records_of_seeds_are_whole_and_of_five_seeds():
    for path in (ROOT / "saved_models").glob("*/*.seeds.json"):
        assert list(seeds.read(path)) == list("01234"), f"{path.name}: make seeds"


def test_what_is_made_here_is_ignored():
    """A link named .venv, too, which a pattern with a slash at its end would miss."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert {".venv", "build"} <= set(lines)


# What is taught once and used again


def named(node):
    return node.name if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None


def test_taught_blocks_are_word_for_word_those_of_their_pages():
    blocks = {named(node): node for node in ast.parse(inspect.getsource(taught)).body}
    blocks.pop(None)
    assert blocks.keys() == taught.TAUGHT.keys()
    for name, stem in taught.TAUGHT.items():
        code = [cell.source for cell in code_cells(read_notebook(ROOT / f"notebooks/{stem}.ipynb"))]
        trees = [ast.parse(re.sub("^[%!].*$", "", source, flags=re.M)) for source in code]
        found = [node for tree in trees for node in tree.body if named(node) == name]
        assert [ast.dump(node) for node in found] == [ast.dump(blocks[name])], f"{name} of {stem}"


@every_notebook
def test_a_page_doesnt_import_what_it_teaches(path):
    taught_here = {name for name, stem in taught.TAUGHT.items() if stem == path.stem}
    code = "\n".join(
        re.sub("^[%!].*$", "", c.source, flags=re.M) for c in code_cells(read_notebook(path))
    )
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "ae_keras.taught":
            assert not taught_here & {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("taught."):
            assert node.attr not in taught_here


# Stored outputs against the code: notebooks/conftest.py has nbval call this


def written(text):
    return [{"output_type": "stream", "name": "stdout", "text": text}]


def table(text):
    return [{"output_type": "execute_result", "data": {"text/markdown": text, "text/plain": "…"}}]


FIGURE = [{"output_type": "execute_result", "data": {"image/png": "…", "text/plain": "<Figure>"}}]


@pytest.mark.parametrize(
    ("stored", "executed"),
    [
        (written("BCE 0.0911"), written("BCE 0.0911")),
        (written("BCE 0.0911"), written("BCE 0.0912")),  # another machine
        (written("12,345 numbers"), written("12,346 numbers")),
        (written("a\nb"), [*written("a\n"), *written("b")]),
        (written("done"), written("model: 10%\rmodel: 90%\rdone")),
        (written("a (b): trained in 2 s; 3 epochs"), written("a (b): trained in 9 s; 3 epochs")),
        (table("| 0.0168 |"), table("| 0.0168 |")),
        (FIGURE, FIGURE),
        ([], [{"output_type": "stream", "name": "stderr", "text": "a warning"}]),
        ([], [{"output_type": "display_data", "data": {outputs.WIDGET: {}, "text/plain": "…"}}]),
    ],
)
def test_outputs_that_agree(stored, executed):
    assert outputs.difference(stored, executed) == ""


@pytest.mark.parametrize(
    ("stored", "executed"),
    [
        (written("BCE 0.0911"), written("BCE 0.0925")),
        (written("BCE 0.0911"), written("MSE 0.0911")),
        (written("14 active"), written("20 active")),
        (written("01_simple"), written("02_simple")),
        (written("a\nb"), written("a")),
        (written("-1.5"), written("1.5")),
        (written("a 1"), []),
        ([], written("a")),
        (table("| Hoyer | 0.62 |"), table("| Hoyer | 0.41 |")),
        (FIGURE, [*FIGURE, *FIGURE]),
        (FIGURE, []),
    ],
)
def test_outputs_that_disagree(stored, executed):
    assert outputs.difference(stored, executed)


def test_nbval_compares_stored_outputs_with_the_code(tmp_path):
    """One page as it should be, one with another formula, one that ran on other data."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "conftest.py", tmp_path / "notebooks")
    good = [("print('Dataset: mnist')", "Dataset: mnist\n"), ("print(2 + 0.5)", "2.5\n")]
    other = [("print('Dataset: digits')", "Dataset: mnist\n"), ("print(2 * 0.5)", "2.5\n")]
    pages = {"good": good, "changed": [good[0], ("print(2 * 0.5)", "2.5\n")], "other": other}
    for name, cells in pages.items():
        page = nbformat.v4.new_notebook()
        for source, text in cells:
            stored = nbformat.v4.new_output("stream", name="stdout", text=text)
            cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=[stored])
            page.cells.append(cell)
        nbformat.write(page, tmp_path / "notebooks" / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax"]
    done = subprocess.run(
        [*command, "--nbval-current-env", "--color=no", "notebooks"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert re.findall(r"^FAILED (\S+)::Cell (\d)", done.stdout, re.M) == [
        ("notebooks/changed.ipynb", "1")
    ]
    assert "stored: 2.5\nthe code gives: 1.0" in done.stdout
    assert "other.ipynb: ran on digits, its outputs are stored with mnist" in done.stdout


# The address and the set-up cell


def test_the_address_is_the_same_everywhere():
    name = address().removeprefix("https://github.com/")
    texts = {path.name: path.read_text() for path in (*NOTEBOOKS, ROOT / "README.md")}
    for file, text in texts.items():
        found = set(re.findall(r"github(?:\.com)?/([\w.-]+/ae_keras)\b", text))
        assert found == {name}, f"{file} names {found}; run: make links REPO={name}"
    for path in NOTEBOOKS:
        first = read_notebook(path).cells[0].source
        assert f"github/{name}/blob/main/notebooks/{path.name})" in first


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
    (tmp_path / "empty").mkdir()
    cloned = tmp_path / "empty" / "ae_keras"
    found = "\nprint(root.resolve())"
    helpers = "\nfrom ae_keras import cache\nprint(pathlib.Path(cache.__file__).parent.parent)"
    for folder, last_line, root in (
        (ROOT, found, ROOT),
        (ROOT / "notebooks", found, ROOT),
        (tmp_path / "empty", helpers, cloned),
        (tmp_path / "empty", found, cloned),
    ):
        done = subprocess.run(
            [sys.executable, "-c", source + last_line], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(root)
        assert done.stderr == "", "TensorFlow's start-up log would open the notebook"
