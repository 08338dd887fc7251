"""Maps of the positions themselves, from integer arithmetic on symbolic sizes.

`torch.linspace` with a traced length is baked by torch.export without an error; a range of the length is not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coordinate_line(length: int, like: Tensor) -> Tensor:
    """The ``length`` values from -1 to 1, evenly spaced; a length of 1 would be 0 / 0.

    Computed in float32: the numerators of a long axis are not numbers of fp16.
    """
    steps = torch.arange(length, device=like.device, dtype=torch.float32)
    return (steps * 2 / (length - 1) - 1).to(like.dtype)


def coordinate_maps(x: Tensor, *, with_radius: bool = False) -> Tensor:
    """Column and row coordinates from -1 to 1, and the root of their squares' sum: (N, C, H, W) -> (1, 2 or 3, H, W).

    Args:
        x: the map; only its size counts.
        with_radius: whether the third map is wanted.
    """
    height, width = x.shape[2], x.shape[3]
    columns = coordinate_line(width, x).reshape(1, 1, 1, -1).expand(1, 1, height, width)
    rows = coordinate_line(height, x).reshape(1, 1, -1, 1).expand(1, 1, height, width)
    maps = [columns, rows]
    if with_radius:
        maps.append((columns * columns + rows * rows).sqrt())
    return torch.cat(maps, 1)
