"""Prove the saved models, from a shell.

python -m ae_keras verify    prove every file, and list where each comes from
python -m ae_keras sums      write saved_models/SHA256SUMS, as `sha256sum -c` reads it
"""

import hashlib
import itertools
import math
import sys

from . import modelfile, plots, seeds
from .errors import DamagedModelError

SUMS = "SHA256SUMS"


def shipped():
    """List the saved models that belong to the repository: no experiments, no shortened ones."""
    found = sorted(modelfile.models_folder().glob("*/*.h5"))
    return [path for path in found if not modelfile.EXPERIMENT.search(path.name)]


def records():
    """List what `make seeds` keeps beside the saved models."""
    return sorted(modelfile.models_folder().glob("*/*.seeds.json"))


def sums():
    """Return the lines of SHA256SUMS for the files as they are."""
    folder = modelfile.models_folder()
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in shipped() + records()
    )


def problems(path):
    """List what is wrong with a saved model; what it was trained from is not asked."""
    try:
        facts, weights = modelfile.read(path)
    except DamagedModelError as error:
        return [str(error)]
    lengths = {len(values) for values in facts["history"].values()}
    figures = itertools.chain(facts["held_out"].values(), *facts["history"].values())
    checks = {
        "its name is another": facts["name"] == path.stem,
        "its dataset is another": facts["dataset"] == path.parent.name,
        "it has another number of parameters": facts["parameters"] == sum(w.size for w in weights),
        "its history has other lengths than its epochs": len(lengths) <= 1
        and max(lengths, default=0) <= facts["recipe"].get("epochs", 1),
        "a figure is not finite": all(map(math.isfinite, figures)),
    }
    return [f"{modelfile.shown(path)}: {what}" for what, good in checks.items() if not good]


def verify():
    """Print each shipped file's origin, and what is wrong; return the number of problems."""
    rows, found = {}, []
    for path in shipped():
        wrong = problems(path)
        found += wrong
        if not wrong:
            facts = modelfile.read(path).facts
            rows[modelfile.shown(path)] = {
                key: str(facts[key])
                for key in ("parameters", "seed", "seconds", "keras", "tensorflow")
            }
    for path in records():
        try:
            seeds.read(path)
        except DamagedModelError as error:
            found.append(str(error))
    listed = modelfile.models_folder() / SUMS
    if not rows:
        found.append(f"{modelfile.models_folder()}: no saved model is there")
    elif not listed.is_file() or listed.read_text() != sums():
        found.append(f"{listed.name} is missing or out of date; run: python -m ae_keras sums")
    print(plots.table(rows))
    print("\n".join(found) or f"{len(rows)} files, all good")
    return len(found)


def main(arguments):
    if arguments == ["verify"]:
        return min(verify(), 1)
    if arguments == ["sums"]:
        (modelfile.models_folder() / SUMS).write_text(sums())
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
