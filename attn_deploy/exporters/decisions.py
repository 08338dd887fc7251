"""Whether Python decisions and numbers in forward depend on the values of the inputs: a trace freezes them.

A tracer remarks on every conversion of a tensor, and many are right: a number that a buffer holds, a check of a channel
count. Those that change with the input are not, whichever way the test tensors happen to decide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.inputs.samples import draws_of
from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import Place, module_paths, place_here

_CONVERSIONS = frozenset({"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy"})


@dataclass(frozen=True, slots=True)
class Conversion:
    """A tensor that Python took for a number: by which function, what came of it, and where."""

    function: str
    value: Any
    place: Place


class _Conversions(TorchFunctionMode):
    """Notes what tensors become when Python takes them for numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.log: list[Conversion] = []
        self._paths = module_paths(model)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **dict(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _CONVERSIONS:
            self.log.append(Conversion(name, result, place_here(self._paths)))
        return result


class Replay(TorchFunctionMode):
    """Gives the numbers that an earlier run had, where tensors have no values, and the shapes of recurrent layers.

    Those have no symbolic form in torch. In a batch-first layer as in any other the first two axes stay.
    """

    def __init__(self, conversions: Sequence[Conversion]) -> None:
        super().__init__()
        self._left = list(conversions)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._left and getattr(func, "__name__", "") == self._left[0].function:
            return self._left.pop(0).value
        if getattr(func, "__name__", "") in ("lstm", "gru", "rnn_tanh", "rnn_relu") and len(args) > 7:
            hidden = args[1][0] if isinstance(args[1], (tuple, list)) else args[1]
            width = hidden.shape[-1] * (2 if args[7] else 1)
            states = tuple(args[1]) if isinstance(args[1], (tuple, list)) else (args[1],)
            return (args[0].new_empty((*args[0].shape[:-1], width)), *states)
        return func(*args, **dict(kwargs or {}))


def conversions_in(prepared: PreparedModel, example: tuple[Tensor, ...]) -> list[Conversion] | None:
    """The conversions of one run; None if the model does not take these values."""
    module = prepared.fresh_module()
    recorder = _Conversions(module)
    try:
        with torch.no_grad(), recorder, _as_if_traced():
            module(*example)
    except Exception:  # whatever a model of the user's raises
        return None
    return recorder.log


def traced_conversions(prepared: PreparedModel, example: tuple[Tensor, ...]) -> list[Conversion] | None:
    """As `conversions_in`, of a trace, in which sizes are tensors too."""
    module = prepared.traceable_module()
    recorder = _Conversions(module)
    try:
        with torch.no_grad(), quiet_torch(), prepared.traced(), recorder:
            torch.jit.trace(module, example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    except Exception:  # whatever a model of the user's raises
        return None
    return recorder.log


@contextlib.contextmanager
def _as_if_traced() -> Iterator[None]:
    """Let code that asks whether it is traced hear that it is: what it skips then is in no trace."""
    jit: Any = torch.jit
    question = jit.is_tracing
    jit.is_tracing = lambda: True
    try:
        yield
    finally:
        jit.is_tracing = question


def decision_on_values(prepared: PreparedModel) -> Finding | None:
    """The first decision or number that differs between inputs of one size; None if all are constants of the model."""
    first = conversions_in(prepared, prepared.example())
    if not first:
        return None
    for example in _variations(prepared):
        for one, two in zip(first, conversions_in(prepared, example) or (), strict=False):
            if (one.function, repr(one.value)) != (two.function, repr(two.value)):
                rule = "data-dependent-branch" if one.function == "__bool__" else "number-from-tensor"
                return Finding(rule, f"{one.value!r} for one input and {two.value!r} for another", one.place)
    return None


def _variations(prepared: PreparedModel) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of one size and of very different values."""
    yield prepared.example(seed=1)
    for draw in range(1, draws_of(prepared.inputs)):  # masks and indices with structure
        yield prepared.example(draw=draw)
    for factor in (-1, 30, 0):
        yield tuple(t * factor if t.is_floating_point() else t for t in prepared.example())
    yield tuple(t if t.is_floating_point() else torch.zeros_like(t) for t in prepared.example())
