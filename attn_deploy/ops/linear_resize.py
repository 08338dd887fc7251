"""Linear resizing of a line as one product with a matrix that is built in the graph from the symbolic length."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_matrix(length: int, source: int, like: Tensor) -> Tensor:
    """The (source, length) matrix that resizes a line linearly, as ``align_corners=False`` does.

    Place i of the result lies at (i + 1/2) * source / length - 1/2 of the line and takes each value by its distance from
    there, if that is below 1; at the ends, where one value is left, it takes all of it. All in integers, halves of
    1 / length, up to the last division: exact at every length, and in fp16 too.
    """
    place = (2 * torch.arange(length, device=like.device) + 1) * source - length
    value = torch.arange(source, device=like.device) * (2 * length)
    near = (2 * length - (place.unsqueeze(0) - value.unsqueeze(1)).abs()).clamp(min=0).to(like.dtype)
    return near / near.sum(0, keepdim=True)
