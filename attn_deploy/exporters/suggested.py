"""The least extents for which what torch.export asks of sizes holds, read from its refusal."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attn_deploy.exporters.prepared import PreparedModel

_GUARD = re.compile(
    r"satisfy the generated guard (.+?)\.?(?= - |\s*Specializations |\s+Suggested fixes|\s+The error above|\s*$)"
)
_SIZE = re.compile(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]")
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def suggested_minimum(prepared: PreparedModel, text: str) -> dict[str, int]:
    """The least extents that a refusal asks for; nothing where it asks for none.

    ``H = Dim('H', min=33, max=8192)`` is not all of it: ``(H - 29) // 32 != -1`` may stand above it, and the next trace
    would be refused for that. So each condition on one axis is evaluated at its extents.
    """
    sizes = prepared.inputs[0].sizes
    suggestions = re.findall(r"Dim\('(\w+)', min=(\d+)", text)
    least = {n: int(low) for n, low in suggestions if n in prepared.dynamic and int(low) <= sizes[n]}
    if not least:
        return {}
    for symbol, wrong in _wrong_extents(prepared, text):
        if wrong[-1] < sizes[symbol]:
            least[symbol] = max(least.get(symbol, 1), wrong[-1] + 1)
    return least


def fails_above(prepared: PreparedModel, text: str) -> bool:
    """Whether a refusal names a condition that larger extents than the traced one break: no least extent mends that.

    ``(H // 14) * (H // 14) == 1369`` holds at the traced size and its neighbours alone.
    """
    return any(wrong[-1] > prepared.inputs[0].sizes[symbol] for symbol, wrong in _wrong_extents(prepared, text))


def _wrong_extents(prepared: PreparedModel, text: str) -> Iterator[tuple[str, list[int]]]:
    """For each condition on one axis that a refusal names the extents that break it, up to twice the traced one."""
    sizes = prepared.inputs[0].sizes
    for guard in _GUARD.findall(" ".join(text.split())):
        named = _SIZE.sub(lambda m: _symbol(prepared, m[1], int(m[2])), guard)
        try:
            tree = ast.parse(named, mode="eval").body
        except SyntaxError:
            continue
        symbols = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        if len(symbols) == 1 and (symbol := symbols.pop()) in prepared.dynamic:
            wrong = [n for n in range(1, 2 * sizes[symbol] + 1) if _value(tree, {symbol: n}) is False]
            if wrong:
                yield symbol, wrong


def _symbol(prepared: PreparedModel, name: str, axis: int) -> str:
    """The symbol of an axis; a word that is none where the axis is no plain symbol."""
    dims = next((i.dims for i in prepared.inputs if i.name == name), ())
    dim = dims[axis] if axis < len(dims) else None
    return dim if isinstance(dim, str) and dim.isidentifier() else "_"


def _value(node: ast.expr, values: Mapping[str, int]) -> Any:
    """The value of a condition; None where it holds what is not known here."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if isinstance(node, ast.BoolOp):
        parts = [_value(v, values) for v in node.values]
        return None if None in parts else (all if isinstance(node.op, ast.And) else any)(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        part = _value(node.operand, values)
        return None if part is None else (operator.neg if isinstance(node.op, ast.USub) else operator.not_)(part)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left, values), _value(node.right, values)
        known = left is not None and right is not None and (right or isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)))
        return _ARITHMETIC[type(node.op)](left, right) if known else None
    if isinstance(node, ast.Compare) and all(type(o) in _COMPARISONS for o in node.ops):
        parts = [_value(v, values) for v in (node.left, *node.comparators)]
        if None in parts:
            return None
        return all(_COMPARISONS[type(o)](a, b) for o, a, b in zip(node.ops, parts, parts[1:], strict=False))
    return None
