"""Pooling whose window depends on the input size, in forms that stay right at sizes that were not traced.

`adaptive_avg_pool2d(x, n)` of PyTorch, n > 1, is refused by the TorchScript exporter at dynamic H, W and exported
with a
baked window by the torch.export exporter: the file then gives wrong numbers, or wrong shapes, at every other size.
Bins are rectangular, so pooling is a product with one averaging matrix for each axis, built in the graph from the
symbolic length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def global_avg_pool(x: Tensor) -> Tensor:
    """Mean over H and W: (N, C, H, W) -> (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over H and W: (N, C, H, W) -> (N, C, 1, 1)."""
    return x.amax((2, 3), keepdim=True)


def averaging_matrix(bins: int, length: int, like: Tensor) -> Tensor:
    """The (bins, length) matrix whose product with an axis of that length is adaptive average pooling.

    Bin i covers floor(i * length / bins) to ceil((i + 1) * length / bins), in integer arithmetic throughout, so that
    the
    bins are exactly PyTorch's. ``bins`` may exceed ``length``, and either may be symbolic.
    """
    i = torch.arange(bins, device=like.device).unsqueeze(1)
    j = torch.arange(length, device=like.device).unsqueeze(0)
    inside = ((i * length < (j + 1) * bins) & (j * bins < (i + 1) * length)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Adaptive average pooling: (N, C, H, W) -> (N, C, *output_size), equal to `torch.nn.functional`'s.

    Works at symbolic H and W, and for output sizes larger than the input.
    """
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    if isinstance(rows, int) and isinstance(columns, int) and rows == columns == 1:
        return global_avg_pool(x)
    down = averaging_matrix(rows, x.shape[2], x)
    across = averaging_matrix(columns, x.shape[3], x)
    return torch.matmul(torch.matmul(down, x), across.transpose(0, 1))


def adaptive_max_pool2d(x: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Adaptive max pooling: (N, C, H, W) -> (N, C, *output_size), bit-equal to `torch.nn.functional`'s.

    The maximum is separable, and a value that is looked at twice does not change it: along each axis, every bin gathers
    the same number of positions, the shorter ones their last position again. Works at symbolic H and W (a slice for each
    bin does not: torch.export cannot prove that it is never empty), and for output sizes larger than the input.
    """
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    if isinstance(rows, int) and isinstance(columns, int) and rows == columns == 1:
        return global_max_pool(x)
    height, width = x.shape[2], x.shape[3]
    maps = x.flatten(0, 1)
    maps = maps.index_select(1, _bin_positions(rows, height, x)).reshape(-1, rows, height // rows + 2, width).amax(2)
    maps = maps.index_select(2, _bin_positions(columns, width, x)).reshape(-1, rows, columns, width // columns + 2)
    return maps.amax(3).reshape(x.shape[0], -1, rows, columns)


def _bin_positions(bins: int, length: int, like: Tensor) -> Tensor:
    """For each bin of an axis length // bins + 2 positions inside it, which is as many as the longest bin has."""
    i = torch.arange(bins, device=like.device).unsqueeze(1)
    start = torch.div(i * length, bins, rounding_mode="trunc")
    last = torch.div((i + 1) * length + (bins - 1), bins, rounding_mode="trunc") - 1
    offsets = torch.arange(length // bins + 2, device=like.device).unsqueeze(0)
    return torch.minimum(start + offsets, last).flatten()
