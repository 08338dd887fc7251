"""Efficient Channel Attention, shared (ECA) and non-shared (ECA-NS) kernels.

Paper: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020, arXiv:1910.03151.
Official: BangguWu/ECANet, models/eca_module.py (eca_layer) and models/eca_ns.py.
Export: the pooled vector stays four-dimensional: transposed to (N, 1, C, 1) it goes through a (k, 1) convolution along
    the channels, so squeeze, unsqueeze and expand_as are gone. ECA-NS cuts its windows with a convolution by the
    identity matrix instead of unfold. Both equal up to rounding.
Deviations: External-Attention gives the convolution a bias; timm derives the kernel size from the channel count, with a
    least size of 3 (kernel_size=None here has no such least); timm's CecaModule pads circularly and is another module.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_odd, require_positive
from attn_deploy.registry import register


def adaptive_kernel_size(channels: int) -> int:
    """The paper's kernel size for a channel count (gamma 2, b 1): the odd integer at or above (log2 C + 1) / 2."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


def _kernel_size(channels: int, kernel_size: int | None) -> int:
    require_positive(channels=channels)
    if kernel_size is None:
        return adaptive_kernel_size(channels)
    require_odd(kernel_size=kernel_size)
    return kernel_size


@register("eca", aliases=("eca_layer", "eca_net", "efficient_channel_attention"), parameters=3)
class ECA(nn.Module):
    """Gates each channel by a short convolution over the global averages of its neighbour channels.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: neighbours that a channel's gate sees, odd; None derives it from C as the paper does.

    Raises:
        ValueError: if channels is below 1, or kernel_size is even or below 1.
    """

    def __init__(self, channels: int, *, kernel_size: int | None = 3) -> None:
        super().__init__()
        size = _kernel_size(channels, kernel_size)
        self.channels = channels
        self.conv = nn.Conv2d(1, 1, (size, 1), padding=(size // 2, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ECA")
        pooled = global_avg_pool(x).transpose(1, 2)
        return x * self.conv(pooled).transpose(1, 2).sigmoid()


@register("eca_ns", parameters=192)
class ECANonShared(nn.Module):
    """ECA in which every channel has a kernel of its own.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: neighbours that a channel's gate sees, odd; None derives it from C as the paper does.

    Raises:
        ValueError: if channels is below 1, or kernel_size is even or below 1.
    """

    official_keys = {"conv.weight": "weight"}
    windows: Tensor

    def __init__(self, channels: int, *, kernel_size: int | None = 3) -> None:
        super().__init__()
        size = _kernel_size(channels, kernel_size)
        self.channels = channels
        self.kernel_size = size
        self.weight = nn.Parameter(torch.empty(channels, 1, size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_buffer("windows", torch.eye(size).reshape(size, 1, size, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ECANonShared")
        pooled = global_avg_pool(x).transpose(1, 2)
        neighbours = F.conv2d(pooled, self.windows, padding=(self.kernel_size // 2, 0))
        weight = self.weight.permute(1, 2, 0).unsqueeze(3)
        return x * (neighbours * weight).sum(1, keepdim=True).transpose(1, 2).sigmoid()
