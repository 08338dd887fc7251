"""Bilinear sampling by one Gather of pixel rows: for every opset, and with coordinates in fp32 where maps are not.

GridSample enters ONNX at opset 16, and takes coordinates in the type of the map: fp16 has steps of half a pixel from 512
on.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bilinear_taps(columns: Tensor, rows: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each point and their weights; a pixel outside the map has the weight 0.

    Args:
        columns: x of the points in pixels, 0 at the centre of the first.
        rows: y of the points.
        height: of the map; may be symbolic.
        width: of the map.

    Returns:
        Index into the flattened map, int64, and weight, both with an axis of length 4 after those of the points.
    """
    left, top = columns.floor(), rows.floor()
    right_part, low_part = columns - left, rows - top
    x = torch.stack([left, left + 1, left, left + 1], -1)
    y = torch.stack([top, top, top + 1, top + 1], -1)
    weights = torch.stack(
        [
            (1 - right_part) * (1 - low_part),
            right_part * (1 - low_part),
            (1 - right_part) * low_part,
            right_part * low_part,
        ],
        -1,
    )
    # Compared as numbers: far outside, a float has no int64.
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    last_column, last_row = torch.ones_like(x) * (width - 1), torch.ones_like(y) * (height - 1)
    x = torch.minimum(x.clamp(min=0), last_column).long()
    y = torch.minimum(y.clamp(min=0), last_row).long()
    return y * width + x, weights * inside.to(weights.dtype)


def pixel_rows(maps: Tensor) -> Tensor:
    """The pixels of all maps below each other: (M, D, H, W) -> (M * H * W, D)."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)
