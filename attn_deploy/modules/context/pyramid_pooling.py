"""Pyramid pooling module of PSPNet.

Paper: Pyramid Scene Parsing Network, CVPR 2017, arXiv:1612.01105.
Official: hszhao/semseg, model/pspnet.py.
Export: AdaptiveAvgPool2d(n) is refused by one exporter and baked to the traced size by the other. Here the averaging
    matrices of all bins, stacked, multiply the rows in one product, so the map is read once; a second small product
    pools the columns. The one-cell bin is broadcast back, not resized. Equal up to rounding.
Deviations: many collections leave out BatchNorm, ReLU and the channel reduction, or resize with align_corners=False.
Limits: training needs a batch above 1 where bins holds 1 (BatchNorm on one value); inference has no such limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import averaging_matrix, check_channels, conv_bn_relu, require_positive, resize_bilinear
from attn_deploy.registry import register


@register("psp", aliases=("ppm", "pspmodule", "pyramid_pooling"), parameters=4224)
class PyramidPoolingModule(nn.Module):
    """Appends averages of the map over grids of several sizes, each reduced by a 1x1 convolution and resized back.

    Shape: (N, C, H, W) -> (N, C + len(bins) * reduced_channels, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduced_channels: width of each level; None is C // len(bins).
        bins: cells along each side of the grids.

    Raises:
        ValueError: if bins is empty or holds a number below 1, or the levels would have less than 1 channel.
    """

    def __init__(
        self, channels: int, *, reduced_channels: int | None = None, bins: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        if not bins:
            raise ValueError("bins must hold at least one grid size, got none: use bins=(1, 2, 3, 6).")
        for cells in bins:
            require_positive(bins=cells)
        if reduced_channels is None:
            reduced_channels = channels // len(bins)
            if reduced_channels < 1:
                raise ValueError(
                    f"channels // len(bins) must be at least 1, got channels={channels} and {len(bins)} bins: "
                    f"use at most {channels} bins, or give reduced_channels."
                )
        require_positive(reduced_channels=reduced_channels)
        self.channels = channels
        self.bins = tuple(bins)
        self.levels = nn.ModuleList(conv_bn_relu(channels, reduced_channels) for _ in bins)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official levels are Sequentials that begin with the pool, at index 0."""
        renamed = {}
        for key, value in state.items():
            _, level, index, *rest = key.split(".")
            renamed[".".join(("levels", level, str(int(index) - 1), *rest))] = value
        return renamed

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "PyramidPoolingModule")
        height, width = x.shape[2], x.shape[3]
        down = torch.cat([averaging_matrix(cells, height, x) for cells in self.bins])
        rows = torch.matmul(down, x)
        maps, first = [x], 0
        for cells, level in zip(self.bins, self.levels, strict=True):
            across = averaging_matrix(cells, width, x)
            pooled = torch.matmul(rows[:, :, first : first + cells], across.transpose(0, 1))
            first += cells
            y = level(pooled)
            y = y.expand(-1, -1, height, width) if cells == 1 else resize_bilinear(y, height, width, align_corners=True)
            maps.append(y)
        return torch.cat(maps, 1)
