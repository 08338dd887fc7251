"""Decisions on sizes, seen by tracing: whether forward decides otherwise at another size than at the traced one.

``if height % 2`` is one thing at the traced size and another one row further, and no trace can follow both. Where a network
decides alike at all multiples of some number, as one does that pads its map to whole windows, a file for those is right.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attn_deploy.exporters.movement import common_divisors
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.inputs.samples import verification_sizes
from attn_deploy.rules.location import Place, is_users, module_paths, place_here
from attn_deploy.rules.source import guards_an_error, may_catch

_JIT: Any = torch.jit  # without types


@dataclass(frozen=True, slots=True)
class Decision:
    """What a condition on sizes came to, and where it is.

    Attributes:
        value: what it came to.
        place: where it is.
        numbers: the sizes and numbers that it was computed from; None where a tensor's elements are among them.
        guard: whether only an error hangs on it, which reaches the caller of forward.
    """

    value: bool
    place: Place
    numbers: tuple[float, ...] | None = None
    guard: bool = False

    def holds_as(self, other: Decision) -> bool:
        """Whether what moved between two sizes has no part in it, or only an error hangs on it, which forward raises too."""
        same = self.numbers is not None and self.numbers == other.numbers
        return self.value == other.value and (same or self.guard)


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A decision that comes out differently at a size: where it is, what it is there, and at which size."""

    decision: Decision
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        sizes = ", ".join(f"{s} = {n}" for s, n in self.sizes.items())
        return f"a condition is {not self.decision.value} at the traced size and {self.decision.value} at {sizes}"


class _Differs(BaseException):
    """Ends a run at its first decision that is not the expected one; no ``except Exception`` in forward stops it."""


_OF_SIZES = frozenset({"size", "numel"})  # what gives a size as a tensor while traced; `shape` gives a tuple of them
_ENOUGH = 3  # other sizes, from which on decisions that hold alike are taken to hold at all


class _Decisions(TorchFunctionMode):
    """Notes the conditions on traced sizes; stops at the first that differs from what is expected."""

    def __init__(self, prepared: PreparedModel, expected: Sequence[Decision] | None) -> None:
        super().__init__()
        self.log: list[Decision] = []
        self._expected = expected
        self._paths = module_paths(prepared.module)
        # The tensors are held, or others would take their places.
        self._numbers: dict[int, tuple[torch.Tensor, tuple[float, ...] | None]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **dict(kwargs or {}))
        if getattr(func, "__name__", "") == "__bool__" and is_users(_asking_frame().f_code.co_filename):
            guard = _only_raises(_asking_frame())
            self.log.append(Decision(bool(result), place_here(self._paths), self._behind(args[0]), guard))
            index = len(self.log) - 1
            if self._expected is not None and (
                index >= len(self._expected) or self._expected[index].value != self.log[-1].value
            ):
                raise _Differs
        if isinstance(result, torch.Tensor) and result.dim() == 0 and getattr(func, "__name__", "") not in _OF_SIZES:
            behind = [self._behind(a) for a in args]
            known = None if None in behind or kwargs else tuple(n for numbers in behind for n in numbers or ())
            self._numbers[id(result)] = (result, known)
        return result

    def _behind(self, value: Any) -> tuple[float, ...] | None:
        """The numbers that a size, or what was computed from sizes, rests on."""
        if isinstance(value, (bool, int, float)):
            return (value,)
        if not isinstance(value, torch.Tensor) or value.dim() > 0:
            return None
        held = self._numbers.get(id(value))
        return held[1] if held is not None else (value.item(),)


def decided_otherwise(prepared: PreparedModel, sizes: Sequence[Mapping[str, int]]) -> Otherwise | None:
    """The first decision of forward that differs at one of some sizes from that at the traced ones; None if none does.

    Args:
        prepared: the model.
        sizes: extents of symbols, over the traced ones.
    """
    return decisions_at(prepared, sizes)[0]


def decisions_at(prepared: PreparedModel, sizes: Sequence[Mapping[str, int]]) -> tuple[Otherwise | None, bool]:
    """As `decided_otherwise`, and whether no decision depends on what moves, as far as some sizes show.

    ``if width % patch`` rests on the width, whatever the batch is, and of ``if size != (batch * heads, length): raise`` no
    output depends; ``if batch > 64`` rests on a number that moves.
    """
    if prepared.work.decisions is None:
        prepared.work.decisions = _run(prepared, {}, None).log
    expected = prepared.work.decisions
    if not expected:
        return None, False
    resting = 0
    for size in sizes:
        log = _run(prepared, size, expected).log
        if log and (len(log) > len(expected) or log[-1].value != expected[len(log) - 1].value):
            return Otherwise(log[-1], size), False
        resting += len(log) == len(expected) and all(d.holds_as(e) for d, e in zip(log, expected, strict=True))
        if resting == _ENOUGH:
            return None, True
    return None, False


def with_steps_of_decisions(prepared: PreparedModel) -> PreparedModel | None:
    """The model for multiples of the least number, and sizes from the least, at which it decides as at the traced size.

    None if there is none but the traced size, or if decisions are not what holds its axes.
    """
    first = prepared.inputs[0]
    space = [s for s in prepared.dynamic if s[0] != "N"]
    if not space or decided_otherwise(prepared, verification_sizes(prepared.inputs, space)[:2]) is None:
        return None
    for step in common_divisors([first.sizes[s] for s in space]):
        if step == 1 or any(step % first.multiple.get(s, 1) for s in space):
            continue
        grown = [{s: first.sizes[s] + step * (1 + (k + j) % 2) for j, s in enumerate(space)} for k in range(2)]
        if decided_otherwise(prepared, grown) is not None:
            continue
        traced = min(first.sizes[s] for s in space)
        for least in dict.fromkeys((step, *(max(step, traced // k // step * step) for k in (4, 2, 1)))):
            if decided_otherwise(prepared, [dict.fromkeys(space, least)]) is None:
                limits = {s: max(least, first.minimum.get(s, 1)) for s in space}
                return replace(
                    prepared,
                    inputs=tuple(
                        replace(
                            i,
                            multiple={**i.multiple, **dict.fromkeys(space, step)},
                            minimum={**i.minimum, **limits},
                        )
                        for i in prepared.inputs
                    ),
                    stepped=True,
                    work=prepared.work.another(),
                )
    return None


def _run(prepared: PreparedModel, sizes: Mapping[str, int], expected: Sequence[Decision] | None) -> _Decisions:
    """The decisions of one trace, as far as they are the expected ones; none where the model does not run."""
    recorder = _Decisions(prepared, expected)
    try:
        with torch.no_grad(), quiet_torch(), prepared.traced(), recorder:
            _JIT.trace(prepared.traceable_module(), prepared.example(sizes), check_trace=False, strict=False)
    except _Differs:
        pass
    except Exception:  # of a model of the user's, or of a tracer that knows some operator not: nothing is known then
        recorder.log.clear()
    return recorder


def _only_raises(frame: types.FrameType | None) -> bool:
    """Whether the condition that a frame stands at guards an error that nothing of the user's catches on its way out."""
    if frame is None or not guards_an_error(frame.f_code.co_filename, frame.f_lineno):
        return False
    while frame is not None and frame.f_code.co_filename != __file__:  # from there on it is the tracing that called
        if is_users(frame.f_code.co_filename) and may_catch(frame.f_code.co_filename, frame.f_lineno):
            return False
        frame = frame.f_back
    return True


def _asking_frame() -> types.FrameType:
    """Inside ``__torch_function__``: the frame whose code called the function, through whichever other handlers."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return frame
