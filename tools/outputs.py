"""Compare what a cell wrote with what is stored: words exactly, numbers nearly."""

import re

SECONDS = re.compile(r"(?<=: trained in )\d+(?= s; )")
WIDGET = "application/vnd.jupyter.widget-view+json"  # has an id that changes
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")
TOLERANCE = 0.01  # of a number, or one unit of its last digit where that is more: other machines


def difference(stored, executed):
    """Say where two lists of a cell's outputs differ, or return an empty text.

    Streams, texts and tables are compared; of pictures, only how many there are.
    """
    stored, executed = _contents(stored), _contents(executed)
    if [kind for kind, _ in stored] != [kind for kind, _ in executed]:
        return f"stored {_kinds(stored)}, but the code gives {_kinds(executed)}"
    for (_, old), (_, new) in zip(stored, executed, strict=True):
        if found := _text_difference(old, new):
            return found
    return ""


def _contents(outputs):
    """List what a reader sees of a cell: (kind, text), printed text first."""
    printed = "".join(o.get("text", "") for o in outputs if o.get("name") == "stdout")
    printed = re.sub(r"^.*\r(?!\n)", "", printed, flags=re.M).strip()  # a bar that was written over
    contents = [("text", printed)] if printed else []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data or not data:
            continue
        if "image/png" in data or "image/svg+xml" in data:
            contents.append(("picture", ""))
        elif "text/markdown" in data:
            contents.append(("table", data["text/markdown"]))
        else:
            contents.append(("text", data.get("text/plain", "")))
    return contents


def _kinds(contents):
    return " and ".join(kind for kind, _ in contents) or "nothing"


def _text_difference(old, new):
    lines = old.splitlines(), new.splitlines()
    if len(lines[0]) != len(lines[1]):
        return f"stored {len(lines[0])} lines, but the code gives {len(lines[1])}"
    for before, now in zip(*lines, strict=True):
        both = [SECONDS.sub("–", " ".join(line.split())) for line in (before, now)]
        words, numbers = [NUMBER.sub("#", line) for line in both], [*map(NUMBER.findall, both)]
        if words[0] != words[1] or not all(map(_close, *numbers)):
            return f"stored: {before.strip()}\nthe code gives: {now.strip()}"
    return ""


def _close(old, new):
    decimals = len(old.partition("e")[0].partition(".")[2])
    a, b = (float(number.replace(",", "")) for number in (old, new))
    return abs(a - b) <= max(TOLERANCE * abs(a), 1.001 * 10**-decimals)
