"""Shape expressions of registry entries, such as ``2*H`` or ``widths[0]``, evaluated without `eval`."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping
from typing import Any

from attn_deploy.errors import InvalidRequestError


def evaluate_expression(expression: str | int, values: Mapping[str, Any]) -> int:
    """The integer that a shape expression gives for known axes and arguments.

    Raises:
        InvalidRequestError: if the expression uses an unknown name or anything but + - * // and **.
    """
    if isinstance(expression, int):
        return expression
    operators: dict[type, Callable[[int, int], int]] = {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.FloorDiv: lambda a, b: a // b,
        ast.Pow: _power,
    }

    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in values:
            return int(values[node.id])
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in values:
            entries, index = values[node.value.id], walk(node.slice)
            if isinstance(entries, (list, tuple)) and -len(entries) <= index < len(entries):
                return int(entries[index])
            raise InvalidRequestError(
                f"the shape expression {expression!r} cannot be read: {node.value.id} is {entries!r}, which has no "
                f"element {index}."
            )
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in operators:
            return operators[type(node.op)](walk(node.left), walk(node.right))
        raise InvalidRequestError(
            f"the shape expression {expression!r} cannot be read: {ast.unparse(node)!r} is neither an axis nor an "
            f"argument (known: {', '.join(values)}), and only + - * // ** are allowed."
        )

    try:
        return walk(_parsed(expression))
    except InvalidRequestError:
        raise
    except Exception as error:  # what is no expression, a division by zero, a thousand brackets
        raise InvalidRequestError(
            f"the shape expression {expression[:80]!r} cannot be evaluated: {error or type(error).__name__}."
        ) from error


@functools.lru_cache(maxsize=1024)
def _parsed(expression: str) -> ast.expr:
    """An export asks a hundred times for the extents of its few axes."""
    return ast.parse(expression, mode="eval").body


def _power(base: int, exponent: int) -> int:
    if not 0 <= exponent <= 64 or abs(base) > 1 << 16:
        raise ValueError(f"{base} ** {exponent} is no extent of an axis")
    return int(base**exponent)
