"""What the data and the saved models do with files: nothing is lost, nothing is left behind."""

import contextlib
import itertools
import time

PART = ".part"  # ending of a file that is still being written


def move_aside(path):
    """Rename a file that can't be used to `<name>.damaged-<n>`, and return the new path."""
    for n in itertools.count(1):
        aside = path.with_name(f"{path.name}.damaged-{n}")
        if not aside.exists():
            path.rename(aside)
            return aside


def sweep(folder):
    """Remove the unfinished files that killed processes left behind more than an hour ago."""
    for part in folder.glob(f"*{PART}"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()
