"""Large Selective Kernel block, alone and between two projections as in LSKNet.

Paper: Large Selective Kernel Network for Remote Sensing Object Detection, ICCV 2023, arXiv:2303.09030.
Official: zcablii/LSKNet, mmrotate/models/backbones/lsknet.py (LSKblock, Attention).
Export: the maximum over channels is amax, which has no index output, and both selections are slices. Equal bit for bit.
Limits: the gate has no sigmoid at its end, so the product of two unbounded maps can leave the range of fp16 in a
    trained network with large activations; keep that product in fp32 there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.modules.attention.lka import ProjectedGate
from attn_deploy.ops import check_channels, require_positive
from attn_deploy.registry import register


@register("lsk", aliases=("lsk_block", "large_selective_kernel", "lsk_module"), parameters=11334)
class LSK(nn.Module):
    """Multiplies a map by what a small and a large window see, weighed against each other at each position.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C, even: each window gives half of them.

    Raises:
        ValueError: if channels is odd.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        if channels % 2:
            raise ValueError(
                f"channels must be even, got {channels}: each window gives half of them; use {channels + 1}."
            )
        self.channels = channels
        half = channels // 2
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, half, 1)
        self.conv2 = nn.Conv2d(channels, half, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "LSK")
        near = self.conv0(x)
        far = self.conv2(self.conv_spatial(near))
        near = self.conv1(near)
        both = torch.cat([near, far], 1)
        summary = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], 1)
        selection = self.conv_squeeze(summary).sigmoid()
        return x * self.conv(near * selection[:, :1] + far * selection[:, 1:])


@register("lsk_attention", aliases=("lsknet_attention",), parameters=19654)
class LSKAttention(ProjectedGate):
    """The large selective kernel block between two 1x1 convolutions, with a shortcut around all.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C, even.

    Raises:
        ValueError: if channels is odd.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, LSK(channels))
