"""Execute the notebooks: into a site, into themselves, or to train their models again.

python tools/notebooks.py site                execute from cache, write build/site
python tools/notebooks.py refresh [NB ...]    renew the committed outputs and pictures
python tools/notebooks.py retrain [NB ...]    train the saved models again
python tools/notebooks.py results             print what the saved models reach
python tools/notebooks.py links OWNER/NAME    set the repository's address everywhere
"""

import argparse
import base64
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import nbclient
import nbconvert
import nbformat
import tqdm

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS, MODELS, SITE = ROOT / "notebooks", ROOT / "saved_models", ROOT / "build" / "site"
PICTURES = ROOT / "docs" / "pictures"
CELL_TIMEOUT = 3600  # seconds
WIDGET = "application/vnd.jupyter.widget-view+json"  # dead without its kernel


class Runner(nbclient.NotebookClient):
    """Executes a notebook and shows how far it is, training included."""

    def __init__(self, path, **environment):
        self.path, self.environment = path, environment
        super().__init__(
            nbformat.read(path, as_version=4),
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            coalesce_streams=True,  # how often a kernel flushes changes from run to run
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )

    def run(self):
        code = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        with tqdm.tqdm(total=len(code), desc=self.path.stem, unit="cell") as self.bar:
            self.on_cell_executed = lambda cell, cell_index, execute_reply: self.bar.update()
            self.execute(env={**os.environ, **self.environment})
        return self.nb

    def process_message(self, message, cell, cell_index):
        if message["msg_type"] == "stream":  # a training's own bar, among others
            last = message["content"]["text"].replace("\r", "\n").rstrip().rpartition("\n")[2]
            self.bar.set_postfix_str(last.strip()[:70])
        return super().process_message(message, cell, cell_index)


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
            "language_info": {"name": "python"},
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
    return notebook


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
    for path in paths(names):
        before = path.read_text()
        notebook = Runner(path, AE_KERAS_DATASET="mnist", AE_KERAS_CACHE="require").run()
        text = nbformat.writes(normalise(notebook)) + "\n"
        if text != before:
            path.write_text(text)
        for png in pictures(notebook)[:1]:
            (PICTURES / f"{path.stem}.png").write_bytes(png)
        print(f"{path.stem}: {'renewed' if text != before else 'unchanged'}")


def retrain(names):
    """Train the models of notebooks anew; an old one stays until its successor is there."""
    for path in paths(names):
        (ROOT / "build").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
            models = pathlib.Path(folder) / "saved_models"
            shutil.copytree(MODELS, models)
            for old in models_of(path.stem, models):
                old.unlink()
            full = {"AE_KERAS_EPOCHS": "", "AE_KERAS_CACHE": ""}
            try:
                Runner(path, AE_KERAS_MODELS=str(models), **full).run()
            finally:  # a later cell may fail: what was trained until then is good
                for new in models_of(path.stem, models):
                    os.replace(new, MODELS / new.relative_to(models))
                    print("trained", (MODELS / new.relative_to(models)).relative_to(ROOT))
                subprocess.run([sys.executable, "-m", "ae_keras", "sums"], cwd=ROOT, check=True)


def models_of(stem, folder=MODELS):
    """List the saved models that a notebook made: `<stem>.h5` and `<stem>-<variant>.h5`."""
    return sorted(path for path in folder.glob("*/*.h5") if re.match(rf"{stem}[.-]", path.name))


def results():
    """Return what each saved model reaches, as rows of a table."""
    from ae_keras import modelfile, plots

    rows = {}
    for path in sorted(MODELS.glob("*/*.h5")):
        facts = modelfile.read(path).facts
        rows[f"{facts['name']} ({facts['dataset']})"] = {
            "parameters": f"{facts['parameters']:,}",
            "code size": facts["code_size"],
            "held-out figures": figures(facts),
            "trained in (s)": facts["seconds"],
            "file": path.relative_to(ROOT).as_posix(),
        }
    return plots.table(rows)


def figures(facts):
    return ", ".join(f"{key} {value:.4f}" for key, value in facts["held_out"].items())


def site():
    """Execute every notebook from cache, and write pages with an index."""
    SITE.mkdir(parents=True, exist_ok=True)
    cards = []
    for path in paths():
        notebook = normalise(Runner(path).run())
        exporter = nbconvert.HTMLExporter(template_name="lab")
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title(notebook)}})
        (SITE / f"{path.stem}.html").write_text(page, encoding="utf-8")
        cards.append(card(path.stem, notebook))
    style = (pathlib.Path(__file__).parent / "site.css").read_text()
    index = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Autoencoders in Keras</title><style>{style}</style>
<h1>Autoencoders in Keras</h1>
<p>Every number on these pages was measured on data that the networks had not seen.</p>
<main>{"".join(cards)}</main></html>
"""
    (SITE / "index.html").write_text(index, encoding="utf-8")
    print(f"\n{results()}\n\nThe pages are in {(SITE / 'index.html').relative_to(ROOT)}")


def card(stem, notebook):
    """Return a notebook's card for the index: title, first picture, headline numbers."""
    from ae_keras import modelfile

    used = "".join(
        str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    dataset = re.search(r"^Dataset: (\w+)", used, re.M)[1]
    lines = []
    for path in models_of(stem):
        facts = modelfile.read(path).facts
        if facts["dataset"] == dataset:
            lines.append(f"<li><b>{facts['name']}</b>: {html.escape(figures(facts))}</li>")
    image = ""
    if found := pictures(notebook):
        data = base64.b64encode(found[0]).decode()
        image = f'<img alt="" src="data:image/png;base64,{data}">'
    return (
        f'<a href="{stem}.html"><h2>{html.escape(title(notebook))}</h2>{image}'
        f"<ul>{''.join(lines)}</ul></a>"
    )


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
    parser.add_argument("task", choices=["site", "refresh", "retrain", "results", "links"])
    parser.add_argument("arguments", nargs="*")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.task == "site":
        site()
    elif arguments.task == "refresh":
        refresh(arguments.arguments)
    elif arguments.task == "retrain":
        retrain(arguments.arguments)
    elif arguments.task == "results":
        print(results())
    else:
        links("".join(arguments.arguments))


if __name__ == "__main__":
    main()
