"""Average pooling to several grids at once, as in pyramid pooling, at symbolic H and W."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PyramidAveragePool(nn.Module):
    """Adaptive average pooling to several n x n grids by one matrix product along each axis.

    The products cross the rows of each grid with the columns of all; the squares on the diagonal are the grids. That is
    n * n too many cells, and still sum(n) products for each position where one matrix of all cells takes sum(n * n).

    Shape: (N, C, H, W) -> (N, C, sum of n * n). The cells come grid after grid, each column by column.

    Args:
        sizes: the n of each grid.
    """

    bins: Tensor
    index: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        # integers, which `.half()` leaves alone: a position in fp16 is wrong above 2048
        for name, values in (
            ("bins", [n for n in sizes for _ in range(n)]),
            ("index", [i for n in sizes for i in range(n)]),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def _weights(self, length: int, like: Tensor) -> Tensor:
        """The averaging weights of all positions along one axis for each bin of each grid: (length, bins)."""
        position = torch.arange(length, device=like.device).unsqueeze(1)
        starts = (position + 1) * self.bins > self.index * length
        ends = position * self.bins < (self.index + 1) * length
        inside = (starts & ends).to(like.dtype)
        return inside / inside.sum(0, keepdim=True)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of rows and of columns for maps of x's size; make them once to pool several maps."""
        return self._weights(x.shape[2], x), self._weights(x.shape[3], x)

    def forward(self, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Pool one map, with weights from `weights` where they were made."""
        rows, columns = self.weights(x) if weights is None else weights
        crossed = torch.matmul(torch.matmul(x, columns).transpose(2, 3), rows)
        grids, start = [], 0
        for n in self.sizes:
            grids.append(crossed[:, :, start : start + n, start : start + n].flatten(2))
            start += n
        return torch.cat(grids, 2)
