"""Average pooling with windows that may reach over the end of the map, at symbolic sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ceil_avg_pool2d(x: Tensor, side: int) -> Tensor:
    """`avg_pool2d(x, side, side, ceil_mode=True)`: the last windows average the positions inside the map.

    Torch decides on the size whether the last window counts, which torch.export takes for a condition on H and W. Here the
    map is padded by a constant amount, and what the zeros took away is multiplied back.
    """
    if side == 1:
        return x
    pooled = F.avg_pool2d(F.pad(x, (0, side - 1, 0, side - 1)), side, side)
    across = _shares(x.shape[3], pooled.shape[3], side, x)
    return pooled * _shares(x.shape[2], pooled.shape[2], side, x).unsqueeze(1) * across


def _shares(length: int, windows: int, side: int, like: Tensor) -> Tensor:
    """For each window along one axis, its side over the number of its positions inside the map."""
    remaining = length - torch.arange(windows, device=like.device) * side
    return side / remaining.clamp(max=side).to(like.dtype)
