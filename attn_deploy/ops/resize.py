"""Up-sampling to a symbolic size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary


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


def resize_nearest_from_half(x: Tensor, height: int, width: int) -> Tensor:
    """`resize_nearest` of a map of half the size, rounded up or down: (N, C, h, w) -> (N, C, height, width); a Resize.

    A place i of the output has its source at i * h / height. With height = 2h that is a multiple of a half, which float32
    holds; with 2h - 1 or 2h + 1, which share no divisor with h, it is at least 1 / height away from a whole number, far
    more than float32 errs for maps of less than 2,000 rows. So nothing is left to round differently.

    As an operator of its own it is left alone by the export, which replaces an `F.interpolate` of unknown sizes.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(resize_nearest_from_half, (x,), x, height, width)
    return F.interpolate(x, size=(height, width), mode="nearest")
