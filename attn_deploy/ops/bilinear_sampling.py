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
    table, corners = _corners(maps, columns, rows, channels // groups, groups, padding, weights)

    def corner(index: Tensor, weight: Tensor) -> Tensor:
        values = table.index_select(0, index.flatten())
        values = values.reshape(-1, columns.shape[1], groups, taps, channels // groups)
        return values * weight.to(maps.dtype).unsqueeze(4)

    first, second, third, fourth = (corner(i, w) for i, w in corners)
    return first + second + third + fourth


def bilinear_sums(
    maps: Tensor,
    columns: Tensor,
    rows: Tensor,
    *,
    channels: int,
    groups: int,
    taps: int,
    weights: Tensor,
    padding: str = "zeros",
) -> Tensor:
    """The weighted samples of `bilinear_sample`, added over the taps: (N, H, W, C) -> (N, L, G, C / G).

    All corners of all taps are one Gather and one product with their weights, so that no tensor of single samples is
    multiplied and added.
    """
    table, corners = _corners(maps, columns, rows, channels // groups, groups, padding, weights)
    index = torch.cat([i for i, _ in corners], 3)
    factors = torch.cat([w for _, w in corners], 3).to(maps.dtype)
    values = table.index_select(0, index.flatten())
    values = values.reshape(-1, columns.shape[1], groups, 4 * taps, channels // groups)
    return torch.matmul(factors.unsqueeze(3), values).squeeze(3)


def _corners(
    maps: Tensor, columns: Tensor, rows: Tensor, width_of_group: int, groups: int, padding: str, weights: Tensor | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The map as a table of rows, and of each of the four corners the row and the weight of every sample."""
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
    above, below = 1 - down, down
    if weights is not None:
        above, below = above * weights, below * weights
    before, after = 1 - across, across
    return maps.reshape(-1, width_of_group), [
        (upper + left, above * before),
        (upper + right, above * after),
        (lower + left, below * before),
        (lower + right, below * after),
    ]


def _neighbours(positions: Tensor, length: int, ring: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each position, counted with the ring, and how far the position is from the first."""
    last = positions.new_ones(1) * (length - 1)
    inside = torch.minimum(positions.clamp(min=-ring), last - ring)
    whole = inside.floor()
    index = whole.long() + ring
    return index, torch.minimum(index + 1, last.long()), inside - whole
