"""What a trace took for granted of the sizes: decisions of forward that test tensors of a few sizes need not meet.

``if x.shape[0] == 64`` is the same at every size that a comparison happens to draw. Traced with symbolic sizes it leaves
a guard, ``N != 64``, which is evaluated here at the numbers that it speaks of.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from attn_deploy.exporters.decisions import Replay, conversions_in
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.size_functions import value_at
from attn_deploy.exporters.time_limit import time_limit
from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.inputs.tensors import TensorInput, bounds, fit_size

_MOST_CONSTANTS = 12
_MOST_SIZES = 60
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What guards allow.

    Attributes:
        minimum: the least extents of symbols, where those are more than the model declares.
        broken: a guard that fails at a size within the range, with the size and the line; empty if there is none.
    """

    minimum: Mapping[str, int]
    broken: str = ""


def limits_of(prepared: PreparedModel, tensors: Sequence[Tensor], lines: Iterable[str] | None = None) -> Limits:
    """What the guards of a trace allow.

    Args:
        prepared: the model.
        tensors: the symbolic inputs of the trace.
        lines: only guards of these places count, as ``net.py:12``; None for all.
    """
    env = next((_node(n).shape_env for t in tensors for n in t.shape if isinstance(n, torch.SymInt)), None)
    if env is None:
        return Limits({})
    wanted = None if lines is None else tuple(lines)
    guards = [g for g in env.guards if wanted is None or any(w in str(g.sloc) for w in wanted)]
    minimum: dict[str, int] = {}
    for guard in guards:
        if prepared.trace_sizes and _fails(prepared, tensors, guard.expr, {}):
            continue  # a decision that falls the other way at the size that was asked for, which the proof has
        for symbol in prepared.dynamic:
            bad = [
                n for n in _sizes(prepared, symbol, guard.expr) if _fails(prepared, tensors, guard.expr, {symbol: n})
            ]
            bad = [n for n in bad if not (symbol[0] == "N" and n == 1)]  # the comparison has a batch of 1
            if not bad:
                continue
            traced = prepared.inputs[0].sizes[symbol]
            if max(bad) >= traced or symbol[0] == "N":
                names = _names(prepared, tensors)
                text = str(guard.expr.xreplace(names)) if names else str(guard.expr)
                return Limits(
                    minimum, f"{symbol} = {min(bad, key=lambda n: abs(n - traced))} breaks {text} ({guard.sloc})"
                )
            least = next(
                n for n in range(max(bad) + 1, traced + 1) if not _fails(prepared, tensors, guard.expr, {symbol: n})
            )
            minimum[symbol] = max(minimum.get(symbol, 1), least)
    return Limits(minimum)


def decisions_on_sizes(prepared: PreparedModel, lines: Iterable[str]) -> Limits | None:
    """What decisions on some lines of forward take for granted; None if the model does not run on symbolic sizes."""
    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    conversions = conversions_in(prepared, prepared.example(prepared.trace_sizes))
    fakes = [_fake(prepared, mode, declared) for declared in prepared.inputs]
    try:
        with quiet_torch(), FakeCopyMode(mode):
            module = copy.deepcopy(prepared.fresh_module())
        limit = time_limit(_SECONDS, "running the model on symbolic sizes")
        # The dispatcher of Python has forms for symbolic sizes that some composite operators lack, as padding does.
        replay = Replay(conversions or ())
        with quiet_torch(), torch.no_grad(), prepared.traced(), mode, enable_python_dispatcher(), replay, limit:
            module(*fakes)
    except Exception:  # an operator without a symbolic form, a decision on values, or arithmetic without end
        return None
    return limits_of(prepared, fakes, lines)


def _fake(prepared: PreparedModel, mode: FakeTensorMode, declared: TensorInput) -> Tensor:
    """An input of symbolic sizes; one that must be a multiple of 32 is 32 times a symbol, so that rounding up ends."""
    from torch._dynamo.source import ConstantSource  # a quarter of the time that the imports of this room take

    steps = [declared.multiple.get(d, 1) if isinstance(d, str) and prepared.moves(d) else 1 for d in declared.dims]
    dtype = torch.from_numpy(np.empty(0, declared.dtype)).dtype
    if any(
        prepared.moves(d) and n < 2 * s
        for d, n, s in zip(declared.dims, declared.shape(prepared.trace_sizes), steps, strict=True)
    ):
        steps = [1] * len(steps)  # an extent of 1 is a constant to torch
    counts = torch.empty(
        [n // s for n, s in zip(declared.shape(prepared.trace_sizes), steps, strict=True)], dtype=dtype
    )
    kinds = [DimDynamic.DYNAMIC if prepared.moves(d) else DimDynamic.STATIC for d in declared.dims]
    context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
    fake = mode.from_tensor(counts, symbolic_context=context, source=ConstantSource(declared.name))
    if max(steps) == 1:
        return fake
    return fake.new_empty([n * s for n, s in zip(fake.shape, steps, strict=True)])


def _node(extent: Any) -> Any:
    """The expression that a symbolic extent stands for."""
    return extent.node


def _sizes(prepared: PreparedModel, symbol: str, expression: Any) -> list[int]:
    """Extents worth trying: small and large ones, and around every number in a guard and every product of two."""
    first = prepared.inputs[0]
    low, high = bounds(symbol, first)
    traced = first.sizes[symbol]
    constants = sorted({abs(int(n)) for n in expression.atoms() if n.is_Integer})[:_MOST_CONSTANTS]
    products = [a * b for a, b in itertools.combinations_with_replacement([n for n in constants if n > 1], 2)]
    around = [n + d for n in (*constants, *products) for d in (-1, 0, 1)]
    plain = [low, low + 1, 3, 5, traced // 2, traced - 1, traced, traced + 1, 2 * traced, 3 * traced + 1, high]
    chosen = dict.fromkeys(fit_size(n, symbol, first) for n in (*plain, *around) if low <= n <= high)
    return [n for n in chosen if n <= high][:_MOST_SIZES]


def _fails(prepared: PreparedModel, tensors: Sequence[Tensor], expression: Any, sizes: Mapping[str, int]) -> bool:
    values = {**prepared.inputs[0].sizes, **sizes}
    point: dict[Any, int] = {}
    for declared, tensor in zip(prepared.inputs, tensors, strict=True):
        for dim, extent in zip(declared.dims, tensor.shape, strict=True):
            if isinstance(extent, torch.SymInt):
                for atom in extent.node.expr.free_symbols:
                    step = extent.node.expr / atom
                    if step.is_Integer:
                        point[atom] = evaluate_expression(dim, values) // int(step)
    symbols = tuple(sorted(expression.free_symbols, key=str))
    try:
        if all(s in point for s in symbols):
            return not value_at(expression, symbols, [point[s] for s in symbols])
    except NotImplementedError:
        pass
    except (ArithmeticError, ValueError):
        return False
    try:
        return bool(expression.subs(point) is sympy.false)
    except (TypeError, ValueError, ZeroDivisionError):
        return False


def _names(prepared: PreparedModel, tensors: Sequence[Tensor]) -> dict[Any, Any]:
    """Our symbols for those of a trace."""
    names: dict[Any, Any] = {}
    for declared, tensor in zip(prepared.inputs, tensors, strict=True):
        for dim, extent in zip(declared.dims, tensor.shape, strict=True):
            expression: Any = _node(extent).expr if isinstance(extent, torch.SymInt) else None
            for atom in () if expression is None else expression.free_symbols:
                step = expression / atom
                if step.is_Integer:
                    names[atom] = sympy.Symbol(str(dim)) / int(step)
    return names
