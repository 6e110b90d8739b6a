"""What a trained model depends on, as plain JSON: what its author wrote, not Keras's defaults.

Keras adds configuration keys from version to version, and names layers by the order of their
creation. A hash of the raw configuration would make every saved model look stale elsewhere.
"""

import ast
import hashlib
import inspect
import textwrap

import keras
import numpy as np

IGNORED = {"name", "dtype", "build_config", "synchronization", "aggregation"}
PLAIN = (bool, int, float, str, list, tuple, dict, np.ndarray, np.number)
NO_EFFECT = {"verbose"}  # arguments of fit that leave the weights as they are


def recipe(model, x, y, held_out, fit_arguments):
    """Describe a training: architecture, loss, optimizer, arguments of fit, and data.

    Args:
        model: a compiled functional or sequential model.
        x, y: NumPy arrays, or lists or dicts of them.
        held_out: `(x, y)` or None.
        fit_arguments: dict, as `model.fit` takes them.

    Returns:
        A dict that `json` can write. It has no name, version, path or time in it.
    """
    described = {
        "architecture": describe(model),
        "loss": describe(model.loss),
        "optimizer": describe(model.optimizer),
        "metrics": describe(model.get_compile_config().get("metrics")),
        "loss_weights": describe(model.get_compile_config().get("loss_weights")),
        "data": {"x": describe(x), "y": describe(y), "held_out": describe(held_out)},
    }
    for key, value in fit_arguments.items():
        if key not in NO_EFFECT:
            described[key] = describe(value)
    return {key: value for key, value in described.items() if value is not None}


def differences(old, new, where=""):
    """List in words the places where two recipes differ, such as `epochs: 50 → 5`."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{where}.{k}", old.get(k), new.get(k)) for k in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{where}[{n}]", a, b) for n, (a, b) in enumerate(zip(old, new, strict=True))]
    elif old == new:
        return []
    else:
        return [f"{where.lstrip('.')}: {_brief(old, new)} → {_brief(new, old)}"]
    return [line for name, a, b in pairs for line in differences(a, b, name)]


def describe(value):
    """Reduce a value to JSON: arrays to digests, functions to their source, layers to settings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}")  # float32 settings come back with noise behind
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()[:16]
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, keras.Model):
        return _describe_model(value)
    if isinstance(value, keras.callbacks.Callback):
        return _describe_arguments(value)
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        return _describe_serialized(value)
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if hasattr(value, "get_config"):
        return _describe_configured(value)
    if callable(value):
        return _describe_function(value)
    if hasattr(value, "__array__"):
        return describe(np.asarray(value))
    return _describe_arguments(value)


def _describe_model(model):
    """Describe a model by its layers, in order, and by which layer feeds which."""
    config = model.get_config()
    operations = getattr(model, "operations", model.layers)  # such as a mask's comparison with 0
    position = {operation.name: n for n, operation in enumerate(operations)}

    def wiring(node):
        """Replace each reference [layer name, call, output] by the layer's position."""
        if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
            return wiring(node["config"]["keras_history"])
        if _is_reference(node, position):
            return f"layer {position[node[0]]}, call {node[1]}, output {node[2]}"
        if isinstance(node, dict):
            return {key: wiring(item) for key, item in node.items() if item not in ({}, None)}
        if isinstance(node, (list, tuple)):
            return [wiring(item) for item in node]
        return describe(node)

    described = {"layers": [describe(item) for item in operations], **_source(type(model))}
    if "input_layers" in config:  # a functional model; a sequential one has no wiring to tell
        for n, entry in enumerate(config["layers"]):
            if entry["inbound_nodes"]:
                described["layers"][n]["inputs"] = wiring(entry["inbound_nodes"])
        described["inputs"] = wiring(config["input_layers"])
        described["outputs"] = wiring(config["output_layers"])
    if not model.trainable:
        described["trainable"] = False
    if not _is_library(type(model).__module__):  # a β that `compute_loss` reads, say
        plain = keras.Model(model.inputs, model.outputs)
        plain.compile("sgd", "mean_squared_error")
        own = {k: v for k, v in vars(model).items() if k not in vars(plain)}
        described |= {k: describe(v) for k, v in own.items() if isinstance(v, PLAIN)}
    return described


def _is_reference(node, position):
    is_triple = isinstance(node, (list, tuple)) and len(node) == 3 and isinstance(node[0], str)
    return is_triple and node[0] in position


def _describe_configured(value):
    """Describe a layer, optimizer, loss, ... by the settings that differ from its defaults."""
    if isinstance(value, keras.layers.InputLayer):
        return {"class": "InputLayer", "shape": list(value.batch_shape), "dtype": value.dtype}
    config = value.get_config()
    required = {
        name: getattr(value, name, config.get(name))
        for name, parameter in inspect.signature(type(value)).parameters.items()
        if parameter.default is parameter.empty and (hasattr(value, name) or name in config)
    }
    try:
        defaults = type(value)(**required).get_config()
    except Exception:  # a class that can't be made from its required arguments: keep everything
        defaults = {}
    described = {"class": type(value).__name__, **_source(type(value))}
    policy = getattr(value, "dtype_policy", None)
    if policy is not None and policy.name != "float32":
        described["dtype"] = policy.name
    for key, item in config.items():
        if key in IGNORED or (key not in required and key in defaults and defaults[key] == item):
            continue
        live = getattr(value, key, None)
        if inspect.isfunction(live) or hasattr(live, "get_config"):
            item = live  # the object itself says more than what Keras writes down of it
        described[key] = describe(item)
    if not _is_library(type(value).__module__):  # its configuration may leave something out
        described = _arguments(value) | described
    return described


def _describe_serialized(value):
    """Describe an object that Keras has written down inside another's configuration."""
    try:
        return describe(keras.saving.deserialize_keras_object(value))
    except Exception:  # not registered: its name and configuration say what can be said
        return {"class": value["class_name"], "config": describe(value["config"])}


def _describe_arguments(value):
    return {"class": type(value).__name__, **_arguments(value), **_source(type(value))}


def _arguments(value):
    """Describe those attributes of an object that its constructor names, with a _ or without."""
    found = {}
    for name in inspect.signature(type(value)).parameters:
        for attribute in (name, f"_{name}"):
            if hasattr(value, attribute):
                found.setdefault(name, describe(getattr(value, attribute)))
    return found


def _describe_function(function, seen=()):
    """Describe a function by its source, and by the numbers and functions that it refers to."""
    function = inspect.unwrap(function)
    module, name = getattr(function, "__module__", "") or "", getattr(function, "__name__", "")
    if _is_library(module) or not hasattr(function, "__code__"):
        return name or type(function).__name__
    try:
        source = textwrap.dedent(inspect.getsource(function))
        source = ast.unparse(ast.parse(source))  # without comments and layout
    except (OSError, TypeError):
        source = function.__code__.co_code.hex() + str(function.__code__.co_consts)
    except SyntaxError:  # a lambda in the middle of a statement
        source = source.strip()
    described = {"function": source}
    variables = inspect.getclosurevars(function)
    for key, item in sorted({**variables.globals, **variables.nonlocals}.items()):
        if isinstance(item, (*PLAIN, keras.Variable)):
            described[key] = describe(item)
        elif type(item).__module__ == "__main__" and hasattr(item, "__dict__"):
            own = {k: v for k, v in vars(item).items() if isinstance(v, PLAIN)}
            described[key] = describe(own)
        elif inspect.isfunction(item) and item is not function and item not in seen:
            described[key] = _describe_function(item, (*seen, function))
    return described


def _source(cls):
    """Describe the methods of a class that a notebook defines; nothing for a library's."""
    if _is_library(cls.__module__):
        return {}
    methods = {k: v for k, v in vars(cls).items() if inspect.isfunction(inspect.unwrap(v))}
    return {"methods": {name: _describe_function(method) for name, method in methods.items()}}


def _is_library(module):
    return module.split(".")[0] in {"keras", "tensorflow", "numpy", "builtins"}


def _brief(value, other):
    """Put a value in few words, from a little before the place where it differs from another."""
    text, other = ("(absent)" if v is None else " ".join(str(v).split()) for v in (value, other))
    if len(text) <= 60:
        return text
    same = next((n for n, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    start = max(0, same - 20)
    return f"{'…' if start else ''}{text[start : start + 56]}…"
