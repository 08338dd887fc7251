"""A tracer's remarks, on the line of forward that they are about."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

# What Python asks of a tensor when it wants a number; a tracer remarks on it.
CONVERSIONS = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__len__", "__iter__", "item", "tolist", "numpy"}
)

_HANDLERS = ("__torch_function__", "remarked_on_its_line")


def remarked_on_its_line(func: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The result of a call inside ``__torch_function__``, whose warnings are about the line that made the call.

    The tracer takes the innermost line of Python for it, which is here.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = func(*args, **keywords)
    frame = asking_frame()
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, frame.f_code.co_filename, frame.f_lineno)
    return result


def is_remarked_on() -> bool:
    """Whether the tracer that remarks is at work."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def asking_frame() -> types.FrameType:
    """Inside ``__torch_function__`` and what it calls: the frame whose code called the function."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name not in _HANDLERS:
        frame = frame.f_back
    while frame.f_back is not None and frame.f_code.co_name in _HANDLERS:  # one handler calls the next
        frame = frame.f_back
    return frame
