"""Inputs with symbolic axes, and the test tensors made for them. No torch here: the device side uses it too."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from attn_deploy.errors import DynamicAxisError
from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.registry import Input, ModelSpec

Arrays = dict[str, NDArray[Any]]
MAX_EXTENT = {"N": 1 << 12}
_DEFAULT_MAX = 1 << 13
_MOST_READINGS = 12


@dataclass(frozen=True, slots=True)
class TensorInput:
    """One input of a model whose constructor arguments are known.

    Attributes:
        name: input name in the exported file.
        dims: for each axis an integer, or an expression in axis symbols such as ``"N"`` or ``"2*H"``.
        dtype: numpy name of the element type.
        sizes: the extent of each symbol when traced; the same for all inputs of a model.
        minimum: the least extent of a symbol.
        multiple: what the extent of a symbol must be a multiple of.
        named: whether the name was given; one without goes to forward by position.
        assumed: whether nobody said which axes move, so that those as long as an image may be tried to move with it.
        bound: integers of test tensors are below this; None for what is usual. At 256 they are images, of any type.
        values: the user's own values, each an array of the input's rank; test tensors are made of them (see
            `attn_deploy.inputs.user_samples`).
    """

    name: str
    dims: tuple[int | str, ...]
    dtype: str
    sizes: Mapping[str, int]
    minimum: Mapping[str, int]
    multiple: Mapping[str, int]
    named: bool = True
    assumed: bool = False
    bound: int | None = None
    values: tuple[NDArray[Any], ...] = field(default=(), compare=False)

    def shape(self, sizes: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """The concrete shape at the traced sizes, or at others."""
        values = {**self.sizes, **(sizes or {})}
        return tuple(evaluate_expression(d, values) for d in self.dims)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The axis symbols used, in order of appearance."""
        return tuple(dict.fromkeys(s for d in self.dims for s in symbols_of(d)))


def symbols_of(dim: int | str) -> list[str]:
    """The axis symbols in a dim: ``["H"]`` for ``"2*H"``, nothing for a number."""
    return re.findall(r"[A-Z]\w*", dim) if isinstance(dim, str) else []


def inputs_for_spec(spec: ModelSpec, settings: Mapping[str, Any]) -> tuple[TensorInput, ...]:
    """The concrete inputs of a registry entry under the given constructor arguments."""
    minimum = {k: evaluate_expression(v, settings) for k, v in spec.minimum.items()}
    multiple = {k: evaluate_expression(v, settings) for k, v in spec.multiple.items()}
    sizes = {k: _traced(int(v), minimum.get(k, 1), multiple.get(k, 1)) for k, v in spec.sizes.items()}
    inputs = []
    for entry in spec.inputs:
        count = _count(entry, settings)
        for index in range(count):
            values = {**settings, "i": index, "count": count} if entry.repeat else settings
            name = f"{entry.name}{index}" if entry.repeat else entry.name
            shape = [d.replace("{i}", str(index)) if isinstance(d, str) else d for d in entry.shape]
            dims = tuple(_with_arguments(d, values) if symbols_of(d) else evaluate_expression(d, values) for d in shape)
            inputs.append(TensorInput(name, dims, entry.dtype, sizes, minimum, multiple))
    return tuple(inputs)


def _count(entry: Input, settings: Mapping[str, Any]) -> int:
    if not entry.repeat:
        return 1
    value = settings[entry.repeat]
    return int(value) if isinstance(value, int) else len(value)


def _with_arguments(expression: int | str, settings: Mapping[str, Any]) -> str:
    """Constructor arguments in a symbolic axis as numbers: ``"ratio*H"`` becomes ``"2*H"``, or ``"H"`` for 1."""

    def numbered(node: ast.expr) -> str:
        text = ast.unparse(node)
        if not symbols_of(text):
            return str(evaluate_expression(text, settings))
        if not isinstance(node, ast.BinOp):
            return text
        left, right = numbered(node.left), numbered(node.right)
        if isinstance(node.op, ast.Mult) and "1" in (left, right):
            return right if left == "1" else left
        return ast.unparse(ast.BinOp(ast.parse(left, mode="eval").body, node.op, ast.parse(right, mode="eval").body))

    return numbered(ast.parse(str(expression), mode="eval").body).replace(" ", "")


def tied_to_maps(inputs: Sequence[TensorInput], moving: Iterable[str]) -> list[tuple[TensorInput, ...]]:
    """Readings of the inputs in which fixed axes as long as a moving H or W move with it; the most likely first.

    ``image:1x3x64x48`` and ``mask:1x64x48`` give the mask ``(N, H, W)`` before all others.
    """
    movable = [s for s in moving if s[0] in "HW"]
    readings: list[list[tuple[int | str, ...]]] = []
    for tensor in inputs:
        choices: list[list[int | str]] = [
            [*(s for s in movable if tensor.sizes[s] == d), d] if isinstance(d, int) and d > 1 else [d]
            for d in tensor.dims
        ]
        if not tensor.assumed or len(tensor.dims) == 4:
            choices = [[d] for d in tensor.dims]
        candidates = list(itertools.islice(itertools.product(*choices), 64))
        readings.append(sorted(candidates, key=lambda dims: (_fixed(dims), len(dims) - len(set(dims)))))
    every = itertools.islice(itertools.product(*readings), 64)
    ordered = sorted(every, key=lambda all_dims: sum(map(_fixed, all_dims)))
    plain = tuple(i.dims for i in inputs)
    chosen = [dims for dims in ordered if dims != plain][:_MOST_READINGS]
    return [tuple(replace(i, dims=d) for i, d in zip(inputs, dims, strict=True)) for dims in chosen]


def _fixed(dims: tuple[int | str, ...]) -> int:
    return sum(isinstance(d, int) for d in dims)


def dynamic_symbols(
    inputs: Iterable[TensorInput], wanted: Iterable[str], allowed: Iterable[str], owner: str
) -> tuple[str, ...]:
    """The axis symbols to move: ``asked`` (letters stand for all symbols that begin with them), checked.

    Raises:
        DynamicAxisError: if one is unknown or cannot move in this model.
    """
    symbols = tuple(dict.fromkeys(s for i in inputs for s in i.symbols))
    allowed = tuple(allowed)
    movable = tuple(s for s in symbols if s in allowed or s[0] in allowed)
    chosen: list[str] = []
    for wish in wanted:
        matches = [s for s in symbols if s == wish or s[0] == wish]
        if not matches:
            raise DynamicAxisError(
                f"{owner}: the axis {wish!r} cannot be dynamic; those that can are {', '.join(movable) or 'none'}, "
                f"every other size is part of the model. Use --dynamic {','.join(movable) or 'none'}.",
                exit_code=2,
            )
        stuck = [s for s in matches if s not in movable]
        if stuck:
            raise DynamicAxisError(
                f"{owner}: the axis {stuck[0]!r} cannot be dynamic, its size is part of the model; "
                f"dynamic axes may be {','.join(movable) or 'none'}. Use --dynamic {','.join(movable) or 'none'}.",
                exit_code=2,
            )
        chosen += matches
    return tuple(dict.fromkeys(chosen))


def fit_size(value: int, symbol: str, tensor: TensorInput) -> int:
    """``value`` raised to the symbol's minimum and rounded up to its multiple."""
    return _fitted(value, tensor.minimum.get(symbol, 1), tensor.multiple.get(symbol, 1))


def _traced(value: int, least: int, step: int) -> int:
    return _fitted(max(value, 2 * step) if step > 1 else value, least, step)


def _fitted(value: int, least: int, step: int) -> int:
    return -(-max(value, least) // step) * step


def traced_size(value: int, symbol: str, entry: TensorInput) -> int:
    """As `fit_size`, and at least two multiples: torch.export takes an extent of one window or cell for a constant."""
    return _traced(value, entry.minimum.get(symbol, 1), entry.multiple.get(symbol, 1))


def bounds(symbol: str, tensor: TensorInput) -> tuple[int, int]:
    """Least and largest extent that an exported file is declared for."""
    return fit_size(1, symbol, tensor), max(MAX_EXTENT.get(symbol, _DEFAULT_MAX), tensor.sizes.get(symbol, 1))
