"""Functions that a caller hands in, such as ``progress``: called in the caller's process, whoever calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

_send: list[Callable[[int, tuple[Any, ...]], None]] = []


class Callback:
    """What stands for a function of the caller in the process that runs the call; what it returns does not come back."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, *arguments: Any) -> None:
        """Send the arguments to the caller."""
        _send[0](self.number, arguments)


def send_by(send: Callable[[int, tuple[Any, ...]], None]) -> None:
    """Let calls go out through ``send``."""
    _send[:] = [send]


def numbered(value: Any, functions: list[Callable[..., Any]]) -> Any:
    """The value with a number in place of a plain function, which is kept in ``functions``."""
    if isinstance(value, (FunctionType, MethodType, BuiltinMethodType, functools.partial)):
        functions.append(value)
        return Callback(len(functions) - 1)
    return value
