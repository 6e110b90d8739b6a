"""Find, without running it, where a notebook fits, tunes or chooses on test data.

Names are followed through the cells in their order. What `load_digits` returns second, and what
stands in a dict under a key that begins with "test", is test data; whatever is computed from it
is, too. Shapes, lengths and dtypes are not. A finding is a place where such a value is

* given to `fit`, `fit_transform`, `adapt`, … or to a solver such as `lstsq`,
* given to `fit_or_load` other than as `held_out`, also by way of a function of the page,
* what something is chosen by: `min`, `max` and `sorted` with a key, `argmin` and `argmax` over
  all of an array, `if` with a comparison around an assignment, a function named like `tune`, or
  a result named like `best` or `threshold`,
* averaged over its images (`axis=0`), which is how a baseline is fitted without any `fit`. That
  counts for images and labels as they are, and for what is picked by test labels.
"""

import ast
import functools
import re
from typing import Any, NamedTuple

FITS = {"fit", "fit_transform", "fit_predict", "partial_fit", "adapt", "train_on_batch"}
FITS |= {"lstsq", "solve", "svd", "eigh", "qr", "polyfit", "curve_fit", "minimize", "least_squares"}
STATISTICS = {"mean", "std", "var", "median", "quantile", "percentile", "average", "nanmean"}
STATISTICS |= {"cov", "corrcoef"}
CHOICES = re.compile(r"(^|_)(tune|tuned|choose|select|pick|search|calibrate)($|_)")
CHOSEN = re.compile(r"(^|_)(best|chosen|tuned|threshold|cutoff|setting)($|_)")
CLEAN, DERIVED, RAW = range(3)  # no test data, computed from it, or as it is
LAYOUT = {"reshape", "astype", "ravel", "flatten", "copy", "squeeze", "array", "asarray", "split"}
LAYOUT |= {"concatenate", "stack", "clip", "float32", "float64", "load_digits"}
HARMLESS = {"shape", "dtype", "ndim", "size"}  # of an array: they tell nothing of its values
CHANGES = {"append", "extend", "add", "insert", "update", "setdefault"}
CLEAN_KEY, TEST_KEY = re.compile("train|valid"), re.compile("test")


def find_leaks(cells):
    """List the leaks of a notebook.

    Args:
        cells: the sources of its code cells, in order.

    Returns:
        A list of (line, reason): the source of the expression, and what is wrong with it.
    """
    walk = _Walk()
    for source in cells:
        plain = re.sub(r"^\s*[%!].*$", "", source, flags=re.M)  # no magic commands
        walk.run(ast.parse(plain).body, walk.names)
    return list(dict.fromkeys(walk.found))


class _Dict(NamedTuple):
    """A dict, by what all of its values have in common, and by the level under each known key."""

    value: Any
    items: dict


class _Walk:
    """Evaluates statements with, instead of a value, how near it is to test data.

    That is a level (`CLEAN`, `DERIVED`, `RAW`), or a tuple of them for a tuple whose parts
    differ. Names can stand for functions of the page (their syntax tree) and strings, too.
    """

    def __init__(self):
        self.names, self.found, self.calls = {}, [], []

    def flag(self, node, reason):
        self.found.append((" ".join(ast.unparse(node).split()), reason))

    # statements

    def run(self, body, names):
        """Follow the statements; return the level of what they return."""
        returned = CLEAN
        for node in body:
            returned = _either(returned, self.statement(node, names))
        return returned

    def statement(self, node, names):
        if isinstance(node, ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Return) and node.value:
            return self.value(node.value, names)
        elif isinstance(node, ast.Assign):
            value = self.value(node.value, names)
            for target in node.targets:
                self.assign(target, value, names)
        elif isinstance(node, ast.AnnAssign) and node.value:
            self.assign(node.target, self.value(node.value, names), names)
        elif isinstance(node, ast.AugAssign):
            value = _max([self.value(node.value, names), self.value(node.target, names)])
            self.assign(node.target, value, names)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            returned = CLEAN
            for _ in range(2):  # what a round assigns, the next one uses
                self.loop(node.target, node.iter, names)
                returned = _either(returned, self.run(node.body, names))
            return _either(returned, self.run(node.orelse, names))
        elif isinstance(node, (ast.If, ast.While)):
            assigns = any(isinstance(n, (ast.Assign, ast.AugAssign)) for n in node.body)
            compares = any(isinstance(n, ast.Compare) for n in ast.walk(node.test))
            if _level(self.value(node.test, names)) and assigns and compares:
                self.flag(node.test, "decides about an assignment")
            return _either(self.run(node.body, names), self.run(node.orelse, names))
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self.value(item.context_expr, names)
                if item.optional_vars:
                    self.assign(item.optional_vars, value, names)
            return self.run(node.body, names)
        elif isinstance(node, ast.Try):
            parts = [node.body, *(h.body for h in node.handlers), node.orelse, node.finalbody]
            return _max([self.run(part, names) for part in parts])
        elif isinstance(node, ast.Expr):
            self.value(node.value, names)
        return CLEAN

    def assign(self, target, value, names):
        if isinstance(target, ast.Name):
            names[target.id] = value
            if CHOSEN.search(target.id) and _level(value) and not self.calls:
                self.flag(target, "is chosen on test data")
        elif isinstance(target, (ast.Tuple, ast.List)):
            count = len(target.elts)
            parts = value if isinstance(value, tuple) and len(value) == count else None
            for n, element in enumerate(target.elts):
                self.assign(element, parts[n] if parts else _level(value), names)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, _level(value), names)
        else:  # a place in a container: it keeps what else it holds
            base = target
            while isinstance(base, (ast.Subscript, ast.Attribute)):
                base = base.value
            before = names.get(base.id) if isinstance(base, ast.Name) else None
            if isinstance(before, _Dict) and target.value is base:
                key = self.value(target.slice, names)
                known = before.items | ({key: _plain(value)} if isinstance(key, str) else {})
                names[base.id] = _Dict(_either(before.value, _plain(value)), known)
            elif isinstance(base, ast.Name) and _level(value):
                names[base.id] = _max([value, names.get(base.id, CLEAN)])

    def loop(self, target, iterable, names):
        """Assign what a loop goes through; pairs of `zip`, `enumerate` and `items` one by one."""
        several = isinstance(target, (ast.Tuple, ast.List))
        name = _called(iterable)
        if several and name == "zip" and len(iterable.args) == len(target.elts):
            value = tuple(_level(self.value(one, names)) for one in iterable.args)
        elif several and name == "enumerate":
            value = (CLEAN, _level(self.value(iterable.args[0], names)))
        elif several and name == "items":
            value = self.value(iterable.func.value, names)
            value = (CLEAN, value.value if isinstance(value, _Dict) else _level(value))
        elif isinstance(iterable, (ast.Tuple, ast.List)):
            parts = [self.value(one, names) for one in iterable.elts]
            same = all(isinstance(p, tuple) and len(p) == len(parts[0]) for p in parts)
            value = (
                tuple(map(_level, zip(*parts, strict=True))) if parts and same else _level(parts)
            )
        else:
            value = _level(self.value(iterable, names))
        self.assign(target, value, names)

    # expressions

    def value(self, node, names):
        if isinstance(node, ast.Name):
            return names.get(node.id, CLEAN)
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else CLEAN
        if isinstance(node, (ast.Tuple, ast.List)):
            return tuple(_plain(self.value(one, names)) for one in node.elts)
        if isinstance(node, ast.Dict):
            keys = [self.value(key, names) if key else CLEAN for key in node.keys]
            tested = any(isinstance(key, str) and TEST_KEY.match(key) for key in keys)
            values = [_plain(self.value(one, names)) for one in node.values]
            if tested:
                return RAW  # parts of the data under one name
            return _dict(zip(keys, values, strict=True))
        if isinstance(node, ast.Attribute):
            value = self.value(node.value, names)
            if node.attr == "held_out":
                return DERIVED
            return CLEAN if node.attr in HARMLESS else _level(value)
        if isinstance(node, ast.Subscript):
            return self.item(node, names)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self.comprehension(node, names)
        if isinstance(node, ast.Lambda):
            return node
        if isinstance(node, ast.NamedExpr):
            value = self.value(node.value, names)
            self.assign(node.target, value, names)
            return value
        levels = [_level(self.value(one, names)) for one in ast.iter_child_nodes(node)]
        return DERIVED if sum(level > CLEAN for level in levels) > 1 else _max(levels)

    def item(self, node, names):
        key = self.value(node.slice, names)
        value = self.value(node.value, names)
        if isinstance(key, str):
            if CLEAN_KEY.match(key):
                return CLEAN
            if TEST_KEY.match(key):
                return RAW
            if isinstance(value, _Dict):
                return value.items.get(key, value.value)
            return _level(value)
        constant = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(value, _Dict):
            return value.value if _level(value) else _level(key)
        if isinstance(value, tuple) and isinstance(constant, int) and constant < len(value):
            return value[constant]
        if _level(key) and any(isinstance(n, ast.Compare) for n in ast.walk(node.slice)):
            return RAW  # picked by test labels
        return _max([value, key])

    def comprehension(self, node, names):
        inner = dict(names)
        first = node.generators[0]
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        if len(node.generators) == 1 and isinstance(first.iter, (ast.Tuple, ast.List)):
            parts = []
            for one in first.iter.elts:
                self.assign(first.target, self.value(one, inner), inner)
                parts.append(_max([self.value(result, inner) for result in results]))
            return tuple(parts)
        for generator in node.generators:
            self.loop(generator.target, generator.iter, inner)
            for condition in generator.ifs:
                self.value(condition, inner)
        return _max([self.value(result, inner) for result in results])

    def call(self, node, names):
        name = _called(node)
        receiver = self.value(node.func.value, names) if _is_method(node) else CLEAN
        given = [_plain(self.value(one, names)) for one in node.args]
        named = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, names)
            more = value.items if isinstance(value, _Dict) else {"**": value}
            named |= {keyword.arg: value} if keyword.arg else more
        plain = {key: _level(value) for key, value in named.items()}
        tainted = _max([*given, *plain.values()])
        if name == "load_digits":
            return ((CLEAN, CLEAN), (RAW, RAW), CLEAN)
        if name == "held_out_metrics":
            return DERIVED
        if name == "fit_or_load":
            if _max([*given, *(v for k, v in plain.items() if k != "held_out")]):
                self.flag(node, "trains on test data")
            return CLEAN
        function = names.get(name) if isinstance(node.func, ast.Name) else None
        if isinstance(function, (ast.FunctionDef, ast.Lambda)):
            return self.enter(function, node, names, given, named)
        if name in FITS and tainted:
            self.flag(node, "fits on test data")
        elif name and CHOICES.search(name) and (tainted or _level(receiver)):
            self.flag(node, "chooses on test data")
        self.check_choice(node, name, receiver, given, named, names)
        near = max(tainted, _level(receiver))
        if name in STATISTICS and _over_images(node, name) and near == RAW:
            self.flag(node, "is a statistic over test images")
        if name in CHANGES and tainted and _is_method(node):
            self.assign(ast.Subscript(node.func.value, ast.Constant(0)), tainted, names)
        if name in ("len", "isinstance", "type", "range"):
            return CLEAN
        if name == "dict" and not node.args:
            return _dict(named.items())
        return near if name in LAYOUT else min(near, DERIVED)

    def check_choice(self, node, name, receiver, given, named, names):
        """Flag a choice of the best by test data, be it of a list or by a key."""
        if name in ("min", "max", "sorted") and isinstance(node.func, ast.Name):
            key = named.get("key")
            by = CLEAN
            if isinstance(key, (ast.FunctionDef, ast.Lambda)):
                arguments = [_level(one) for one in given][: len(key.args.args)]
                by = _level(self.enter(key, node, names, arguments, {}))
            if "key" in named and _max([by, key, *given]):
                self.flag(node, "chooses on test data")
        whole = not any(k.arg == "axis" for k in node.keywords)
        if name in ("argmin", "argmax", "argsort", "nanargmin", "nanargmax") and whole:
            judged = given[0] if given else receiver
            if len(given) <= 1 and _level(judged):
                self.flag(node, "chooses on test data")

    def enter(self, function, node, names, given, named):
        """Follow a call of one of the page's own functions, with what it is given."""
        if function in self.calls or len(self.calls) > 8:
            return _max(given)
        inner = dict(names)
        arguments = function.args
        parameters = [a.arg for a in arguments.posonlyargs + arguments.args]
        every = parameters + [a.arg for a in arguments.kwonlyargs]
        inner |= dict.fromkeys(every, CLEAN)
        defaults = arguments.defaults
        for parameter, default in zip(parameters[::-1], defaults[::-1], strict=False):
            inner[parameter] = self.value(default, names)
        for parameter, value in zip(parameters, given, strict=False):
            inner[parameter] = value
        inner |= {key: value for key, value in named.items() if key in every}
        if arguments.kwarg:
            more = [(key, value) for key, value in named.items() if key not in every]
            inner[arguments.kwarg.arg] = _dict(more)
        if arguments.vararg:
            inner[arguments.vararg.arg] = _max(given[len(parameters) :])
        self.calls.append(function)
        try:
            if isinstance(function, ast.Lambda):
                return self.value(function.body, inner)
            return self.run(function.body, inner)
        finally:
            self.calls.pop()


def _level(value):
    """Return the highest level of any part of a value."""
    if isinstance(value, (tuple, list)):
        return max(map(_level, value), default=CLEAN)
    return value if isinstance(value, int) else CLEAN


def _max(values):
    return max(map(_level, values), default=CLEAN)


def _plain(value):
    return value if isinstance(value, (int, tuple, str, ast.AST)) else CLEAN


def _dict(pairs):
    pairs = [(key, _plain(value)) for key, value in pairs]
    everything = functools.reduce(_either, [value for _, value in pairs], CLEAN)
    return _Dict(everything, {key: value for key, value in pairs if isinstance(key, str)})


def _either(a, b):
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(_either(one, other) for one, other in zip(a, b, strict=True))
    return b if a is CLEAN else _max([a, b])


def _called(node):
    """Name the function or method that is called; "" where it has no name."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return getattr(function, "attr", None) or getattr(function, "id", "")


def _is_method(node):
    return isinstance(node.func, ast.Attribute)


def _over_images(node, name):
    """Tell whether a statistic is one over the first axis."""
    if name in ("cov", "corrcoef"):
        return True
    axes = [k.value for k in node.keywords if k.arg == "axis"]
    if not axes:
        position = {"quantile": 2, "percentile": 2}.get(name, 1)
        if _is_method(node) and getattr(node.func.value, "id", "") != "np":
            position -= 1
        axes = node.args[position : position + 1]
    return any(isinstance(axis, ast.Constant) and axis.value == 0 for axis in axes) or any(
        isinstance(axis, ast.Tuple) and any(getattr(n, "value", None) == 0 for n in axis.elts)
        for axis in axes
    )
