"""One function of a forward pass, read for what exporters freeze or refuse.

Names are followed roughly: which hold sizes (``b, c, h, w = x.shape``), which of those the batch, and which hold tensors.
The channel count is a constant of the model, so it is no size here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple


class Suspicion(NamedTuple):
    """Rule id, the construct, line; ``sure`` where the source alone decides."""

    rule: str
    what: str
    line: int
    sure: bool = False


_REDUCTIONS = {
    "any",
    "all",
    "max",
    "min",
    "mean",
    "sum",
    "item",
    "norm",
    "std",
    "var",
    "equal",
    "allclose",
    "amax",
    "amin",
}
_TO_NUMBER = {"item", "tolist", "numpy"}
_WINDOWS = {"avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "lp_pool2d"}
_RANDOM = {"rand", "randn", "rand_like", "randn_like", "randint", "bernoulli", "randperm", "normal_", "uniform_"}
_VALUES_UNKNOWN = {"nonzero", "unique", "masked_select", "argwhere"}


def scan_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Suspicion]:
    """Each suspicious construct of a function."""
    scan = _Scan([a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"])
    for statement in node.body:
        scan.visit(statement)
    yield from scan.suspicions


class _Scan(ast.NodeVisitor):
    def __init__(self, parameters: list[str]) -> None:
        self.suspicions: list[Suspicion] = []
        self.tensors = set(parameters)
        self.inputs = set(parameters)
        self.sizes: set[str] = set()
        self.batch: set[str] = set()
        self._loops = 0

    def _note(self, rule: str, what: str, node: ast.AST, *, sure: bool = False) -> None:
        self.suspicions.append(Suspicion(rule, what, getattr(node, "lineno", 0), sure))

    def visit_Assign(self, node: ast.Assign) -> None:
        """Follow names; see writes into slices and into the model."""
        self.generic_visit(node)
        for target in node.targets:
            self._bind(target, node.value)
            if isinstance(target, ast.Subscript) and _reads_same(target, node.value):
                self._note("overlapping-write", f"{ast.unparse(node)}", node)
            if _is_self_attribute(target) and self._has_size(node.value):
                self._note("cached-by-size", f"{ast.unparse(target)} is kept for later runs", node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """See counters kept in the model."""
        self.generic_visit(node)
        if _is_self_attribute(node.target):
            self._note("state-in-forward", ast.unparse(node), node)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            if _is_shape(value):
                self._bind_extents(target.elts)
                return
            for index, part in enumerate(target.elts):
                whole = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
                self._bind(part, value.elts[index] if whole else value)  # type: ignore[attr-defined]
            return
        if not isinstance(target, ast.Name):
            return
        name = target.id
        is_batch = self._is_batch(value)
        is_size = self._has_size(value) and not self._makes_tensor(value)
        is_tensor = not is_size and self._has_tensor(value)
        for names, holds in (
            (self.sizes, is_size),
            (self.batch, is_batch),
            (self.tensors, is_tensor),
            (self.inputs, False),
        ):
            (names.add if holds else names.discard)(name)

    def _bind_extents(self, targets: list[ast.expr]) -> None:
        channel = {4: 1, 5: 1, 3: 2, 2: 1}.get(len(targets))
        for index, part in enumerate(targets):
            if isinstance(part, ast.Name) and index != channel:
                self.sizes.add(part.id)
                if index == 0 and len(targets) > 2:
                    self.batch.add(part.id)

    def visit_If(self, node: ast.If) -> None:
        """A decision; one that only refuses an input is none."""
        refuses = all(isinstance(s, (ast.Raise, ast.Assert)) for s in node.body) and not node.orelse
        if not refuses:
            self._decision(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """A decision in an expression."""
        self._decision(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        """A decision in each turn."""
        self._decision(node.test)
        self.generic_visit(node)

    def _decision(self, test: ast.expr) -> None:
        if self._has_reduction(test):
            self._note("data-dependent-branch", f"if {ast.unparse(test)}", test, sure=True)
        elif self._has_size(test):
            self._note("branch-on-shape", f"if {ast.unparse(test)}", test)

    def visit_For(self, node: ast.For) -> None:
        """A loop over the batch, or as often as a size says."""
        source = node.iter
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Name):
            name, arguments = source.func.id, source.args
            if name == "range" and any(self._is_batch(a) for a in arguments):
                self._note(
                    "loop-over-batch", f"for {ast.unparse(node.target)} in {ast.unparse(source)}", node, sure=True
                )
            elif name == "range" and any(self._has_size(a) for a in arguments):
                self._note("branch-on-shape", f"for {ast.unparse(node.target)} in {ast.unparse(source)}", node)
        elif isinstance(source, ast.Name) and source.id in self.inputs:
            self._note("loop-over-batch", f"for {ast.unparse(node.target)} in {source.id}", node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Calls whose arguments, or whose very name, matter."""
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        text = ast.unparse(node)
        arguments = [*node.args, *(k.value for k in node.keywords)]
        plain = isinstance(node.func, ast.Name)
        from_math = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in (
            "math",
            "np",
            "numpy",
        )
        if (plain and name in ("int", "float", "round")) or from_math:
            if any(self._has_size(a) for a in arguments):
                self._note("number-from-shape", text, node)
            elif any(self._has_reduction(a) for a in arguments):
                self._note("number-from-tensor", text, node)
        elif name in _TO_NUMBER and not node.args and not plain and self._has_tensor(node.func):
            self._note("number-from-tensor", text, node)
        elif name in _WINDOWS and any(self._has_size(a) for a in arguments[1:]):
            self._note("pool-window-from-shape", text, node)
        elif name.startswith(("adaptive_avg_pool", "adaptive_max_pool")) and not _one_bin(arguments[1:]):
            self._note("adaptive-pooling", text, node)
        elif name == "cuda" and not plain:
            self._note("hard-coded-device", text, node)
        elif name == "fold" and len(arguments) > 1:
            self._note("fold", text, node)
        elif ".fft." in f".{ast.unparse(node.func)}." and name != "fftfreq":
            self._note("fft", text, node)
        elif (
            name in ("dropout", "dropout2d")
            and not any(k.arg == "training" for k in node.keywords)
            and len(node.args) < 3
        ):
            if not _is_self_attribute(node.func):
                self._note("random-in-forward", text, node)
        elif name in _RANDOM:
            self._note("random-in-forward", text, node)
        elif name in _VALUES_UNKNOWN:
            self._note("data-dependent-size", text, node)
        groups = next((k.value for k in node.keywords if k.arg == "groups"), None)
        if groups is not None and self._is_batch(groups):
            self._note("groups-from-batch", text, node)

    def _has_size(self, node: ast.AST) -> bool:
        """Whether an expression holds a size that may differ from run to run."""
        if isinstance(node, ast.Name):
            return node.id in self.sizes or node.id in self.batch
        if isinstance(node, ast.Subscript) and _is_shape(node.value):
            return not (isinstance(node.slice, ast.Constant) and node.slice.value == 1)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size":
            return not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 1)
        if _is_shape(node):
            return self._has_tensor(node)
        return any(self._has_size(child) for child in ast.iter_child_nodes(node))

    def _is_batch(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.batch
        if isinstance(node, ast.Subscript) and _is_shape(node.value):
            return isinstance(node.slice, ast.Constant) and node.slice.value == 0
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size":
            return bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len" and node.args:
            return isinstance(node.args[0], ast.Name) and node.args[0].id in self.inputs
        return False

    def _has_tensor(self, node: ast.AST) -> bool:
        return any(isinstance(n, ast.Name) and n.id in self.tensors for n in ast.walk(node))

    def _makes_tensor(self, value: ast.expr) -> bool:
        """Whether an expression that holds sizes is a tensor all the same: any call on torch, a module or a tensor."""
        return any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr != "size"
            for n in ast.walk(value)
        )

    def _has_reduction(self, node: ast.AST) -> bool:
        """Whether an expression reduces a tensor to one value: ``x.mean() > 0``, ``torch.any(mask)``."""
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _REDUCTIONS:
                owner = call.func.value
                if self._has_tensor(owner) and not _is_shape(owner):
                    return True
                if getattr(owner, "id", "") == "torch" and any(self._has_tensor(a) for a in call.args):
                    return True
        return False


def _is_shape(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "shape"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return _is_shape(node.value)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "size"
        and not node.args
    )


def _is_self_attribute(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _reads_same(target: ast.Subscript, value: ast.expr) -> bool:
    """Whether ``y[a] = ... y[b] ...`` reads another part of what it writes, and not from a copy."""
    if any(isinstance(n, ast.Attribute) and n.attr in ("clone", "copy") for n in ast.walk(value)):
        return False
    base, written = ast.unparse(target.value), ast.unparse(target.slice)
    return any(
        isinstance(n, ast.Subscript) and ast.unparse(n.value) == base and ast.unparse(n.slice) != written
        for n in ast.walk(value)
    )


def _one_bin(arguments: list[ast.expr]) -> bool:
    return bool(arguments) and ast.unparse(arguments[0]) in ("1", "(1, 1)", "[1, 1]", "(1,)")
