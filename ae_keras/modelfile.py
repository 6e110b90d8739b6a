"""Saved models as files: written whole or not at all, and proved before they are believed.

A file is a whole-model `.h5` as Keras writes it, with root attributes of ours that say what it
was trained from. Only its numbers are ever read, and no code of a file is run.
"""

import hashlib
import json
import logging
import os
import pathlib
import re
import tempfile
from typing import NamedTuple

import h5py
import keras
import numpy as np

from .errors import CacheError, DamagedModelError
from .files import PART, move_aside, sweep

FORMAT = 1
PREFIX = "ae_keras_"  # of the root attributes that are ours
DIGEST = PREFIX + "digest"
EXPERIMENT = re.compile(r"\.(edited|\d+-epoch)-")  # in the names of files that are not shipped
SEAL = b"ae_keras sha256 "  # stands behind the HDF5 data, before their hash
SEAL_SIZE = len(SEAL) + 64


class SavedModel(NamedTuple):
    """What a file holds: `facts`, a dict as `cache.fit_or_load` makes it, and `weights`, arrays."""

    facts: dict
    weights: list


def models_folder():
    """Return the folder of saved models: `$AE_KERAS_MODELS`, or the repository's."""
    if folder := os.environ.get("AE_KERAS_MODELS"):
        return pathlib.Path(folder).expanduser()
    root = pathlib.Path(__file__).resolve().parent.parent
    if not (root / "notebooks").is_dir():  # installed without the repository
        root = pathlib.Path.cwd()
    return root / "saved_models"


def shown(path):
    """Return a path as messages show it: from the folder of saved models on."""
    path, root = pathlib.Path(path), models_folder().parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def read(path):
    """Read and prove a saved model, without running anything of it.

    Args:
        path: of a `.h5` that `save` wrote.

    Returns:
        A `SavedModel`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedModelError: it is truncated, altered, of another origin, or not finite.
    """
    try:
        return _parse(pathlib.Path(path).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{shown(path)} is not there") from error
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DamagedModelError(shown(path), cause, "Delete this file to retrain.") from error


def set_weights(model, saved, path):
    """Give a model the weights of a `SavedModel`: all of them, or none and a DamagedModelError."""
    targets = variables(model)
    if [tuple(v.shape) for v in targets] != [weight.shape for weight in saved.weights]:
        cause = f"its weights have other shapes than those of model {model.name}"
        raise DamagedModelError(shown(path), cause, "Delete this file to retrain.")
    for variable, weight in zip(targets, saved.weights, strict=True):
        variable.assign(weight)


def halve(model):
    """Round a model's weights to half precision, so that their file needs half of the room.

    A weight changes by at most 0.05 %, in either direction. Arrays with values beyond the range
    of float16 (65,504) stay as they are.
    """
    for variable in variables(model):
        weight = keras.ops.convert_to_numpy(variable)
        if np.all(np.abs(weight) <= np.finfo(np.float16).max):
            variable.assign(weight.astype(np.float16).astype(weight.dtype))


def save(model, path, facts):
    """Write a model and its facts as one `.h5`, so that a failure leaves everything as it was.

    Arrays that lose nothing in half precision (see `halve`) are kept in it.

    Args:
        model: a built functional or sequential model.
        path: of the file; its folder is made if need be. A damaged file is moved aside.
        facts: dict that `json` can write; its entries become root attributes.

    Raises:
        CacheError: it can't be written; what stood at `path` still does.
    """
    path = pathlib.Path(path)
    part = None
    try:
        image = _sealed(_as_h5(model, facts))
        for variable, weight in zip(variables(model), _parse(image).weights, strict=True):
            if not np.array_equal(keras.ops.convert_to_numpy(variable), weight):
                raise ValueError(f"Keras wrote other values for {variable.path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f"{path.name}.", suffix=PART, delete=False
        ) as file:
            part = pathlib.Path(file.name)
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        if part.read_bytes() != image:
            raise OSError("the disk gives back other bytes than were written")
        part.chmod(0o644)  # a temporary file is its owner's alone
        try:
            read(path)
        except FileNotFoundError:
            pass
        except DamagedModelError:
            move_aside(path)
        os.replace(part, path)
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        cause = f"it could not be saved ({error})"
        way_out = "Make room, close the file elsewhere or make the folder writable; then run again."
        raise CacheError(shown(path), cause, way_out) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def variables(model):
    """List a model's variables in the order in which Keras writes them to a `.h5`."""
    return [
        v for layer in model.layers for v in layer.trainable_weights + layer.non_trainable_weights
    ]


class _InMemoryFile(h5py.File):
    """An HDF5 file that never touches the disk, and that `model.save` takes for a path.

    On a full disk HDF5 ends the process with a segmentation fault; Python's own writing doesn't.
    """

    def __init__(self, name="model.h5"):  # two open files of one name would be one to HDF5
        super().__init__(name, "w", driver="core", backing_store=False)

    def __str__(self):
        return "model.h5"


def _as_h5(model, facts):
    """Return the bytes of a whole-model `.h5` with our root attributes."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # Keras warns each time that the format is an old one
    try:
        with _InMemoryFile() as whole, _InMemoryFile("copy.h5") as file:
            model.save(whole, include_optimizer=False)
            _copy(whole, file)
            for key, value in facts.items():
                file.attrs[PREFIX + key] = json.dumps(value)
            file.attrs[DIGEST] = _digest(file, _read_weights(file))
            file.flush()
            return file.id.get_file_image()
    finally:
        logger.setLevel(level)


def _copy(source, target):
    """Copy a group of an HDF5 file, float32 arrays as float16 where that loses nothing."""
    for key, value in source.attrs.items():
        target.attrs[key] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy(item, target.create_group(name))
            continue
        array = item[()]
        if array.dtype == np.float32 and np.all(np.abs(array) <= np.finfo(np.float16).max):
            half = array.astype(np.float16)
            array = half if np.array_equal(half.astype(np.float32), array) else array
        target.create_dataset(name, data=array)


def _sealed(image):
    """Append the SHA-256 of a file's bytes, which HDF5 takes no notice of.

    It is checked before HDF5 sees the file, because a few flipped bits can make HDF5 loop for
    ever, or crash, and most of them it doesn't see at all.
    """
    return image + SEAL + hashlib.sha256(image).hexdigest().encode()


def _parse(sealed):
    """Prove a file's bytes and return what they hold; any doubt is an exception."""
    image = sealed[:-SEAL_SIZE]
    if not sealed.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ValueError("not an HDF5 file" if sealed else "an empty file")
    if sealed != _sealed(image):
        raise ValueError(
            "cut short, altered, or not made by ae_keras: no valid checksum at its end"
        )
    with h5py.File(h5py.h5f.open_file_image(image)) as file:
        weights = _read_weights(file, limit=len(image))
        if file.attrs[DIGEST] != _digest(file, weights):
            raise ValueError("altered: its digest is not that of its weights and attributes")
        ours = [key for key in file.attrs if key.startswith(PREFIX) and key != DIGEST]
        facts = {key.removeprefix(PREFIX): json.loads(file.attrs[key]) for key in ours}
    if facts["format"] != FORMAT:
        raise ValueError(f"its format is {facts['format']}, but ae_keras here reads {FORMAT}")
    for key in ("recipe", "history", "held_out"):
        if not isinstance(facts[key], dict):
            raise ValueError(f"its {key} is no table")
    if not all(np.all(np.isfinite(weight)) for weight in weights):
        raise ValueError("its weights hold NaN or infinity")
    return SavedModel(facts, weights)


def _read_weights(file, limit=None):
    """Read the weights in the order in which Keras wrote them.

    Only float32 and float16 arrays that lie plainly in the file are read: nothing behind a link,
    no virtual, external or compressed array, and none that claims more than `limit` bytes.
    """
    weights = []
    root = _child(file, "model_weights")
    for layer_name in _names(root, "layer_names"):
        layer = _child(root, layer_name)
        for weight_name in _names(layer, "weight_names"):
            array = layer
            for part in weight_name.split("/"):
                array = _child(array, part)
            properties = array.id.get_create_plist()
            plain = properties.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
            if not plain or properties.get_external_count():
                raise ValueError(f"{weight_name} does not lie plainly in the file")
            if array.dtype not in (np.float32, np.float16):
                raise ValueError(f"{weight_name} is {array.dtype}, not float32 or float16")
            if limit is not None and array.nbytes > limit:
                raise ValueError(f"{weight_name} claims {array.nbytes:,} bytes, more than the file")
            weights.append(array[()].astype(np.float32))
    return weights


def _child(group, name):
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing or a link to somewhere else")
    return group[name]


def _names(group, attribute):
    return [name.decode() if isinstance(name, bytes) else name for name in group.attrs[attribute]]


def _digest(file, weights):
    """Hash all root attributes but the digest itself, and all weights with their shapes."""
    digest = hashlib.sha256()
    for key in sorted(file.attrs):
        if key != DIGEST:
            digest.update(f"{key}={file.attrs[key]!r}\n".encode())
    for weight in weights:
        digest.update(f"{weight.dtype} {weight.shape}\n".encode() + weight.tobytes())
    return digest.hexdigest()
