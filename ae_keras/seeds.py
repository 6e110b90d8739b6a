"""What a table says over several seeds: mean ± standard deviation, kept without the weights.

A training starts from random weights, so that its metrics differ from seed to seed. `make seeds`
runs a page under the seeds 0 to 4 and keeps the rows of its tables here, beside the saved models:
`saved_models/<dataset>/<key>.seeds.json`, with a checksum, and with the fingerprints of the models
that they were measured on.
"""

import hashlib
import json
import os

import keras
import numpy as np

from . import cache, modelfile
from .errors import ArgumentError, DamagedModelError

FORMAT = 1
SEEDS = range(5)


def over_seeds(key, dataset, rows, decimals=4):
    """Set a table's numbers as mean ± standard deviation over the seeds that were recorded.

    The record counts only if it belongs to the models of this process. A number that lies far
    from all recorded ones is shown as it is, with a mark: its formula was changed, or its training
    went another way.

    Args:
        key: name of the record, the page's stem or `<stem>-<variant>`.
        dataset: as `data.load_digits` returns it.
        rows: dict of row label → dict of column → number or text, measured in this run.
        decimals: int, or dict of column → int.

    Returns:
        The same rows as text: `"0.0911 ± 0.0010"` (sample standard deviation), or `"0.0168"`
        where nothing varies, or where no record belongs to these models.

    Raises:
        ArgumentError: `rows` is no table of numbers and texts.
        DamagedModelError: the record is damaged.
    """
    rows = _checked(rows)
    _record_if_asked(key, dataset, rows)
    known = _recorded(key, dataset, rows)
    shown = {label: {} for label in rows}
    for label, row in rows.items():
        for column, value in row.items():
            places = decimals.get(column, 4) if isinstance(decimals, dict) else decimals
            values = [record["rows"][label][column] for record in known]
            shown[label][column] = _cell(value, values, places)
    if len(known) > 1:
        print(f"{key} ({dataset}): mean ± standard deviation over {len(known)} seeds")
    else:
        print(f"{key} ({dataset}): this run alone, no other seeds are recorded for its settings")
    if any(cell.endswith(" !") for row in shown.values() for cell in row.values()):
        print(
            f'"!": far from all recorded seeds; `make seeds NB={key.partition("-")[0]}` renews them'
        )
    return shown


def add(key, dataset, seed, record):
    """Keep what a run under one seed measured; drop what was measured with other settings.

    Args:
        key, dataset: as `over_seeds` takes them.
        seed: int. Seed 0 is that of the shipped models, and tells which settings count.
        record: dict with `rows` and `fingerprints`.
    """
    records = _read_or_empty(key, dataset)
    if seed == 0 and records and not _belongs(records.get("0"), record):
        records = {}
    records[str(seed)] = {
        "rows": _checked(record["rows"]),
        "fingerprints": record["fingerprints"],
        "keras": keras.__version__,
    }
    records = dict(sorted(records.items(), key=lambda item: int(item[0])))
    body = {"format": FORMAT, "key": key, "dataset": dataset, "seeds": records}
    path = path_of(key, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    text = json.dumps(body | {"sha256": _digest(body)}, indent=1, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def read(path):
    """Read and prove a record.

    Args:
        path: of a `.seeds.json`.

    Returns:
        A dict of seed, as text → dict with `rows` and `fingerprints`.

    Raises:
        FileNotFoundError: there is none.
        DamagedModelError: it is cut short or altered.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("sha256") != _digest(body) or body["format"] != FORMAT:
            raise ValueError("its checksum is not that of its numbers")
        if path.name != f"{body['key']}.seeds.json" or path.parent.name != body["dataset"]:
            raise ValueError("it belongs to another name or dataset")
        return body["seeds"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        way_out = "Delete it; `make seeds` measures it again."
        raise DamagedModelError(modelfile.shown(path), error, way_out) from error


def path_of(key, dataset):
    """Return where a record is kept."""
    return modelfile.models_folder() / dataset / f"{key}.seeds.json"


def is_done(key, dataset, seed, fingerprints):
    """Tell whether a seed is recorded, and seed 0 with these fingerprints (name → hash)."""
    records = _read_or_empty(key, dataset)
    return str(seed) in records and _belongs(records.get("0"), {"fingerprints": fingerprints})


def _recorded(key, dataset, rows):
    """List the records that belong to this process's models and have the same rows and columns."""
    records = _read_or_empty(key, dataset)
    live = {"fingerprints": cache.fingerprints()}
    if not any(_belongs(record, live) for record in records.values()):
        return []
    layout = {label: list(row) for label, row in rows.items()}
    return [
        record
        for record in records.values()
        if {label: list(row) for label, row in record["rows"].items()} == layout
    ]


def _belongs(record, live):
    """Tell whether all models of a record are among the live ones, trained the same way."""
    if record is None:
        return False
    pairs = record["fingerprints"].items()
    return all(live["fingerprints"].get(name) == digest for name, digest in pairs)


def _read_or_empty(key, dataset):
    try:
        return read(path_of(key, dataset))
    except FileNotFoundError:
        return {}


def _record_if_asked(key, dataset, rows):
    """Tell `make seeds`, which runs this page, what was measured."""
    if path := os.environ.get("AE_KERAS_RECORD"):
        line = {"key": key, "dataset": dataset, "rows": rows, "fingerprints": cache.fingerprints()}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _checked(rows):
    """Return the rows with plain numbers and texts in them, as JSON can write them."""
    checked = {}
    for label, row in rows.items():
        checked[label] = {}
        for column, value in row.items():
            if not isinstance(value, str):
                try:
                    value = value.item() if hasattr(value, "item") else value + 0
                except (TypeError, ValueError) as error:
                    raise ArgumentError(
                        f"{label}, {column}", f"{value!r} is no number", "Give numbers and texts."
                    ) from error
            checked[label][column] = value
    return checked


def _cell(value, values, places):
    """Set one cell: mean ± deviation, or this run's value where that is all there is."""
    if isinstance(value, str):
        return value
    alone = str(value) if isinstance(value, int) else f"{value:.{places}f}"
    if len(values) < 2:
        return alone
    low, high = min(values), max(values)
    margin = max(high - low, 1e-3 * abs(high), 1e-9)
    if not low - margin <= value <= high + margin:
        return f"{alone} !"
    if np.isclose(low, high, rtol=1e-3, atol=1e-12) and high - low < 10.0**-places:
        return alone
    if isinstance(value, int):
        places = 1
    return f"{np.mean(values):.{places}f} ± {np.std(values, ddof=1):.{places}f}"


def _digest(body):
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
