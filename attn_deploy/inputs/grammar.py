"""The grammar of ``--input``: from text to inputs with symbolic axes. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import TensorInput

_Axis = int | str | tuple[str, int | None]


@dataclass(slots=True)
class _Read:
    """One ``--input``: the extent of each axis, its symbol with the extent that may follow it, or ``2*H``."""

    text: str
    name: str
    dtype: str
    axes: list[_Axis]
    named: bool
    assumed: bool


def _read(text: str, index: int, count: int) -> _Read:
    axis = r"(?:\d+\*[A-Z]\d*|\d+|[A-Z]\d*(?:=\d+)?)"
    pattern = rf"(?:(?P<name>[^\s:]\S*):)?(?P<shape>{axis}(?:[x,]{axis})*)(?::(?P<dtype>\w+))?"
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise InvalidRequestError(
            f"the input {text!r} cannot be read; write its shape as 1x3x224x224, with a name and an element type if "
            "there are several: --input image:1x3x64x64 --input mask:1xHxW:bool."
        )
    axes: list[_Axis] = []
    for part in re.split(r"[x,]", match["shape"]):
        if "*" in part:  # a multiple of an axis that another input has
            axes.append(part)
            continue
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
    assumed = all(isinstance(n, int) for n in axes)
    return _Read(text, name, dtype, axes, bool(match["name"]), assumed)


def parse_inputs(texts: Sequence[str]) -> tuple[TensorInput, ...]:
    """The inputs that ``--input`` options describe: ``[name:]1x3x64x64[:dtype]``.

    The first axis is the batch N. Of an input with 4 axes the last two are H and W, unless their extent is 1; equal
    heights and equal widths are one symbol. An axis may be written as a symbol, ``mask:1xHxW:bool``, with its extent
    where no other input has it, ``tokens:1xL=77x64``; the numbers of such an input are fixed. ``low:1x64x2*Hx2*W`` is
    twice as large as the input that has H and W. Where the first axes of inputs differ, that of the first input is N, and
    the others are fixed: ``patches:16x6`` beside ``tokens:1x10x8``; ``patches:P=16x6`` gives it a name and lets it move.

    Raises:
        InvalidRequestError: if one cannot be read, two have one name, or a symbol has two extents or none.
    """
    read = [_read(text, index, len(texts)) for index, text in enumerate(texts)]
    names = [r.name for r in read]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(f"two inputs are called {name!r}; give each its own name, as in image:1x3x64x64.")
    table: dict[str, int] = {}
    for entry in read:
        _name_batch(entry.axes, table)
    for symbol, extent in [a for entry in read for a in entry.axes if isinstance(a, tuple)]:
        if extent is None or table.setdefault(symbol, extent) == extent:
            continue
        raise InvalidRequestError(f"the axis {symbol} is {table[symbol]} in one input and {extent} in another.")
    for index, entry in enumerate(read):
        if entry.assumed and len(entry.axes) == 4:
            _name_map_axes(entry.axes, index, table)
    return tuple(_concrete(entry, table) for entry in read)


def _name_batch(axes: list[_Axis], table: dict[str, int]) -> None:
    """N for the first axis, unless it differs from the N of the inputs before."""
    first = axes[0]
    if isinstance(first, int) and table.setdefault("N", first) == first:
        axes[0] = ("N", first)
    elif isinstance(first, tuple) and first[0] == "N" and first[1] is not None:
        table.setdefault("N", first[1])


def _name_map_axes(axes: list[_Axis], index: int, table: dict[str, int]) -> None:
    """H and W for the last two of four axes; an extent of 1 is what broadcasts or was pooled, and stays."""
    for place, letter in ((2, "H"), (3, "W")):
        extent = axes[place]
        if isinstance(extent, int) and extent > 1:
            twin = next((s for s, n in table.items() if s[0] == letter and n == extent), None)
            symbol = twin or (letter if letter not in table else f"{letter}{index}")
            table[symbol] = extent
            axes[place] = (symbol, extent)


def _concrete(entry: _Read, table: Mapping[str, int]) -> TensorInput:
    symbols = [a[0] if isinstance(a, tuple) else a.partition("*")[2] for a in entry.axes if not isinstance(a, int)]
    unknown = [s for s in symbols if s not in table]
    if unknown:
        raise InvalidRequestError(
            f"the input {entry.text!r}: no input gives the size of axis {unknown[0]}; write it as {unknown[0]}=64."
        )
    dims = tuple(a[0] if isinstance(a, tuple) else a for a in entry.axes)
    return TensorInput(entry.name, dims, entry.dtype, table, {}, {}, entry.named, entry.assumed)


def parse_axes(text: str | None) -> tuple[str, ...] | None:
    """The axes that a ``--dynamic`` option names: ``N,H,W``, or ``none``; None for what the model allows."""
    if text is None:
        return None
    return () if text.strip().lower() in ("", "none") else tuple(a.strip() for a in text.split(","))
