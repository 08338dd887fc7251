"""Inputs with symbolic axes, and the test tensors made for them. No torch here: the device side uses it too."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.errors import DynamicAxisError, InvalidRequestError
from attn_deploy.registry import Input, ModelSpec, evaluate

Arrays = dict[str, NDArray[Any]]
MAX_EXTENT = {"N": 1 << 12}
_DEFAULT_MAX = 1 << 13
_MOST_READINGS = 12
_AT_A_TIME = 1 << 22  # values of a test tensor that are drawn at once


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
    """

    name: str
    dims: tuple[int | str, ...]
    dtype: str
    sizes: Mapping[str, int]
    minimum: Mapping[str, int]
    multiple: Mapping[str, int]
    named: bool = True
    assumed: bool = False

    def shape(self, sizes: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """The concrete shape at the traced sizes, or at others."""
        values = {**self.sizes, **(sizes or {})}
        return tuple(evaluate(d, values) for d in self.dims)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The axis symbols used, in order of appearance."""
        return tuple(dict.fromkeys(s for d in self.dims for s in symbols_of(d)))


def symbols_of(dim: int | str) -> list[str]:
    """The axis symbols in a dim: ``["H"]`` for ``"2*H"``, nothing for a number."""
    return re.findall(r"[A-Z]\w*", dim) if isinstance(dim, str) else []


def inputs_for_spec(spec: ModelSpec, settings: Mapping[str, Any]) -> tuple[TensorInput, ...]:
    """The concrete inputs of a registry entry under the given constructor arguments."""
    minimum = {k: evaluate(v, settings) for k, v in spec.minimum.items()}
    multiple = {k: evaluate(v, settings) for k, v in spec.multiple.items()}
    sizes = {k: _traced(int(v), minimum.get(k, 1), multiple.get(k, 1)) for k, v in spec.sizes.items()}
    made = []
    for given in spec.inputs:
        for index in range(_count(given, settings)):
            values = {**settings, "i": index} if given.repeat else settings
            name = f"{given.name}{index}" if given.repeat else given.name
            shape = [d.replace("{i}", str(index)) if isinstance(d, str) else d for d in given.shape]
            dims = tuple(_with_arguments(d, values) if symbols_of(d) else evaluate(d, values) for d in shape)
            made.append(TensorInput(name, dims, given.dtype, sizes, minimum, multiple))
    return tuple(made)


def _count(given: Input, settings: Mapping[str, Any]) -> int:
    if not given.repeat:
        return 1
    value = settings[given.repeat]
    return int(value) if isinstance(value, int) else len(value)


def _with_arguments(expression: int | str, settings: Mapping[str, Any]) -> str:
    """Constructor arguments in a symbolic axis as numbers: ``"ratio*H"`` becomes ``"2*H"``, or ``"H"`` for 1."""
    numbers = re.sub(r"\b[a-z]\w*\b", lambda name: str(evaluate(name[0], settings)), str(expression))
    return re.sub(r"\b1\*", "", numbers)


@dataclass(slots=True)
class _Read:
    """One ``--input``: the extent of each axis, or its symbol with the extent that may follow it."""

    text: str
    name: str
    dtype: str
    axes: list[int | tuple[str, int | None]]
    named: bool
    assumed: bool


def _read(text: str, index: int, count: int) -> _Read:
    axis = r"(?:\d+|[A-Z]\d*(?:=\d+)?)"
    pattern = rf"(?:(?P<name>[A-Za-z_]\w*):)?(?P<shape>{axis}(?:[x,]{axis})*)(?::(?P<dtype>\w+))?"
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise InvalidRequestError(
            f"the input {text!r} cannot be read; write its shape as 1x3x224x224, with a name and an element type if "
            "there are several: --input image:1x3x64x64 --input mask:1xHxW:bool."
        )
    axes: list[int | tuple[str, int | None]] = []
    for part in re.split(r"[x,]", match["shape"]):
        symbol, _, extent = part.partition("=")
        axes.append(int(part) if part.isdigit() else (symbol, int(extent) if extent else None))
    if any(n == 0 or (isinstance(n, tuple) and n[1] == 0) for n in axes):
        raise InvalidRequestError(f"the input {text!r} has an axis of length 0; every axis needs at least 1.")
    dtype = match["dtype"] or "float32"
    if dtype not in ("float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool"):
        raise InvalidRequestError(
            f"the input {text!r} has the unknown element type {dtype!r}; use float32, int64, bool, ..."
        )
    name = match["name"] or ("x" if count == 1 else f"x{index}")
    assumed = not any(isinstance(n, tuple) for n in axes)
    if isinstance(axes[0], int):
        axes[0] = ("N", axes[0])
    return _Read(text, name, dtype, axes, bool(match["name"]), assumed)


def parse_inputs(texts: Sequence[str]) -> tuple[TensorInput, ...]:
    """The inputs that ``--input`` options describe: ``[name:]1x3x64x64[:dtype]``.

    The first axis is the batch N. Of an input with 4 axes the last two are H and W, unless their extent is 1; equal
    heights and equal widths are one symbol. An axis may be written as a symbol, ``mask:1xHxW:bool``, with its extent
    where no other input tells it, ``tokens:1xL=77x64``; the numbers of such an input are fixed.

    Raises:
        InvalidRequestError: if one cannot be read, two have one name, or a symbol has two extents or none.
    """
    read = [_read(text, index, len(texts)) for index, text in enumerate(texts)]
    names = [r.name for r in read]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(f"two inputs are called {name!r}; give each its own name, as in image:1x3x64x64.")
    table: dict[str, int] = {}
    for symbol, extent in [a for given in read for a in given.axes if isinstance(a, tuple)]:
        if extent is None or table.setdefault(symbol, extent) == extent:
            continue
        if symbol == "N":
            sizes = sorted({table["N"], extent})
            raise InvalidRequestError(f"the inputs have different batch sizes {sizes}; give all the same.")
        raise InvalidRequestError(f"the axis {symbol} is {table[symbol]} in one input and {extent} in another.")
    for index, given in enumerate(read):
        if given.assumed and len(given.axes) == 4:
            _name_map_axes(given.axes, index, table)
    return tuple(_concrete(given, table) for given in read)


def _name_map_axes(axes: list[int | tuple[str, int | None]], index: int, table: dict[str, int]) -> None:
    """H and W for the last two of four axes; an extent of 1 is what broadcasts or was pooled, and stays."""
    for place, letter in ((2, "H"), (3, "W")):
        extent = axes[place]
        if isinstance(extent, int) and extent > 1:
            twin = next((s for s, n in table.items() if s[0] == letter and n == extent), None)
            symbol = twin or (letter if letter not in table else f"{letter}{index}")
            table[symbol] = extent
            axes[place] = (symbol, extent)


def _concrete(given: _Read, table: Mapping[str, int]) -> TensorInput:
    unknown = [a[0] for a in given.axes if isinstance(a, tuple) and a[0] not in table]
    if unknown:
        raise InvalidRequestError(
            f"the input {given.text!r} has an axis {unknown[0]}, whose extent no input tells; write it as {unknown[0]}=64."
        )
    dims = tuple(a if isinstance(a, int) else a[0] for a in given.axes)
    return TensorInput(given.name, dims, given.dtype, table, {}, {}, given.named, given.assumed)


def tied_to_maps(inputs: Sequence[TensorInput], moving: Iterable[str]) -> list[tuple[TensorInput, ...]]:
    """Readings of the inputs in which fixed axes as long as a moving H or W move with it; the most likely first.

    ``image:1x3x64x48`` and ``mask:1x64x48`` give the mask ``(N, H, W)`` before all others.
    """
    movable = [s for s in moving if s[0] in "HW"]
    readings: list[list[tuple[int | str, ...]]] = []
    for given in inputs:
        choices: list[list[int | str]] = [
            [*(s for s in movable if given.sizes[s] == d), d] if isinstance(d, int) and d > 1 else [d]
            for d in given.dims
        ]
        if not given.assumed or len(given.dims) == 4:
            choices = [[d] for d in given.dims]
        found = list(itertools.islice(itertools.product(*choices), 64))
        readings.append(sorted(found, key=lambda dims: (_fixed(dims), len(dims) - len(set(dims)))))
    every = itertools.islice(itertools.product(*readings), 64)
    ordered = sorted(every, key=lambda all_dims: sum(map(_fixed, all_dims)))
    plain = tuple(i.dims for i in inputs)
    chosen = [dims for dims in ordered if dims != plain][:_MOST_READINGS]
    return [tuple(replace(i, dims=d) for i, d in zip(inputs, dims, strict=True)) for dims in chosen]


def _fixed(dims: tuple[int | str, ...]) -> int:
    return sum(isinstance(d, int) for d in dims)


def parse_axes(text: str | None) -> tuple[str, ...] | None:
    """The axes that a ``--dynamic`` option names: ``N,H,W``, or ``none``; None for what the model allows."""
    if text is None:
        return None
    return () if text.strip().lower() in ("", "none") else tuple(a.strip() for a in text.split(","))


def dynamic_symbols(
    inputs: Iterable[TensorInput], asked: Iterable[str], allowed: Iterable[str], owner: str
) -> tuple[str, ...]:
    """The axis symbols to move: ``asked`` (letters stand for all symbols that begin with them), checked.

    Raises:
        DynamicAxisError: if one is unknown or cannot move in this model.
    """
    known = tuple(dict.fromkeys(s for i in inputs for s in i.symbols))
    allowed = tuple(allowed)
    movable = tuple(s for s in known if s in allowed or s[0] in allowed)
    chosen: list[str] = []
    for wish in asked:
        found = [s for s in known if s == wish or s[0] == wish]
        if not found:
            raise DynamicAxisError(
                f"{owner}: the axis {wish!r} cannot be dynamic; those that can are {', '.join(movable) or 'none'}, "
                f"every other size is part of the model. Use --dynamic {','.join(movable) or 'none'}.",
                exit_code=2,
            )
        stuck = [s for s in found if s not in movable]
        if stuck:
            raise DynamicAxisError(
                f"{owner}: the axis {stuck[0]!r} cannot be dynamic, its size is part of the model; "
                f"dynamic axes may be {','.join(movable) or 'none'}. Use --dynamic {','.join(movable) or 'none'}.",
                exit_code=2,
            )
        chosen += found
    return tuple(dict.fromkeys(chosen))


def fit_size(value: int, symbol: str, given: TensorInput) -> int:
    """``value`` raised to the symbol's minimum and rounded up to its multiple."""
    return _fitted(value, given.minimum.get(symbol, 1), given.multiple.get(symbol, 1))


def _traced(value: int, least: int, step: int) -> int:
    return _fitted(max(value, 2 * step) if step > 1 else value, least, step)


def _fitted(value: int, least: int, step: int) -> int:
    return -(-max(value, least) // step) * step


def traced_size(value: int, symbol: str, given: TensorInput) -> int:
    """As `fit_size`, and at least two multiples: torch.export takes an extent of one window or cell for a constant."""
    return _traced(value, given.minimum.get(symbol, 1), given.multiple.get(symbol, 1))


def bounds(symbol: str, given: TensorInput) -> tuple[int, int]:
    """Least and largest extent that an exported file is declared for."""
    return fit_size(1, symbol, given), max(MAX_EXTENT.get(symbol, _DEFAULT_MAX), given.sizes.get(symbol, 1))


def verification_sizes(inputs: Sequence[TensorInput], symbols: Sequence[str], count: int = 4) -> list[dict[str, int]]:
    """Sizes other than the traced ones, at which every symbol in ``symbols`` moves: batch 1 included, odd, H != W."""
    if not symbols:
        return []
    pattern = {"N": (1, 3, 5, 4), "H": (23, 14, 9, 30), "W": (12, 31, 25, 19)}
    first = inputs[0]
    found: list[dict[str, int]] = []
    for k in range(count):
        sizes = {}
        for symbol in symbols:
            traced = first.sizes[symbol]
            base = pattern.get(symbol[0], (6, 11, 7, 13))[k % 4]
            if symbol[0] != "N":  # stay near the traced scale, so that a model traced at 224 is not judged at 9
                base = max(1, round(base * max(1.0, traced / 22)))
            value = fit_size(base, symbol, first)
            if value == traced:
                value = fit_size(value + 1, symbol, first)
            sizes[symbol] = value
        if sizes not in found:
            found.append(sizes)
    return found


def ramped(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> NDArray[Any]:
    """A test tensor: noise plus an offset for each channel plus ramps along the spatial axes.

    Zero-mean noise hides a baked pooling window, because every window's mean is near zero; with offsets and ramps each
    position and each channel has its own mean.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _AT_A_TIME // max(1, math.prod(shape[1:])))
    if not shape or shape[0] <= rows:
        return _ramped(rng, shape, dtype)
    made = np.empty(
        shape, dtype
    )  # drawn in double precision, which of a whole large tensor takes five times its memory
    for start in range(0, shape[0], rows):
        made[start : start + rows] = _ramped(rng, (min(rows, shape[0] - start), *shape[1:]), dtype)
    return made


def _ramped(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.issubdtype(np.dtype(dtype), np.integer):
        return rng.integers(0, 8, shape).astype(dtype)
    values = rng.standard_normal(shape)
    for axis in range(1, len(shape)):
        extent = shape[axis]
        line = np.linspace(-1.0, 1.0, extent) if extent > 1 else np.full(1, 0.5)
        values = values + (0.7 + 0.2 * axis) * line.reshape([extent if a == axis else 1 for a in range(len(shape))])
    return values.astype(dtype)


def example_arrays(inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None = None, seed: int = 0) -> Arrays:
    """One ramped tensor for each input, at the traced sizes or at others."""
    return {i.name: ramped(i.shape(sizes), i.dtype, seed + k) for k, i in enumerate(inputs)}
