"""Train once, then load: `fit_or_load` keeps a trained model as one `.h5` file.

What the file holds and how it is proved stands in `modelfile`; what decides whether it still
belongs to the notebook stands in `fingerprint`.
"""

import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import sys
import tempfile
import time
import warnings
import weakref

import keras
import numpy as np
import tqdm

from . import fingerprint, modelfile
from .errors import (
    ArgumentError,
    CacheError,
    DamagedModelError,
    TrainingDivergedError,
    TrainingRequiredError,
)

_beginnings = weakref.WeakKeyDictionary()  # model or optimizer → the values that it began with
_fingerprints = {}  # name of a model → the fingerprint of its latest training or loading


def fit_or_load(
    model, name, x, y, *, dataset, held_out=None, seed=None, **fit_arguments
) -> keras.callbacks.History:
    """Train a compiled model as `model.fit` does, or load what an earlier run saved.

    The file is `saved_models/<dataset>/<name>.h5`. It is loaded if everything it was trained
    from is unchanged: architecture, loss, optimizer, arguments of fit, and data. Otherwise the
    model is trained from the weights it came with, and saved beside the file under a name of
    its own: a file is replaced only if you delete it, or if it is damaged. The weights that a
    training starts from are not compared. When it ends they are rounded to half precision, which
    halves the file; what is measured on `held_out` is the rounded model.

    Args:
        model: a compiled functional or sequential model; it gets the trained weights.
        name: of the file, without folder and ending, such as `"01_simple"`.
        x, y: NumPy arrays, or lists or dicts of them, with equally many samples.
        dataset: name of the subfolder, as `data.load_digits` returns it.
        held_out: `(x, y)` of the test part, evaluated once, after training. Its metrics are kept
            in the file and in the history, and not printed: what is printed, and what settings
            are chosen by, is validation.
        seed: int, set right before training; None leaves the random state as it is.
        **fit_arguments: epochs, batch_size, validation_split, ... as `model.fit` takes them.

    Returns:
        Keras's training history, the same whether the model was trained or loaded. Its
        `held_out` is a dict of the held-out metrics, empty if none were asked for.

    Raises:
        ArgumentError: an argument can't work; nothing was trained or written.
        TrainingDivergedError: the loss or a weight became NaN or infinite; nothing was saved.
        TrainingRequiredError: `AE_KERAS_CACHE=require` is set, and no file fits.
        DamagedModelError: `AE_KERAS_CACHE=strict` is set, and the file is damaged.

    `AE_KERAS_EPOCHS=n` shortens training, and keeps its result apart from the full one.
    `AE_KERAS_MODELS=folder` takes the place of `saved_models`.
    """
    _check_arguments(model, name, dataset, x, y, held_out, seed)
    if fit_arguments.get("epochs", 1) == 0:
        raise ArgumentError("epochs=0", "nothing would be trained", "Give at least one epoch.")
    mode = _mode()
    limit = _epoch_limit()
    if limit is not None and limit >= fit_arguments.get("epochs", 1):
        limit = None
    if limit is not None:
        fit_arguments["epochs"] = limit
    recipe = fingerprint.recipe(model, x, y, held_out, {"seed": seed, **fit_arguments})
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    _fingerprints[name] = digest
    shipped = modelfile.models_folder() / dataset / f"{name}.h5"
    kind = "edited" if limit is None else f"{limit}-epoch"
    aside = shipped.with_name(f"{name}.{kind}-{digest[:8]}.h5")
    _remember_beginning(model, name)

    target, reason = shipped if limit is None else aside, None
    for path in (shipped, aside) if limit is None else (aside,):
        try:
            saved = modelfile.read(path)
            changes = fingerprint.differences(saved.facts["recipe"], recipe)
            if not changes:
                modelfile.set_weights(model, saved, path)
        except FileNotFoundError:
            reason = reason or f"{modelfile.shown(path)} is not there"
            break
        except DamagedModelError as error:
            if mode == "strict":
                raise
            warnings.warn(str(error), stacklevel=2)
            target, reason = path, f"{error.what} is damaged: {error.cause}"
            break
        if not changes:
            which = "" if path == shipped else f" {path.name}"
            print(f"{name} ({dataset}): loaded{which}; {_summary(saved.facts)}")
            return _as_history(saved.facts)
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        reason = f"{modelfile.shown(path)} was made with other settings: {changes[0]}{more}"
        target = aside

    if mode == "require":
        raise TrainingRequiredError(
            modelfile.shown(shipped),
            f"AE_KERAS_CACHE=require forbids training, but {reason}",
            "Run the notebook without AE_KERAS_CACHE to train the model.",
        )
    print(f"{name} ({dataset}): training, because {reason}")
    savable = _is_writable(target, strict=mode == "strict")
    _restore_beginning(model, name)
    history, seconds = _fit(model, name, x, y, seed, fit_arguments)
    facts = {
        "format": modelfile.FORMAT,
        "name": name,
        "dataset": dataset,
        "recipe": recipe,
        "fingerprint": digest,
        "history": {key: [float(v) for v in values] for key, values in history.history.items()},
        "held_out": _evaluate(model, held_out),
        "parameters": model.count_params(),
        "code_size": _code_size(model),
        "seed": seed,
        "seconds": round(seconds, 1),
        "keras": keras.__version__,
        "tensorflow": importlib.metadata.version("tensorflow"),
    }
    print(f"{name} ({dataset}): trained in {seconds:.0f} s; {_summary(facts)}")
    if savable:
        try:
            modelfile.save(model, target, facts)
            if target != shipped:
                print(f"{name} ({dataset}): kept as {modelfile.shown(target)}")
        except CacheError as error:
            if mode == "strict":
                raise
            warnings.warn(f"{error} Until then the model lives in memory only.", stacklevel=2)
    history.held_out = facts["held_out"]
    return history


def held_out_metrics(name, dataset):
    """Return the held-out metrics of a saved model, to set them beside another's.

    Args:
        name, dataset: as `fit_or_load` takes them.

    Returns:
        A dict of metric → value, as `model.evaluate` names them; empty if there is no such file.

    Raises:
        DamagedModelError: the file is damaged.
    """
    try:
        path = modelfile.models_folder() / dataset / f"{name}.h5"
        return modelfile.read(path).facts["held_out"]
    except FileNotFoundError:
        return {}


def results(dataset):
    """Return what the files of all shipped models on a dataset say, to be set in one table.

    Args:
        dataset: name of the subfolder of saved models.

    Returns:
        A dict of model name → its facts: `parameters`, `code_size`, `held_out`, `seconds`, ...

    Raises:
        DamagedModelError: a file is damaged.
    """
    found = (modelfile.models_folder() / dataset).glob("*.h5")
    shipped = [path for path in found if not modelfile.EXPERIMENT.search(path.name)]
    shipped.sort(key=lambda path: path.stem)  # a page's main model before its variants
    return {path.stem: modelfile.read(path).facts for path in shipped}


def fingerprints():
    """Return the fingerprint of every model trained or loaded in this process, by its name."""
    return dict(_fingerprints)


def _check_arguments(model, name, dataset, x, y, held_out, seed):
    for argument, value in (("name", name), ("dataset", dataset)):
        if not isinstance(value, str) or not re.fullmatch(r"\w[\w-]*", value):
            raise ArgumentError(
                f"{argument}={value!r}",
                "it becomes part of a file's name",
                "Use letters, digits, - and _ only, such as '01_simple'.",
            )
    if not isinstance(model, keras.Model) or not model.built or not model.inputs:
        raise ArgumentError(
            f"model={model!r}",
            "not a functional or sequential model of known input shape",
            "Build it as keras.Model(inputs, outputs), or start it with keras.Input.",
        )
    if not model.compiled:
        raise ArgumentError(
            f"model={model.name}", "it has no loss and no optimizer", "Call model.compile first."
        )
    if seed is not None and not isinstance(seed, int):
        raise ArgumentError(f"seed={seed!r}", "not a whole number", "Use an int, such as 0.")
    if held_out is not None and not (isinstance(held_out, tuple) and len(held_out) == 2):
        raise ArgumentError("held_out", "not a pair", "Give (x, y), such as (x_test, x_test).")
    pairs = {"x and y": (x, y)} | ({"held_out": held_out} if held_out else {})
    for argument, pair in pairs.items():
        _check_pair(model, argument, *pair)


def _check_pair(model, argument, x, y):
    """Refuse what `fit` or `evaluate` would fail on, before any time is spent."""
    for value in (x, y):
        for array in _arrays(value):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
                raise ArgumentError(
                    argument,
                    f"{getattr(array, 'dtype', type(array).__name__)} is no array of numbers",
                    "Give NumPy arrays of float32 or of integers.",
                )
            if not np.isfinite(np.sum(array, dtype=np.float64)):
                raise ArgumentError(argument, "it holds NaN or infinity", "Clean the data first.")
    counts = {len(array) for array in _arrays(x) + _arrays(y)}
    if len(counts) != 1 or counts == {0}:
        raise ArgumentError(
            argument, f"they hold {sorted(counts)} samples", "Give equally many, at least one."
        )
    given = [array.shape[1:] for array in _arrays(x)]
    taken = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if not isinstance(x, dict) and (
        [len(shape) for shape in given] != [len(shape) for shape in taken]
        or any(
            b not in (a, None)
            for s, t in zip(given, taken, strict=True)
            for a, b in zip(s, t, strict=True)
        )
    ):
        raise ArgumentError(
            argument,
            f"samples of shape {given}, but model {model.name} takes {taken}",
            "Reshape the array, or change the model's input.",
        )


def _arrays(value):
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _mode():
    mode = os.environ.get("AE_KERAS_CACHE", "")
    if mode not in ("", "strict", "require"):
        raise ArgumentError(
            f"AE_KERAS_CACHE={mode}", "unknown mode", "Use 'strict' or 'require', or unset it."
        )
    return mode


def _epoch_limit():
    """Return how many epochs the environment allows, or None for as many as asked."""
    text = os.environ.get("AE_KERAS_EPOCHS", "").strip()
    if not text:  # Keras has a limit of its own, $KERAS_MAX_EPOCHS, and keeps quiet about it
        return getattr(keras.config, "max_epochs", lambda: None)()
    if not re.fullmatch("[1-9][0-9]*", text):
        raise ArgumentError(
            f"AE_KERAS_EPOCHS={text}", "not a number of epochs", "Use 1, 2, ... or unset it."
        )
    return int(text)


def _remember_beginning(model, name):
    """Keep the values that a model and its optimizer had when they first came under this name.

    A training cell that runs again, after its file was deleted, has a trained model before it.
    """
    _beginnings.setdefault(model, {}).setdefault(name, model.get_weights())
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    values = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    _beginnings.setdefault(model.optimizer, values)


def _restore_beginning(model, name):
    model.set_weights(_beginnings[model][name])
    beginning = _beginnings[model.optimizer]
    for variable, value in zip(model.optimizer.variables, beginning, strict=True):
        variable.assign(value)


def _is_writable(path, strict):
    """Find out before a long training, not after it, whether its result can be saved."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        problem = CacheError(
            modelfile.shown(folder),
            f"it can't be written ({error.strerror})",
            "Make it writable, or set AE_KERAS_MODELS to another folder.",
        )
        if strict:
            raise problem from error
        warnings.warn(f"{problem} Until then the model lives in memory only.", stacklevel=3)
        return False


def _fit(model, name, x, y, seed, fit_arguments):
    """Train, and return the history and the seconds; raise if the result is not finite."""
    if seed is not None:
        keras.utils.set_random_seed(seed)
    if "verbose" not in fit_arguments:
        callbacks = _arrays(fit_arguments.get("callbacks") or [])
        fit_arguments = fit_arguments | {"verbose": 0, "callbacks": [*callbacks, _Progress(name)]}
    start = time.perf_counter()
    history = model.fit(x, y, **fit_arguments)
    seconds = time.perf_counter() - start
    cause = None
    for key, values in history.history.items():
        if not np.all(np.isfinite(values)):
            cause = f"{key} was not finite in epoch {np.argmin(np.isfinite(values)) + 1}"
    for variable in model.weights:
        if not np.all(np.isfinite(keras.ops.convert_to_numpy(variable))):
            cause = cause or f"{variable.path} holds NaN or infinity"
    if cause:
        raise TrainingDivergedError(
            name,
            f"training diverged: {cause}; nothing was saved",
            "Lower the learning rate, or look for a logarithm of or a division by zero.",
        )
    modelfile.halve(model)
    return history, seconds


class _Progress(keras.callbacks.Callback):
    """A bar with the time left, gone when training ends."""

    def __init__(self, name):
        super().__init__()
        self.name, self.bar = name, None

    def on_train_begin(self, logs=None):
        epochs = self.params["epochs"]
        self.bar = tqdm.tqdm(
            total=epochs,
            desc=self.name,
            unit="epoch",
            file=sys.stdout,
            leave=False,
            dynamic_ncols=True,
        )

    def on_epoch_end(self, epoch, logs=None):
        shown = [key for key in logs if key.startswith("val_") and key.endswith("loss")] or ["loss"]
        self.bar.set_postfix_str(", ".join(f"{k} {logs[k]:.4f}" for k in shown), refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def _evaluate(model, held_out):
    if held_out is None:
        return {}
    values = model.evaluate(*held_out, batch_size=1000, verbose=0, return_dict=True)
    return {key: float(value) for key, value in values.items()}


def _code_size(model):
    """Count the numbers in the smallest tensor between input and output.

    Of a model that joins others, such as encoder and decoder, only what these hand on counts.
    """
    graph = getattr(model, "_functional", model)  # where a Sequential keeps its own
    used = itertools.chain(*graph._nodes_by_depth.values())  # a node for each use of a layer
    nodes = [
        node
        for node in used
        if isinstance(node.operation, keras.layers.Layer) and not node.is_input
    ]
    joined = [node for node in nodes if isinstance(node.operation, keras.Model)]
    ends = {id(tensor) for tensor in graph.outputs}
    sizes = [
        np.prod(tensor.shape[1:], dtype=int)
        for node in joined or nodes
        for tensor in node.output_tensors
        if id(tensor) not in ends and None not in tensor.shape[1:]
    ]
    return int(min(sizes, default=0))


def _summary(facts):
    """Say how long a model trained, and where its validation metrics ended."""
    epochs = len(next(iter(facts["history"].values()), []))
    ends = {
        key.removeprefix("val_"): values[-1]
        for key, values in facts["history"].items()
        if key.startswith("val_")
    }
    if any(np.isclose(ends.get("loss", np.nan), v) for k, v in ends.items() if k != "loss"):
        del ends["loss"]  # another metric says the same under its own name
    metrics = ", ".join(f"{key} {value:.4f}" for key, value in ends.items())
    return f"{epochs} epochs" + (f", validation {metrics}" if metrics else "")


def _as_history(facts):
    history = keras.callbacks.History()
    history.on_train_begin()
    history.history, history.held_out = facts["history"], facts["held_out"]
    history.epoch = list(range(len(next(iter(facts["history"].values()), []))))
    return history
