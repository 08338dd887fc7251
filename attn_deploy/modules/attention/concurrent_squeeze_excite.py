"""Concurrent spatial and channel squeeze and excitation: cSE, sSE and both together.

Paper: Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks, MICCAI 2018,
    arXiv:1803.02579.
Official: ai-med/squeeze_and_excitation, squeeze_and_excitation/squeeze_and_excitation.py.
Export: the pooled vector is x.mean((2, 3)) and the linear layers are 1x1 convolutions on it, so no view remains. The
    two gated maps are formed before the maximum: max(x * c, x * s) is x * max(c, s) only where x >= 0.
Deviations: many U-Net collections add the two gated maps (fusion="add"); pprp drops the biases and the ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_choice, require_positive, require_reduced
from attn_deploy.registry import register


@register("cse", parameters=4192)
class ChannelSELayer(nn.Module):
    """Reweights channels by a gate computed from their global averages (reduction 2, biases on).

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the gate's hidden layer is narrower than C.

    Raises:
        ValueError: if channels // reduction < 1.
    """

    official_keys = {"fc1": "reduce", "fc2": "expand"}

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels = channels
        self.reduce = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ChannelSELayer")
        return x * self.expand(self.reduce(global_avg_pool(x)).relu()).sigmoid()


@register("sse", parameters=65)
class SpatialSELayer(nn.Module):
    """Reweights positions by a gate that one 1x1 convolution computes from their channels.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SpatialSELayer")
        return x * self.conv(x).sigmoid()


@register("scse", parameters=4257)
class ChannelSpatialSELayer(nn.Module):
    """Takes the elementwise maximum of the channel-gated and the position-gated map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the channel gate's hidden layer is narrower than C.
        fusion: "max" (official) or "add".

    Raises:
        ValueError: if channels // reduction < 1, or fusion is unknown.
    """

    official_keys = {"cSE.fc1": "channel.reduce", "cSE.fc2": "channel.expand", "sSE": "spatial"}

    def __init__(self, channels: int, *, reduction: int = 2, fusion: str = "max") -> None:
        super().__init__()
        require_choice("fusion", fusion, ("max", "add"))
        self.fusion = fusion
        self.channel = ChannelSELayer(channels, reduction=reduction)
        self.spatial = SpatialSELayer(channels)

    def forward(self, x: Tensor) -> Tensor:
        by_channel, by_position = self.channel(x), self.spatial(x)
        return torch.maximum(by_channel, by_position) if self.fusion == "max" else by_channel + by_position
