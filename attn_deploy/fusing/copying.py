"""Copies of a model that a run of one does not change in another: what `copy.deepcopy` refuses or shares is seen to."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_MOST_DEEP = 6  # containers in containers, for tensors that a module keeps
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def copy_model(model: nn.Module, *, share_parameters: bool = False) -> nn.Module:
    """A copy of a model with its hooks and caches.

    A tensor that a module keeps from a computation (an attention map, the weight that the old ``weight_norm`` makes) is
    copied without its history, which `copy.deepcopy` refuses. A function on a module that closes over a module of the
    model (a hook, a forward put on the instance) closes over the copy's.

    Args:
        model: left alone.
        share_parameters: use the model's own parameters, for a copy that is run and not changed.
    """
    memo: dict[int, Any] = {}
    kept: list[Any] = []  # what the memo speaks of by identity must live as long as it
    for tensor in _kept_tensors(model):
        if not tensor.is_leaf:
            memo[id(tensor)] = tensor.detach().clone()
            kept.append(tensor)
    if share_parameters:
        memo.update({id(p): p for p in model.parameters()})
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for holder in [vars(module), *(vars(module).get(h) or {} for h in _HOOKS)]:
            for key, value in list(holder.items()):
                bound = _rebound(value, memo)
                if bound is not value:
                    holder[key] = bound
    return twin


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """A function whose closure holds something that was copied, over the copies; anything else as it is."""
    if not isinstance(value, types.FunctionType) or not value.__closure__:
        return value
    cells = []
    changed = False
    for cell in value.__closure__:
        try:
            content = cell.cell_contents
        except ValueError:  # an empty cell
            cells.append(cell)
            continue
        inner = memo.get(id(content), content)
        if inner is content:
            inner = _rebound(content, memo)
        changed = changed or inner is not content
        cells.append(cell if inner is content else types.CellType(inner))
    if not changed:
        return value
    twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
    twin.__kwdefaults__ = value.__kwdefaults__
    twin.__dict__.update(value.__dict__)
    return twin


def _kept_tensors(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that modules hold beside their parameters and buffers."""
    seen: set[int] = set()
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_modules"):
                yield from _tensors(value, seen, _MOST_DEEP)


def _tensors(value: Any, seen: set[int], depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if depth == 0 or id(value) in seen or isinstance(value, (nn.Module, type, types.ModuleType, types.FunctionType)):
        return
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    elif hasattr(value, "__dict__"):
        parts = list(vars(value).values())
    for part in parts:
        yield from _tensors(part, seen, depth - 1)
