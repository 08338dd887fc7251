"""Strip Pooling.

Paper: Strip Pooling: Rethinking Spatial Pooling for Scene Parsing, CVPR 2020, arXiv:2003.13328.
Official: Andrew-Qibin/SPNet, models/customize.py (StripPooling).
Export: strips are means that broadcasting spreads again, and the square pools are products with averaging matrices. The
    usual adaptive pools are exported with the traced size baked in: wrong numbers at every other size, without a word.
    Equal up to rounding. Fusing folds every BatchNorm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    adaptive_avg_pool2d,
    check_channels,
    conv_bn_relu,
    require_positive,
    require_reduced,
    resize_bilinear,
)
from attn_deploy.registry import register


@register("strip_pooling", aliases=("spm", "mixed_pooling_module"), parameters=17568)
class StripPooling(nn.Module):
    """Sees the map through square pools, and through one-row and one-column strips, and adds what it sees.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C; a quarter of them, rounded down, is used inside.
        pool_size: sides of the two square pools; they may exceed the map.
        align_corners: convention of the bilinear up-sampling.

    Raises:
        ValueError: if channels < 4, or pool_size does not hold two sizes of at least 1.
    """

    def __init__(self, channels: int, *, pool_size: Sequence[int] = (20, 12), align_corners: bool = True) -> None:
        super().__init__()
        width = require_reduced(channels, 4)
        if len(pool_size) != 2:
            raise ValueError(f"pool_size must hold 2 sizes, got {pool_size!r}: use (20, 12).")
        require_positive(**{f"pool_size[{i}]": size for i, size in enumerate(pool_size)})
        self.channels = channels
        self.pool_size = tuple(pool_size)
        self.align_corners = align_corners
        self.conv1_1 = conv_bn_relu(channels, width)
        self.conv1_2 = conv_bn_relu(channels, width)
        self.conv2_0 = conv_bn_relu(width, width, 3, relu=False)
        self.conv2_1 = conv_bn_relu(width, width, 3, relu=False)
        self.conv2_2 = conv_bn_relu(width, width, 3, relu=False)
        self.conv2_3 = conv_bn_relu(width, width, (1, 3), relu=False)
        self.conv2_4 = conv_bn_relu(width, width, (3, 1), relu=False)
        self.conv2_5 = conv_bn_relu(width, width, 3)
        self.conv2_6 = conv_bn_relu(width, width, 3)
        self.conv3 = conv_bn_relu(2 * width, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "StripPooling")
        squares, strips = self.conv1_1(x), self.conv1_2(x)
        seen = self.conv2_0(squares)
        for size, conv in zip(self.pool_size, (self.conv2_1, self.conv2_2), strict=True):
            pooled = conv(adaptive_avg_pool2d(squares, size))
            seen = seen + resize_bilinear(pooled, x.shape[2], x.shape[3], align_corners=self.align_corners)
        along_width = self.conv2_3(strips.mean(2, keepdim=True))
        along_height = self.conv2_4(strips.mean(3, keepdim=True))
        crossed = self.conv2_6((along_height + along_width).relu())
        return (x + self.conv3(torch.cat([self.conv2_5(seen.relu()), crossed], 1))).relu()
