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

import sympy
import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from attn_deploy.exporters.decisions import Replay, conversions_in
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.size_functions import value_at
from attn_deploy.exporters.time_limit import time_limit
from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.inputs.tensors import bounds, fit_size

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
    example = prepared.example(prepared.trace_sizes)
    conversions = conversions_in(prepared, example)
    fakes = []
    for tensor, declared in zip(example, prepared.inputs, strict=True):
        kinds = [DimDynamic.DYNAMIC if prepared.moves(d) else DimDynamic.STATIC for d in declared.dims]
        context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
        fakes.append(mode.from_tensor(tensor, symbolic_context=context, source=ConstantSource(declared.name)))
    try:
        with quiet_torch(), FakeCopyMode(mode):
            module = copy.deepcopy(prepared.fresh_module())
        limit = time_limit(_SECONDS, "running the model on symbolic sizes")
        # The dispatcher of Python has forms for symbolic sizes that some composite operators lack, as padding does.
        with quiet_torch(), torch.no_grad(), mode, enable_python_dispatcher(), Replay(conversions or ()), limit:
            module(*fakes)
    except Exception:  # an operator without a symbolic form, a decision on values, or arithmetic without end
        return None
    return limits_of(prepared, fakes, lines)


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
                    if atom == extent.node.expr:
                        point[atom] = evaluate_expression(dim, values)
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
            if isinstance(extent, torch.SymInt) and extent.node.expr.is_Symbol:
                names[extent.node.expr] = sympy.Symbol(str(dim))
    return names
