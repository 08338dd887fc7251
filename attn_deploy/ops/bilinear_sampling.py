"""Bilinear sampling at computed positions, in pixel coordinates, without the operator GridSample.

GridSample enters ONNX at opset 16, wants positions in [-1, 1], which costs digits, and is slower in ONNX Runtime on a CPU
than this. The map lies with its channels last, so that each corner of each sample is one row of a table: a Gather of rows
instead of a GatherElements with an index for each channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def coordinates_like(x: Tensor) -> Tensor:
    """``x`` in the type that positions need: half precision is 0.5 pixel apart from 512 on, so float32 there."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def bilinear_sample(
    maps: Tensor,
    columns: Tensor,
    rows: Tensor,
    *,
    channels: int,
    groups: int = 1,
    taps: int = 1,
    padding: str = "zeros",
    weights: Tensor | None = None,
) -> Tensor:
    """Sample each group of channels at its own positions: (N, H, W, C) -> (N, L, G, T, C / G).

    The same numbers as `torch.nn.functional.grid_sample` at the same positions, with a gradient to maps, positions and
    weights.

    Args:
        maps: channels last.
        columns: horizontal positions in pixels, 0 the centre of the first pixel: (N, L, G, T) for L places.
        rows: vertical positions, likewise.
        channels: C.
        groups: G, of channels with positions of their own.
        taps: T, samples at each place.
        padding: "zeros" outside of the map, or "border" for the nearest pixel of the border.
        weights: factor of each sample, (N, L, G, T).
    """
    ring = 1 if padding == "zeros" else 0
    if ring:  # one ring of zeros: what lies beyond it is clamped onto it
        maps = F.pad(maps, (0, 0, 1, 1, 1, 1))
    height, width = maps.shape[1], maps.shape[2]
    left, right, across = _neighbours(columns, width, ring)
    upper, lower, down = _neighbours(rows, height, ring)
    # Rows of the table are counted by sample, row of pixels, pixel and group.
    first = (torch.arange(maps.shape[0], device=maps.device) * height).reshape(-1, 1, 1, 1)
    upper, lower = (first + upper) * (width * groups), (first + lower) * (width * groups)
    if groups > 1:
        group = torch.arange(groups, device=maps.device).reshape(1, 1, -1, 1)
        left, right = left * groups + group, right * groups + group
    table = maps.reshape(-1, channels // groups)

    def corner(row: Tensor, column: Tensor, weight: Tensor) -> Tensor:
        values = table.index_select(0, (row + column).flatten())
        values = values.reshape(-1, columns.shape[1], groups, taps, channels // groups)
        return values * weight.to(maps.dtype).unsqueeze(4)

    above, below = 1 - down, down
    if weights is not None:
        above, below = above * weights, below * weights
    before, after = 1 - across, across
    return (
        corner(upper, left, above * before)
        + corner(upper, right, above * after)
        + corner(lower, left, below * before)
        + corner(lower, right, below * after)
    )


def _neighbours(positions: Tensor, length: int, ring: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each position, counted with the ring, and how far the position is from the first."""
    last = positions.new_ones(1) * (length - 1)
    inside = torch.minimum(positions.clamp(min=-ring), last - ring)
    whole = inside.floor()
    index = whole.long() + ring
    return index, torch.minimum(index + 1, last.long()), inside - whole
