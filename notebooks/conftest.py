"""Makes nbval compare every cell's text and tables with the stored ones (see tools/outputs.py).

nbval itself compares bit for bit or not at all, which `--nbval-lax` chooses. The stored outputs are
MNIST's: on another dataset, or where a model was trained, nothing is compared, and that is said.
"""

import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

import outputs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    from nbval.plugin import IPyNbCell, NbCellError

    result = yield
    if isinstance(item, IPyNbCell) and item.cell.outputs is not None:
        page = item.parent
        page.not_compared = getattr(page, "not_compared", "") or _reason(item)
        if page.not_compared:
            item.user_properties.append(("not compared", f"{page.name}: {page.not_compared}"))
        elif found := outputs.difference(item.cell.outputs, _shown(item)):
            way_out = "If the code is right: make notebooks NB=" + page.path.stem
            raise NbCellError(item.cell_num, f"{found}\n{way_out}", item.cell.source)
    return result


def _shown(item):
    """Return what a cell wrote, without the value that a closing semicolon holds back elsewhere."""
    quiet = item.cell.source.rstrip().endswith(";")
    return [o for o in item.test_outputs if not (quiet and o.output_type == "execute_result")]


def _reason(item):
    """Say why a page's outputs can't be compared from this cell on, or return an empty text."""
    stored, executed = (
        "".join(output.get("text", "") for output in found)
        for found in (item.cell.outputs, item.test_outputs)
    )
    datasets = [re.findall(r"^Dataset: (\w+)", text, re.M) for text in (stored, executed)]
    if datasets[0] != datasets[1] and all(datasets):
        return f"ran on {datasets[1][0]}, its outputs are stored with {datasets[0][0]}"
    trained = "training, because"
    return "a model was trained" if trained in executed and trained not in stored else ""


def pytest_terminal_summary(terminalreporter):
    properties = [
        value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == "not compared"
    ]
    for line in dict.fromkeys(properties):
        terminalreporter.write_line(f"Outputs not compared: {line}")
