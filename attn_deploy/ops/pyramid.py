"""Average pooling to several grids at once, as in pyramid pooling, at symbolic H and W."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PyramidAveragePool(nn.Module):
    """Adaptive average pooling to several n x n grids in one matrix product.

    The cells come grid after grid, each row by row, as concatenating `adaptive_avg_pool2d(x, n).flatten(2)` gives them.

    Shape: (N, C, H, W) -> (N, C, sum of n * n).

    Args:
        sizes: the n of each grid.
    """

    bins: Tensor
    row: Tensor
    column: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        cells = [(n, row, column) for n in sizes for row in range(n) for column in range(n)]
        # integers, which `.half()` leaves alone: a position in fp16 is wrong above 2048
        for name, values in zip(("bins", "row", "column"), zip(*cells, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(values).unsqueeze(1), persistent=False)

    def _weights(self, index: Tensor, length: int, like: Tensor) -> Tensor:
        """For each cell the averaging weights of all positions along one axis: (cells, length)."""
        position = torch.arange(length, device=like.device).unsqueeze(0)
        starts = (position + 1) * self.bins > index * length
        ends = position * self.bins < (index + 1) * length
        inside = (starts & ends).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)

    def matrix(self, x: Tensor) -> Tensor:
        """The (H * W, cells) matrix for maps of x's size; make it once to pool several maps."""
        rows = self._weights(self.row, x.shape[2], x)
        columns = self._weights(self.column, x.shape[3], x)
        return (rows.unsqueeze(2) * columns.unsqueeze(1)).flatten(1).transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool one map."""
        return torch.matmul(x.flatten(2), self.matrix(x))
