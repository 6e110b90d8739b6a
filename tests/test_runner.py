"""What executes the notebooks never hangs: dead and stalled kernels, sliders, failing pages.

python tests/test_runner.py [runs]    execute a page with sliders, on a busy machine, 100 times
"""

import json
import multiprocessing
import pathlib
import re
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT)]  # also as a script

import runner

import notebooks as tool
from ae_keras import seeds

SLIDERS = """
import ipywidgets
from IPython.display import display

output = ipywidgets.Output()
with output:
    display("in an output widget")
display(output)
ipywidgets.interact(lambda z: display(z), z=(-3.0, 3.0))
image = ipywidgets.Image(value=b"")
slider = ipywidgets.FloatSlider()
slider.observe(lambda change: setattr(image, "value", b"new"), "value")
display(ipywidgets.VBox([slider, image]))
slider.value = 2.0
"""
PROGRAM = """
import pathlib, sys
sys.path.insert(0, {tools!r})
import nbformat, runner
cells = [nbformat.v4.new_code_cell(cell) for cell in {cells}]
path = pathlib.Path("page.ipynb")
runner.run_all([path], notebooks={{path: nbformat.v4.new_notebook(cells=cells)}})
"""


def page(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def run(pages, **settings):
    """Execute pages given as dict of name → notebook, and return the results by name."""
    by_path = {pathlib.Path(f"{name}.ipynb"): notebook for name, notebook in pages.items()}
    found = runner.run_all(list(by_path), notebooks=by_path, **settings)
    return {path.stem: result for path, result in found.items()}


def test_one_bad_page_is_named_and_the_others_go_on(capsys):
    found = run(
        {
            "dead": page("1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
            "stalled": page("import time\nprint('once')\ntime.sleep(600)"),
            "failing": page("1 / 0"),
            "good": page(SLIDERS, "print(6 * 7)"),
        },
        cell_limit=6,
    )
    assert found["dead"].error == "its kernel died in code cell 2"
    assert found["stalled"].error == "its kernel stalled in code cell 1"
    assert found["failing"].error == "code cell 1 failed: ZeroDivisionError: division by zero"
    assert not found["good"].error
    assert found["good"].notebook.cells[1].outputs[0].text == "42\n"
    said = capsys.readouterr().out
    for name in ("dead", "stalled"):
        assert said.count(f"{name}: its kernel") == 2, "it wasn't tried again, or more than once"
        assert "once more" in said and "given up" in said
    with pytest.raises(SystemExit, match="dead: its kernel died in code cell 2"):
        runner.exit_if_failed({pathlib.Path(f"{n}.ipynb"): r for n, r in found.items()})


def test_a_kernel_that_dies_once_is_forgiven(tmp_path):
    once = f"""
import os, pathlib, signal
mark = pathlib.Path({str(tmp_path / "mark")!r})
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert not run({"page": page(once)})["page"].error


def test_training_gets_the_time_that_its_file_says_it_takes(monkeypatch):
    """A cell's limit grows when it announces a training, by what the model's file says."""
    monkeypatch.setattr(runner, "training_limit", lambda name, dataset: len(name + dataset))
    cell = "print('0123456789 (mnist): training, because')\nimport time\ntime.sleep(6)"
    assert not run({"page": page(cell)}, cell_limit=4)["page"].error


def test_training_limit_is_a_multiple_of_what_was_recorded():
    path = sorted((ROOT / "saved_models" / "digits").glob("01_simple.h5"))[0]
    recorded = runner.modelfile_seconds(path)
    assert recorded > 1
    assert runner.training_limit("01_simple", "digits") == runner.SLOWER * recorded
    assert runner.training_limit("00_new", "digits") == runner.TRAINING_LIMIT


def test_no_warning_that_a_reader_cannot_act_on():
    program = PROGRAM.format(tools=str(ROOT / "tools"), cells=["1"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("page: 1 cells in ") and done.stdout.count("\n") == 1


def test_ctrl_c_leaves_no_kernel_behind(tmp_path):
    mark = tmp_path / "pid"
    cell = f"import os, pathlib\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))"
    program = PROGRAM.format(
        tools=str(ROOT / "tools"), cells=[cell, "import time; time.sleep(600)"]
    )
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = heard + program  # a shell starts what runs in its background deaf to Ctrl-C
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    while not (mark.exists() and mark.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert not psutil.pid_exists(int(mark.read_text()))


# Seeds


def seeded(*cells):
    return page("import x", "seed = 0", *cells)


def test_a_seeds_run_takes_the_page_down_to_its_last_table():
    notebook = seeded("a = 1", "drawn = 2", "over_seeds(1)", "b = 2", "over_seeds(2)", "after = 1")
    notebook.cells[3].metadata["tags"] = ["once"]
    sources = [cell.source for cell in tool.with_seed(notebook, 3).cells]
    assert sources == ["import x", "seed = 3", "a = 1", "over_seeds(1)", "b = 2", "over_seeds(2)"]
    assert notebook.cells[1].source == "seed = 0"


@pytest.mark.parametrize("line", ["seed = 1", "my_seed = 0", "seed = 0\nx = 1\nseed = 0"])
def test_a_page_without_one_seed_line_is_refused(line):
    if line.count("seed") == 2:
        notebook = page(line.partition("x")[0], line, "over_seeds()")
    else:
        notebook = page(line, "over_seeds()")
    with pytest.raises(SystemExit, match="seed = 0"):
        tool.with_seed(notebook, 1)


def test_tables_are_alike_up_to_what_machines_differ_by():
    table = {"a": {"MSE": 0.01, "n": 3, "text": "x"}}
    assert tool.alike(table, {"a": {"MSE": 0.0100001, "n": 3, "text": "x"}})
    for other in ({"MSE": 0.011}, {"n": 4}, {"text": "y"}):
        assert not tool.alike(table, {"a": table["a"] | other})
    assert not tool.alike(table, {"b": table["a"]})


RECORDING = """
import json, os
line = {"key": "00_small", "dataset": "digits", "fingerprints": {"00_small": os.environ["RECIPE"]}}
mode, models = os.environ["AE_KERAS_CACHE"], os.environ["AE_KERAS_MODELS"]
line["rows"] = {"network": {"MSE": 0.1 + seed, "with": f"{mode}, {models}"}}
open(os.environ["AE_KERAS_RECORD"], "a").write(json.dumps(line))  # as over_seeds() does
"""


def test_seeds_are_recorded_once_and_continued_after_a_stop(tmp_path, monkeypatch, capsys):
    """Seed 0 from the shipped models, the others from models that are kept in build/seeds."""
    shipped = tmp_path / "saved_models"
    shipped.mkdir()
    for module in (tool, runner):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(tool, "SEED_MODELS", tmp_path / "seeds")
    monkeypatch.setenv("RECIPE", "old")
    nbformat.write(page("seed = 0", RECORDING), tmp_path / "00_small.ipynb")
    nbformat.write(page("seed = 0"), tmp_path / "01_without.ipynb")

    def run_and_list():
        tool.measure_seeds([], again=False)
        run = re.findall(r"^00_small: seed (\d), \d of 5$", capsys.readouterr().out, re.M)
        return "".join(run), seeds.read(shipped / "digits" / "00_small.seeds.json")

    done, kept = run_and_list()
    assert done == "01234"
    assert [kept[n]["rows"]["network"]["MSE"] for n in kept] == [0.1, 1.1, 2.1, 3.1, 4.1]
    folders = [f"require, {shipped}"] + [f", {tmp_path}/seeds/{n}/saved_models" for n in "1234"]
    assert [kept[n]["rows"]["network"]["with"] for n in kept] == folders
    assert run_and_list()[0] == "0"
    path = shipped / "digits" / "00_small.seeds.json"
    body = json.loads(path.read_text())
    del body["seeds"]["3"], body["sha256"]  # as if it had been stopped
    path.write_text(json.dumps(body | {"sha256": seeds._digest(body)}))
    done, kept = run_and_list()
    assert done == "03" and list(kept) == list("01234")
    monkeypatch.setenv("RECIPE", "new")
    assert run_and_list()[0] == "01234"
    with pytest.raises(SystemExit, match="no over_seeds"):
        tool.measure_seeds(["01_without"], again=False)


def busy():
    while True:
        pass


if __name__ == "__main__":
    runs = int((sys.argv[1:] or [100])[0])
    burners = [multiprocessing.Process(target=busy, daemon=True) for _ in range(2)]
    for burner in burners:
        burner.start()
    results = run({f"run{n:03}": page(SLIDERS, "1") for n in range(runs)}, cell_limit=60)
    failed = [result.error for result in results.values() if result.error]
    slowest = max(result.seconds for result in results.values())
    print(f"{runs} runs: {len(failed)} failed {failed}; the slowest took {slowest:.0f} s")
    sys.exit(bool(failed))
