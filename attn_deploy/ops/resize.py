"""Up-sampling to a symbolic size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_bilinear(x: Tensor, height: int, width: int, *, align_corners: bool) -> Tensor:
    """Bilinear resize: (N, C, h, w) -> (N, C, height, width); exports as Resize with sizes computed in the graph.

    A 1x1 map needs no resize at all: let broadcasting, or `expand`, do it.
    """
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)


def nearest_matrix(length: int, source: int, like: Tensor) -> Tensor:
    """The one-hot (length, source) matrix that picks, for each i, the source index floor(i * source / length)."""
    i = torch.arange(length, device=like.device).unsqueeze(1)
    j = torch.arange(source, device=like.device).unsqueeze(0)
    return ((j * length <= i * source) & (i * source < (j + 1) * length)).to(like.dtype)


def resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest resize in exact integer arithmetic: (N, C, h, w) -> (N, C, height, width).

    Runtimes round the float coordinate of Resize differently; an integer index leaves nothing to round. (A one-hot
    product would ask torch.export for h, w > 1.) Columns are picked with the small map turned on its side: ONNX Runtime
    gathers along the last axis element by element, ten times slower than the rows of any other.
    """
    rows = (torch.arange(height, device=x.device) * x.shape[2]) // height
    columns = (torch.arange(width, device=x.device) * x.shape[3]) // width
    return x.transpose(2, 3).index_select(2, columns).transpose(2, 3).index_select(2, rows)
