"""Nearest-neighbour resizing to a size, as PyTorch rounds it.

PyTorch multiplies a place in the output by in/out in float32 and rounds down; ONNX's Resize divides it by out/in, and
gives the neighbour wherever the quotient falls below a whole number: 30 becomes 29 where 90 columns become 3. Of all pairs
of sizes below 300, one in twenty differs in some place; of a map and its half, rounded up or down, none does.

Where both sizes are known as expressions in one extent, as under torch.export, all pairs that they can be are looked at: a
Resize is kept where it is right at each of them, since gathering takes ten times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_deploy.exporters.size_functions import value_at

WORDS = "nearest resizing as PyTorch rounds it"
_LARGEST = 8192  # extent of a map that is looked at


def is_nearest(args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a call of ``F.interpolate`` takes the nearest neighbour at a size that is given."""
    size = keywords.get("size", args[1] if len(args) > 1 else None)
    return size is not None and keywords.get("mode", args[3] if len(args) > 3 else "nearest") == "nearest"


def is_uneven(args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a call of ``F.interpolate`` takes the nearest neighbour at a size for which a Resize may take another one."""
    if not is_nearest(args, keywords):
        return False
    return any(int(n) % int(e) or not _same_neighbours(int(e), int(n)) for e, n in _pairs(args, keywords))


def resize_is_right(args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a Resize takes PyTorch's neighbours, at every extent that the sizes can be; False where that is not known."""
    return all(_right_wherever(length, extent) for length, extent in _pairs(args, keywords))


def _pairs(args: Sequence[Any], keywords: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """For each axis the length of the map and the extent that it is brought to."""
    size = keywords.get("size", args[1] if len(args) > 1 else None)
    lengths = args[0].shape[2:] if args else keywords["input"].shape[2:]
    sizes = size if isinstance(size, (tuple, list)) else (size,) * len(lengths)
    return zip(lengths, sizes, strict=True)


def _right_wherever(length: Any, extent: Any) -> bool:
    if isinstance(length, int) and isinstance(extent, int):
        return _same_neighbours(length, extent)
    if not all(isinstance(n, (int, torch.SymInt)) for n in (length, extent)):
        return False
    expressions = [n.node.expr if isinstance(n, torch.SymInt) else n for n in (length, extent)]
    return _right_for_all(*expressions)


@functools.lru_cache(maxsize=256)
def _right_for_all(length: Any, extent: Any) -> bool:
    """The same of two expressions in one symbol, at each of its values that gives maps of a usual size."""
    symbols = {s for e in (length, extent) for s in getattr(e, "free_symbols", ())}
    if len(symbols) != 1:
        return False
    (symbol,) = symbols
    try:
        pairs = {tuple(value_at(e, (symbol,), (n,)) for e in (length, extent)) for n in range(1, _LARGEST + 1)}
    except (ArithmeticError, NotImplementedError, ValueError):
        return False
    usual = [(int(a), int(b)) for a, b in pairs if 0 < a <= _LARGEST and 0 < b <= _LARGEST]
    return bool(usual) and all(_same_neighbours(a, b) for a, b in usual)


@functools.lru_cache(maxsize=1 << 15)
def _same_neighbours(length: int, extent: int) -> bool:
    """Whether PyTorch's rounding and that of ONNX's Resize give the same place of the map for each one of the output."""
    if extent in (length, 2 * length):
        return True
    places = np.arange(extent, dtype=np.float32)
    torchs = np.floor(places * (np.float32(length) / np.float32(extent)))
    onnxs = np.floor(places / (np.float32(extent) / np.float32(length)))
    return bool((np.minimum(torchs, length - 1) == np.minimum(onnxs, length - 1)).all())


def nearest_to_size(input: Tensor, size: Any = None, *_: Any, **__: Any) -> Tensor:
    """``F.interpolate(input, size)`` by indices that are computed as PyTorch computes them."""
    sizes = size if isinstance(size, (tuple, list)) else (size,) * (input.dim() - 2)
    result = input
    for axis, extent in enumerate(sizes, start=2):
        length = result.shape[axis]
        if isinstance(extent, int) and isinstance(length, int) and extent == length:
            continue
        places = torch.arange(extent, device=input.device).to(torch.float32) * (length / extent)
        # The last place may round up to the map's end.
        result = result.index_select(axis, places.floor().to(torch.int64).clamp(max=length - 1))
    return result
