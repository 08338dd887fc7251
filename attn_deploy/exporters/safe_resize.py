"""Nearest-neighbour resizing to a size, as PyTorch rounds it.

PyTorch multiplies a place in the output by in/out in float32 and rounds down; ONNX's Resize divides it by out/in, and
gives the neighbour wherever the quotient falls below a whole number: 30 becomes 29 where 90 columns become 3. Of all pairs
of sizes below 300, one in twenty differs in some place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

WORDS = "nearest resizing as PyTorch rounds it"


def is_nearest(args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a call of ``F.interpolate`` takes the nearest neighbour at a size that is given."""
    size = keywords.get("size", args[1] if len(args) > 1 else None)
    return size is not None and keywords.get("mode", args[3] if len(args) > 3 else "nearest") == "nearest"


def is_uneven(args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a call of ``F.interpolate`` takes the nearest neighbour at a size that is no multiple of the map's."""
    if not is_nearest(args, keywords):
        return False
    size = keywords.get("size", args[1] if len(args) > 1 else None)
    extents = args[0].shape[2:] if args else keywords["input"].shape[2:]
    sizes = size if isinstance(size, (tuple, list)) else (size,) * len(extents)
    return any(int(n) % int(e) for n, e in zip(sizes, extents, strict=True))


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
