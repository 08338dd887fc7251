"""``min(height, width)`` and ``max`` as operators while a model is traced.

Python's own decide which of two sizes is the smaller, and a trace goes on with that one: at the traced size both may be equal,
and at another the file follows the wrong one.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy.rules.location import is_users

_JIT: Any = torch.jit  # without types


@contextlib.contextmanager
def symbolic_extrema(model: nn.Module) -> Iterator[None]:
    """Inside, ``min`` and ``max`` of sizes are operators in the files that hold the classes of a model."""
    changed: list[dict[str, Any]] = []
    for name in dict.fromkeys(c.__module__ for m in model.modules() for c in type(m).__mro__):
        space = getattr(sys.modules.get(name), "__dict__", {})
        if is_users(str(space.get("__file__", ""))) and "min" not in space and "max" not in space:
            space.update(min=_MIN, max=_MAX)
            changed.append(space)
    try:
        yield
    finally:
        for space in changed:
            del space["min"], space["max"]


def _extremum(plain: Callable[..., Any], symbolic: Any, of_tensors: Any) -> Callable[..., Any]:
    @functools.wraps(plain)
    def extremum(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not args or (len(args) == 1 and not isinstance(args[0], (tuple, list))):
            return plain(*args, **kwargs)
        values = list(args[0]) if len(args) == 1 else list(args)
        if any(isinstance(v, torch.SymInt) for v in values) and all(isinstance(v, (int, torch.SymInt)) for v in values):
            return functools.reduce(symbolic, values)
        if _JIT.is_tracing() and any(_is_size(v) for v in values):
            sizes = all(_is_size(v) or (isinstance(v, int) and not isinstance(v, bool)) for v in values)
            if sizes:
                return functools.reduce(of_tensors, [torch.as_tensor(v) for v in values])
        return plain(*args)

    return extremum


def _is_size(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and value.dtype == torch.int64


_MIN = _extremum(builtins.min, torch.sym_min, torch.minimum)
_MAX = _extremum(builtins.max, torch.sym_max, torch.maximum)
