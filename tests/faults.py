"""What can happen to a saved model's file, and what is said of it.

    python tests/faults.py    writes docs/faults.md from these tables

`tests/test_faults.py` and `tests/test_data_faults.py` prove every row.
"""

import io
import json
import pathlib
import sys

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from ae_keras import modelfile  # isort: skip

FILE = "saved_models/digits/00_test.h5"
DELETE = "Delete this file to retrain."
UNSEALED = "cut short, altered, or not made by ae_keras: no valid checksum at its end"
REFUSED = "not loaded, and the model untouched; then trained, and the file moved aside"


def cut(share):
    return lambda image: image[: int(len(image) * share)]


def overwrite(content):
    return lambda image: content


def zero_block(image):
    middle = len(image) // 2
    while not any(image[middle : middle + 512]):  # it is empty there already
        middle += 512
    return image[:middle] + bytes(512) + image[middle + 512 :]


def edited(change):
    """Alter a file through h5py and give it a valid digest and checksum again."""

    def corrupt(image):
        file = io.BytesIO(image[: -modelfile.SEAL_SIZE])
        with h5py.File(file, "r+") as h5:
            change(h5)
            try:
                weights = modelfile._read_weights(h5, limit=10 * len(image))
            except (ValueError, KeyError):  # the edit is what is to be refused
                weights = []
            h5.attrs[modelfile.DIGEST] = modelfile._digest(h5, weights)
        return modelfile._sealed(file.getvalue())

    return corrupt


def replace_array(make):
    """Put another dataset in the place of the decoder's kernel."""

    def change(h5):
        group = h5["model_weights/decoder"]
        name = group.attrs["weight_names"][0]
        name = name.decode() if isinstance(name, bytes) else name
        old = group[name][()]
        del group[name]
        make(group, name, old)

    return edited(change)


def store(convert, **options):
    return replace_array(
        lambda group, name, old: group.create_dataset(name, data=convert(old), **options)
    )


def soft_link(group, name, old):
    group[name] = h5py.SoftLink("/model_weights")


def external_link(group, name, old):
    group[name] = h5py.ExternalLink("other.h5", "/secret")


def virtual(group, name, old):
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[:] = h5py.VirtualSource("other.h5", "secret", old.shape)
    group.create_virtual_dataset(name, layout)


def external_storage(group, name, old):
    group.create_dataset(name, old.shape, old.dtype, external=[("/etc/passwd", 0, old.nbytes)])


def two_gigabytes(group, name, old):
    group.create_dataset(name, (2**29,), np.float32)  # declared, and never written


def poison(h5):
    """Put code into the model's configuration, which Keras would run on `load_model`."""
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None}}
    layer = {"class_name": "Lambda", "config": {"name": "evil", "function": code}}
    h5.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [layer]})


def set_fact(key, value):
    return edited(lambda h5: h5.attrs.modify(modelfile.PREFIX + key, json.dumps(value)))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 231288\n"
REFUSED_FILES = {  # what happened → how to make it, what is said
    "cut to 0 %": (cut(0), "an empty file"),
    "cut to 1 %": (cut(0.01), UNSEALED),
    "cut to 50 %": (cut(0.5), UNSEALED),
    "cut to 99 %": (cut(0.99), UNSEALED),
    "the last byte missing": (lambda image: image[:-1], UNSEALED),
    "an HTML page in its place": (overwrite(b"<!doctype html>"), "not an HDF5 file"),
    "a Git LFS pointer in its place": (overwrite(POINTER), "not an HDF5 file"),
    "a block of zeros in it": (zero_block, UNSEALED),
    "a `.h5` as Keras writes it": (lambda image: image[: -modelfile.SEAL_SIZE], UNSEALED),
    "weights of float64": (store(np.float64), "dense/kernel is float64, not float32 or float16"),
    "weights of int8": (store(np.int8), "dense/kernel is int8, not float32 or float16"),
    "NaN among the weights": (store(lambda w: w * np.nan), "its weights hold NaN or infinity"),
    "the last layer of another shape": (
        store(lambda w: w[:, :5]),
        "its weights have other shapes than those of model autoencoder",
    ),
    "a layer missing": (
        edited(lambda h5: h5["model_weights"].pop("decoder")),
        "decoder is missing or a link to somewhere else",
    ),
    "a soft link": (replace_array(soft_link), "kernel is missing or a link to somewhere else"),
    "an external link": (
        replace_array(external_link),
        "kernel is missing or a link to somewhere else",
    ),
    "a virtual dataset": (
        replace_array(virtual),
        "dense/kernel does not lie plainly in the file",
    ),
    "storage in another file": (
        replace_array(external_storage),
        "dense/kernel does not lie plainly in the file",
    ),
    "a compressed dataset": (
        store(np.float32, compression="gzip"),
        "dense/kernel does not lie plainly in the file",
    ),
    "13 KB that declare 2 GiB": (
        replace_array(two_gigabytes),
        "dense/kernel claims 2,147,483,648 bytes, more than the file",
    ),
    "a format of the future": (set_fact("format", 2), "its format is 2, but ae_keras here reads 1"),
    "a history that is none": (set_fact("history", 5), "its history is no table"),
}

OTHER = {  # what happened → outcome, message; each is a test of its own
    "one of 300 single bits flipped": ("never loaded", UNSEALED),
    "code in the configuration (Lambda bytecode)": (
        "right weights; no code of a file is ever run",
        "",
    ),
    "an edited layer, loss, optimizer, epoch count, seed or dataset": (
        "trained, and saved beside the file as `00_test.edited-….h5`",
        "`00_test (digits): training, because saved_models/digits/00_test.h5 was made with other "
        "settings: epochs: 2 → 3`",
    ),
    "killed while saving, at any stage": (
        "the old file intact; what was left behind is swept an hour later",
        "",
    ),
    "Ctrl-C while training": ("nothing saved, the old file intact", "KeyboardInterrupt"),
    "training that diverges": (
        "nothing saved, the old file intact",
        "`00_test: training diverged: loss was not finite in epoch 1; nothing was saved. Lower the "
        "learning rate, or look for a logarithm of or a division by zero.`",
    ),
    "Keras fails while saving": (
        "the old file intact, the trained model in memory",
        "`saved_models/digits/00_test.h5: it could not be saved (no luck). Make room, close the "
        "file elsewhere or make the folder writable; then run again.`",
    ),
    "a full disk": (
        "the old file intact, the trained model in memory, no crash",
        "`saved_models/digits/00_test.h5: it could not be saved ([Errno 27] File too large). Make "
        "room, close the file elsewhere or make the folder writable; then run again.`",
    ),
    "a read-only folder": (
        "said before training starts; the trained model in memory",
        "`saved_models/digits: it can't be written (Permission denied). Make it writable, or set "
        "AE_KERAS_MODELS to another folder.`",
    ),
    "two processes train and save the same model": ("always a whole file, of one or the other", ""),
    "a reader holds the file while another saves": (
        "the reader keeps its file, the next one gets the new one",
        "",
    ),
}

ADDRESS = "the address"
CHECK = "Check the connection and the disk."
DOWNLOADS = {  # what the server does → what is said
    "refused": "[Errno 111] Connection refused",
    "not found": "Not Found",
    "broken": "Internal Server Error",
    "silent": "timed out",
    "slow": "not finished after 1 s",
    "cut off": "cut off after 1,000 of SIZE bytes",
    "portal": "not MNIST's file, or damaged (not an npz archive, or cut short)",
    "other data": "not MNIST's file, or damaged (x_train has other values: its SHA-256 differs)",
}
DATA_OTHER = {
    "MNIST can't be had, and wasn't asked for by name": (
        "the embedded digits",
        "`Dataset: digits – 13,500 training and 297 test images (MNIST's download failed: …)`",
    ),
    "a damaged or foreign `mnist.npz` in `$AE_KERAS_DATA` or Keras's cache": (
        "moved aside, never deleted; the next run goes on without it",
        "`….npz: not MNIST's file, or damaged (not an npz archive, or cut short). It is now "
        "mnist.npz.damaged-1: put MNIST's there, or just run again.`",
    ),
    "two processes download at once": ("both get MNIST, and one whole file is kept", ""),
    "a folder that can't be written": (
        "MNIST, kept in memory only",
        "`… can't be written (…): MNIST will not be kept.`",
    ),
    "half a file left by a crash": ("never read; swept an hour later", ""),
}


def document():
    lines = [
        "# What can go wrong with files, and what happens then",
        "",
        "Written by `python tests/faults.py`; every row is proved by `tests/test_faults.py` or",
        "`tests/test_data_faults.py`. A message always says where, why, and the way out.",
        "",
        "## Saved models",
        "",
        "| Fault | Outcome | Message |",
        "|---|---|---|",
    ]
    for fault, (_, cause) in REFUSED_FILES.items():
        lines.append(f"| {fault} | {REFUSED} | `{FILE}: {cause}. {DELETE}` |")
    for fault, (outcome, message) in OTHER.items():
        message = f"`{FILE}: {message}. {DELETE}`" if message == UNSEALED else message
        lines.append(f"| {fault} | {outcome} | {message} |")
    lines += [
        "",
        "## The download of MNIST",
        "",
        "| The server is … | Outcome | Message |",
        "|---|---|---|",
    ]
    for fault, cause in DOWNLOADS.items():
        cause = cause.replace("SIZE", "11,490,434")
        lines.append(
            f"| {fault} | the embedded digits; an error where MNIST was asked for | `{cause}` |"
        )
    lines += ["", "| Fault | Outcome | Message |", "|---|---|---|"]
    for fault, (outcome, message) in DATA_OTHER.items():
        lines.append(f"| {fault} | {outcome} | {message} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = pathlib.Path(__file__).parent.parent / "docs" / "faults.md"
    sys.exit(0 if target.write_text(document(), encoding="utf-8") else 1)
