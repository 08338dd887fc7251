"""The grammar of ``--input``: from text to inputs with symbolic axes. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import TensorInput


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
    pattern = rf"(?:(?P<name>[^\s:]\S*):)?(?P<shape>{axis}(?:[x,]{axis})*)(?::(?P<dtype>\w+))?"
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
            f"the input {given.text!r}: no input gives the size of axis {unknown[0]}; write it as {unknown[0]}=64."
        )
    dims = tuple(a if isinstance(a, int) else a[0] for a in given.axes)
    return TensorInput(given.name, dims, given.dtype, table, {}, {}, given.named, given.assumed)


def parse_axes(text: str | None) -> tuple[str, ...] | None:
    """The axes that a ``--dynamic`` option names: ``N,H,W``, or ``none``; None for what the model allows."""
    if text is None:
        return None
    return () if text.strip().lower() in ("", "none") else tuple(a.strip() for a in text.split(","))
