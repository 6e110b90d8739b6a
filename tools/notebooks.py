"""Execute the notebooks: into a site, into themselves, to train again, or under other seeds.

python tools/notebooks.py site                   execute from cache, write build/site
python tools/notebooks.py refresh [NB ...]       renew the committed outputs and pictures
python tools/notebooks.py retrain [NB ...]       train the saved models again
python tools/notebooks.py seeds [--again] [NB ...]  measure tables under the seeds 0 to 4
python tools/notebooks.py results                print what the saved models reach
python tools/notebooks.py links OWNER/NAME       set the repository's address everywhere
"""

import argparse
import base64
import copy
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import nbformat
import PIL.Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT)]

import runner  # noqa: E402
import webpages  # noqa: E402

NOTEBOOKS, MODELS, SITE = runner.NOTEBOOKS, runner.MODELS, ROOT / "build" / "site"
PICTURES = ROOT / "docs" / "pictures"
SEED_MODELS = ROOT / "build" / "seeds"  # kept, so that a changed formula doesn't train again
SEED_LINE = re.compile(r"^seed = 0$", re.M)  # in a page's imports cell
WIDGET = "application/vnd.jupyter.widget-view+json"  # dead without its kernel
FULL = {"AE_KERAS_EPOCHS": "", "AE_KERAS_CACHE": ""}  # what a training for keeps needs
UNITS = {  # held-out metric → how a table shows it
    "bce": "BCE {:.4f}",
    "mse": "MSE {:.4f}",
    "psnr": "PSNR {:.2f} dB",
    "exact_match": "exact {:.4f}",
    "loss": "loss {:.4f}",
}


def paths(names=()):
    """List the notebooks, all or those named by their stems."""
    found = sorted(NOTEBOOKS.glob("*.ipynb"))
    unknown = set(names) - {path.stem for path in found}
    if unknown:
        stems = ", ".join(path.stem for path in found)
        sys.exit(f"no notebook named {', '.join(sorted(unknown))}; there are: {stems}")
    return [path for path in found if not names or path.stem in names]


def normalise(notebook):
    """Keep what a reader sees, and nothing that changes from run to run."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"file_extension": ".py", "name": "python"},
        }
    )
    count = 0
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {}
            if png := output.get("data", {}).get("image/png"):
                output.data["image/png"] = base64.b64encode(lighter(base64.b64decode(png))).decode()
    return notebook


def lighter(png):
    """Return a picture with at most 256 colours, which takes about half of the bytes."""
    image = PIL.Image.open(io.BytesIO(png))
    if image.mode == "P":
        return png
    buffer = io.BytesIO()
    colours = image.convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE)
    colours.save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)


def pictures(notebook):
    """List the stored figures as PNG bytes; that of the cell tagged `picture` comes first."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                first = "picture" in cell.metadata.get("tags", [])
                found.insert(0 if first else len(found), base64.b64decode(png))
    return found


def title(notebook):
    return notebook.cells[0].source.partition("\n")[0].lstrip("# ")


def refresh(names):
    """Execute from cache, digits being MNIST's, and write what changed: outputs and pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    cache = {"AE_KERAS_DATASET": "mnist", "AE_KERAS_CACHE": "require"}
    executed = runner.run_all(paths(names), **cache)
    for path, result in executed.items():
        if result.error:
            continue
        text = nbformat.writes(normalise(result.notebook)) + "\n"
        changed = text != path.read_text()
        if changed:
            path.write_text(text)
        for png in pictures(result.notebook)[:1]:
            (PICTURES / f"{path.stem}.png").write_bytes(png)
        print(f"{path.stem}: {'renewed' if changed else 'unchanged'}")
    runner.exit_if_failed(executed)


def retrain(names):
    """Train the models of notebooks anew; an old one stays until its successor is there."""
    executed = {}
    for path in paths(names):
        (ROOT / "build").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
            models = pathlib.Path(folder) / "saved_models"
            shutil.copytree(MODELS, models)
            for old in models_of(path.stem, models):
                old.unlink()
            try:
                executed |= runner.run_all([path], 1, AE_KERAS_MODELS=str(models), **FULL)
            finally:  # a later cell may fail: what was trained until then is good
                for new in models_of(path.stem, models):
                    (MODELS / new.parent.name).mkdir(parents=True, exist_ok=True)
                    os.replace(new, MODELS / new.relative_to(models))
                    print("trained", (MODELS / new.relative_to(models)).relative_to(ROOT))
                renew_sums()
    runner.exit_if_failed(executed)


def renew_sums():
    from ae_keras import __main__ as shell

    shell.main(["sums"])


def measure_seeds(names, again):
    """Measure the tables that `seeds.over_seeds` shows under the seeds 0 to 4, and keep them.

    Seed 0 runs from the shipped models. The others train models of their own in build/seeds, once.
    What is recorded for the same settings, and gives the same table under seed 0, is not repeated.
    """
    from ae_keras import seeds

    measured = [path for path in paths(names) if "over_seeds(" in path.read_text()]
    if missing := set(names) - {path.stem for path in measured}:
        sys.exit(f"no over_seeds( in {', '.join(sorted(missing))}")
    failed, count = {}, len(seeds.SEEDS)
    for path in measured:
        first, unchanged = [], False
        for seed in seeds.SEEDS:
            progress = f"{path.stem}: seed {seed}, {seed + 1} of {count}"
            if unchanged and all(is_done(record, seed) for record in first):
                print(f"{progress}, is recorded", flush=True)
                continue
            print(progress, flush=True)
            records, result = run_under_seed(path, seed)
            if result.error:
                failed[path] = result
                break
            if seed == 0:
                first, unchanged = records, not again and all(map(is_unchanged, records))
            for record in records:
                if seed == 0 and not unchanged:  # a stop must leave no seeds of another formula
                    seeds.path_of(record["key"], record["dataset"]).unlink(missing_ok=True)
                seeds.add(record["key"], record["dataset"], seed, record)
        renew_sums()
    runner.exit_if_failed(failed)


def is_done(record, seed):
    """Tell whether a seed is recorded for the settings of seed 0's record."""
    from ae_keras import seeds

    return seeds.is_done(record["key"], record["dataset"], seed, record["fingerprints"])


def is_unchanged(record):
    """Tell whether a table under seed 0 is as it was recorded."""
    from ae_keras import seeds

    try:
        old = seeds.read(seeds.path_of(record["key"], record["dataset"]))["0"]
    except (FileNotFoundError, KeyError):
        return False
    return alike(old["rows"], record["rows"])


def alike(old, new):
    """Compare two tables, floats to what differs between machines."""
    if isinstance(old, dict) and isinstance(new, dict):
        return list(old) == list(new) and all(alike(old[key], new[key]) for key in old)
    if isinstance(old, float) and isinstance(new, float):
        return abs(old - new) <= 1e-4 * abs(old) + 1e-9
    return old == new


def run_under_seed(path, seed):
    """Execute a page down to its last seeds table, and return what its tables recorded."""
    models = SEED_MODELS / str(seed) / "saved_models"
    environment = FULL | {"AE_KERAS_MODELS": str(models)}
    if seed == 0:
        environment = FULL | {"AE_KERAS_CACHE": "require"}
    with tempfile.TemporaryDirectory() as folder:
        lines = pathlib.Path(folder) / "records"
        page = {path: with_seed(nbformat.read(path, as_version=4), seed)}
        environment["AE_KERAS_RECORD"] = str(lines)
        result = runner.run_all([path], 1, page, **environment)[path]
        text = lines.read_text() if lines.is_file() else ""
    # a page that was tried twice, or a cell that calls twice, records a key again: the last counts
    records = {r["key"]: r for r in map(json.loads, text.splitlines())}
    return list(records.values()), result


def with_seed(notebook, seed):
    """Return what a notebook executes for its seeds tables, with another seed."""
    notebook = copy.deepcopy(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = max(n for n, cell in enumerate(code) if "over_seeds(" in cell.source)
    code = [c for c in code[: last + 1] if "once" not in c.metadata.get("tags", [])]
    places = [cell for cell in code if SEED_LINE.search(cell.source)]
    if len(places) != 1:
        sys.exit(f"{len(places)} cells with a line `seed = 0`; there must be one, of the imports")
    places[0].source = SEED_LINE.sub(f"seed = {seed}", places[0].source)
    return nbformat.v4.new_notebook(cells=code, metadata=notebook.metadata)


def models_of(stem, folder=MODELS):
    """List the saved models that a notebook made: `<stem>.h5` and `<stem>-<variant>.h5`."""
    return sorted(path for path in folder.glob("*/*.h5") if re.match(rf"{stem}[.-]", path.name))


def results():
    """Return what each saved model reaches, as tables of at most 100 columns, one a dataset."""
    from ae_keras import cache, plots

    tables = []
    for folder in sorted(path for path in MODELS.iterdir() if path.is_dir()):
        rows = {
            name: {
                "parameters": f"{facts['parameters']:,}",
                "code": facts["code_size"],
                "held-out metrics": metrics(facts),
                "trained (s)": f"{facts['seconds']:.0f}",
            }
            for name, facts in cache.results(folder.name).items()
        }
        tables.append(f"Models on {folder.name}\n{plots.table(rows)}")
    return "\n\n".join(tables)


def metrics(facts):
    """Name a model's held-out metrics with their units."""
    held_out = facts["held_out"]
    if "kl_loss" in held_out:
        return f"−ELBO {held_out['loss']:.1f} nats"
    known = {key: text.format(held_out[key]) for key, text in UNITS.items() if key in held_out}
    if len(known) > 1:  # the loss says it again
        known.pop("loss", None)
    return ", ".join(list(known.values())[:2])


def overview(executed):
    """Return a table of one row a page: dataset, main model's held-out metrics, seconds."""
    from ae_keras import cache, plots

    rows = {}
    for path, result in executed.items():
        dataset = dataset_of(result.notebook) if result.notebook else ""
        facts = cache.results(dataset).get(path.stem) if dataset else None
        rows[path.stem] = {
            "dataset": dataset,
            "held-out": metrics(facts) if facts else result.error[:40] or "–",
            "seconds": f"{result.seconds:.0f}",
        }
    return plots.table(rows)


def dataset_of(notebook):
    """Name the dataset that a page ran on: that of `load_digits`, or its own."""
    text = "".join(
        str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    found = re.search(r"^Dataset: (\w+)|^[\w-]+ \((\w+)\): (?:loaded|trained)", text, re.M)
    return (found[1] or found[2]) if found else ""


def site():
    """Execute every notebook from cache, and write pages with an index."""
    from ae_keras import cache

    SITE.mkdir(parents=True, exist_ok=True)
    executed = runner.run_all(paths())
    shown = {path.stem: r.notebook for path, r in executed.items() if r.notebook}
    titles = [(stem, title(notebook)) for stem, notebook in shown.items()]
    cards, datasets = [], set()
    for n, (stem, name) in enumerate(titles):
        notebook = normalise(shown[stem])
        dataset = dataset_of(notebook)
        datasets.add(dataset)
        facts = cache.results(dataset).get(stem)
        line = f"{metrics(facts)} ({dataset})" if facts else ""
        cards.append(webpages.card(stem, name, (pictures(notebook) or [None])[0], line))
        neighbours = (titles[n - 1] if n else None), (titles[n + 1 : n + 2] or [None])[0]
        page = webpages.page(notebook, name, *neighbours)
        (SITE / f"{stem}.html").write_text(page, encoding="utf-8")
    index = webpages.index(cards, "digits" if "digits" in datasets else "mnist")
    (SITE / "index.html").write_text(index, encoding="utf-8")
    print(f"\n{overview(executed)}\n\nThe pages are in {(SITE / 'index.html').relative_to(ROOT)}")
    runner.exit_if_failed(executed)


def links(repository):
    """Set the repository's address in pyproject.toml, the notebooks and the README."""
    if not repository:
        remote = subprocess.run(
            ["git", "-C", ROOT, "remote", "get-url", "origin"], capture_output=True, text=True
        )
        match = re.search(r"[:/]([\w.-]+/[\w.-]+?)(\.git)?\s*$", remote.stdout)
        if not match:
            sys.exit("no git remote to take the address from; use: make links REPO=owner/name")
        repository = match[1]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        sys.exit(f"REPO={repository}: not of the form owner/name")
    project = ROOT / "pyproject.toml"
    old = re.search(r'^Repository = "https://github.com/(.+)"$', project.read_text(), re.M)[1]
    for path in (project, ROOT / "README.md", *paths()):
        text = path.read_text()
        for prefix in ("https://github.com/", "https://colab.research.google.com/github/"):
            text = re.sub(rf"{re.escape(prefix + old)}\b", prefix + repository, text)
        if text != path.read_text():
            path.write_text(text)
            print(f"{path.relative_to(ROOT)}: {old} → {repository}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = ["site", "refresh", "retrain", "seeds", "results", "links"]
    parser.add_argument("task", choices=tasks)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--again", action="store_true", help="measure recorded seeds again")
    given = parser.parse_args()
    if given.task == "site":
        site()
    elif given.task == "refresh":
        refresh(given.arguments)
    elif given.task == "retrain":
        retrain(given.arguments)
    elif given.task == "seeds":
        measure_seeds(given.arguments, given.again)
    elif given.task == "results":
        print(results())
    else:
        links("".join(given.arguments))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
