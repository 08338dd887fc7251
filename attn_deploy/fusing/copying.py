"""Copies of a model that a run of one does not change in another: what `copy.deepcopy` refuses or shares is seen to."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn

from attn_deploy.fusing.rebinding import rebound, uncopyable

LARGE = 1 << 25  # bytes; a model with more weights is copied without them where nobody writes to them
_LARGE_BUFFER = 1 << 22  # bytes
_WRITES = "attn_deploy_writes_parameters"  # attribute of a model whose forward does
_MOST_DEEP = 6  # containers in containers, for tensors that a module keeps
_CONTAINERS = (dict, OrderedDict, list, set)
_INERT = (bool, int, float, str, types.NoneType)  # most attributes of a module: they hold nothing of it
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def bytes_of(model: nn.Module) -> int:
    """The bytes of a model's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def is_large(model: nn.Module) -> bool:
    """Whether copies of a model's weights are to be avoided."""
    return bytes_of(model) > LARGE


def mark_writing(model: nn.Module) -> None:
    """Note that forward writes to parameters or large buffers: no copy of this model shares them from now on."""
    vars(model)[_WRITES] = True


def shared_storages(model: nn.Module) -> dict[int, str]:
    """The names of the tensors that copies share with a model, by the address of their storage."""
    named = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if _is_large_buffer(b))]
    return {t.untyped_storage().data_ptr(): n for n, t in named if t.numel() and not t.is_meta}


def copy_model(model: nn.Module, *, share_parameters: bool = False, own: Collection[str] = ()) -> nn.Module:
    """A copy of a model with its hooks and caches.

    A tensor that a module keeps from a computation (an attention map, the weight that the old ``weight_norm`` makes) is
    copied without its history, which `copy.deepcopy` refuses. A function on a module that closes over a module of the
    model (a hook, a forward put on the instance) closes over the copy's.

    Args:
        model: left alone.
        share_parameters: the parameters and large buffers of the copy have the memory of the model's, for a copy that is run
            and not written to. They are tensors of their own: what forward assigns to ``.data`` stays in the copy.
        own: names of parameters that are not shared.
    """
    memo: dict[int, Any] = _empty_containers(model)
    kept: list[Any] = []  # what the memo speaks of by identity must live as long as it
    for tensor in _kept_tensors(model):
        if not tensor.is_leaf:
            memo[id(tensor)] = tensor.detach().clone()
            kept.append(tensor)
    if share_parameters and not vars(model).get(_WRITES, False):
        memo.update({id(p): _alias(p) for n, p in model.named_parameters() if n not in own})
        memo.update({id(b): b.detach() for b in model.buffers() if _is_large_buffer(b)})
    known = dict(memo)
    try:
        twin = copy.deepcopy(model, memo)
    except TypeError:  # a lock, a generator, a module of Python: one for all copies
        memo = {**known, **{id(v): v for v in uncopyable(model, known)}}
        twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for holder in [vars(module), *(vars(module).get(h) or {} for h in _HOOKS)]:
            for key, value in list(holder.items()):
                if _holds_nothing(value):
                    continue
                bound = rebound(value, memo)
                if bound is not value:
                    holder[key] = bound
    return _unwrapped(twin)


def _empty_containers(model: nn.Module) -> dict[int, Any]:
    """A new one for each empty container that a module keeps, by identity: `copy.deepcopy` would take them apart one by one.

    Every module has a dozen, for hooks of which it has none; two thirds of the time of a copy go there.
    """
    values = (v for module in model.modules() for v in vars(module).values())
    return {id(v): type(v)() for v in values if type(v) in _CONTAINERS and not v}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The copy without what torch.compile and DataParallel put around modules: it is run and traced as it is."""
    for module in model.modules():
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _inner(child)
    return _inner(model)


def _inner(module: nn.Module) -> nn.Module:
    while not (module._forward_hooks or module._forward_pre_hooks):
        if type(module).__name__ == "OptimizedModule" and isinstance(module._modules.get("_orig_mod"), nn.Module):
            module = module._modules["_orig_mod"]  # type: ignore[assignment]
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        else:
            break
    return module


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter in the same memory; one of a class of its own is shared as it is."""
    if type(parameter) is not nn.Parameter or parameter.is_meta:
        return parameter
    twin = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    vars(twin).update(vars(parameter))
    return twin


def _is_large_buffer(buffer: Tensor) -> bool:
    return type(buffer) is Tensor and buffer.numel() * buffer.element_size() > _LARGE_BUFFER and buffer.is_leaf


def _kept_tensors(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that modules hold beside their parameters and buffers."""
    seen: set[int] = set()
    for module in model.modules():
        for name, value in vars(module).items():
            if not _holds_nothing(value) and name not in ("_parameters", "_modules"):
                yield from _tensors(value, seen, _MOST_DEEP)


def _holds_nothing(value: Any) -> bool:
    return type(value) in _INERT or (type(value) in _CONTAINERS and not value)


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
