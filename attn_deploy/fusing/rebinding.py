"""What `copy.deepcopy` leaves at the original: functions that hold a part of a model, and what cannot be copied at all."""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_MOST_DEEP = 4  # containers in containers


def rebound(value: Any, memo: dict[int, Any], depth: int = _MOST_DEEP) -> Any:
    """A function, or a weak reference, that holds something which was copied, over the copies; anything else as it is.

    Args:
        value: an attribute or a hook of a copied module.
        memo: of the deep copy: the copies by the identity of the originals.
        depth: how far it is followed.
    """
    if depth == 0:
        return value
    if isinstance(value, types.FunctionType):
        return _function(value, memo, depth)
    if isinstance(value, functools.partial):
        inner = rebound(value.func, memo, depth - 1)
        return value if inner is value.func else functools.partial(inner, *value.args, **value.keywords)
    if isinstance(value, types.MethodType):
        inner = rebound(value.__func__, memo, depth - 1)
        return value if inner is value.__func__ else types.MethodType(inner, value.__self__)
    if type(value) is weakref.ref:
        target = value()
        twin = None if target is None else memo.get(id(target))
        return value if twin is None or twin is target else weakref.ref(twin)
    return value


def _function(value: types.FunctionType, memo: dict[int, Any], depth: int) -> types.FunctionType:
    cells = tuple(_cell(c, memo, depth) for c in value.__closure__ or ())
    defaults = _held(value.__defaults__, memo, depth)
    keywords = _held(value.__kwdefaults__, memo, depth)
    same = all(a is b for a, b in zip(cells, value.__closure__ or (), strict=True))
    if same and defaults is value.__defaults__ and keywords is value.__kwdefaults__:
        return value
    twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, cells or None)
    twin.__kwdefaults__ = keywords
    twin.__dict__.update(value.__dict__)
    return twin


def _cell(cell: types.CellType, memo: dict[int, Any], depth: int) -> types.CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # an empty cell
        return cell
    inner = _held(content, memo, depth)
    return cell if inner is content else types.CellType(inner)


def _held(content: Any, memo: dict[int, Any], depth: int) -> Any:
    """What a function holds, over the copies; containers are looked into."""
    if id(content) in memo and isinstance(content, (nn.Module, Tensor, list, dict, tuple)):
        return memo[id(content)]
    if depth == 0:
        return content
    if type(content) in (list, tuple):
        parts = [_held(c, memo, depth - 1) for c in content]
        return content if all(a is b for a, b in zip(parts, content, strict=True)) else type(content)(parts)
    if type(content) is dict:
        pairs = {k: _held(v, memo, depth - 1) for k, v in content.items()}
        return content if all(pairs[k] is v for k, v in content.items()) else pairs
    return rebound(content, memo, depth - 1)


def uncopyable(model: nn.Module, memo: dict[int, Any]) -> Iterator[Any]:
    """What modules hold and `copy.deepcopy` refuses: locks, generators, modules of Python, open files.

    Args:
        model: whose modules are looked at.
        memo: what the copy of the model is given beforehand.
    """
    inside = {id(m): m for m in model.modules()}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_modules", "_parameters", "_buffers"):
                yield from _refused(value, {**memo, **inside}, _MOST_DEEP)


def _refused(value: Any, memo: dict[int, Any], depth: int) -> Iterator[Any]:
    if isinstance(value, (nn.Module, Tensor, str, int, float, bool, type(None))):
        return
    try:
        copy.deepcopy(value, dict(memo))
        return
    except Exception:  # whatever a class of the user's raises when it is copied
        parts: list[Any] = []
    if depth and isinstance(value, dict):
        parts = list(value.values())
    elif depth and isinstance(value, (list, tuple, set)):
        parts = list(value)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (types.ModuleType, type, types.FunctionType)):
        parts = list(vars(value).values())
    inner = [r for p in parts for r in _refused(p, memo, depth - 1)]
    yield from inner or [value]
