"""Involution: a kernel for each position, shared by a group of channels.

Paper: Involution: Inverting the Inherence of Convolution for Visual Recognition, CVPR 2021, arXiv:2103.06255.
Official: d-li14/involution, cls/mmcls/models/utils/involution_naive.py; the CUDA class computes the same.
Export: unfold is a depthwise convolution with a one-hot kernel, and sizes are read once. Equal up to rounding. Fusing
    folds the BatchNorm.
Limits: the windows take kernel_size ** 2 * C values for each position.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    check_channels,
    conv_bn_relu,
    require_divisible,
    require_odd,
    require_positive,
    require_reduced,
)
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register


@register("involution", parameters=4388, multiple={"H": "stride", "W": "stride"})
class Involution(nn.Module):
    """Sums each position's window under weights computed from the position itself.

    Shape: (N, C, H, W) -> (N, C, H / stride, W / stride); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: k of the window.
        stride: step of the window; H and W are multiples of it.
        reduction: factor by which the hidden layer of the weights is narrower than C.
        group_channels: channels that share one kernel.

    Raises:
        ValueError: if group_channels does not divide channels, channels // reduction < 1, kernel_size is even, or H or W
            is not a multiple of stride.
    """

    official_keys = {"conv1.conv": "reduce.0", "conv1.bn": "reduce.1", "conv2.conv": "span"}

    def __init__(
        self, channels: int, *, kernel_size: int = 7, stride: int = 1, reduction: int = 4, group_channels: int = 16
    ) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        require_odd(kernel_size=kernel_size)
        require_positive(stride=stride, group_channels=group_channels)
        require_divisible("channels", channels, "group_channels", group_channels)
        self.channels, self.stride, self.group_channels = channels, stride, group_channels
        self.groups, self.places = channels // group_channels, kernel_size * kernel_size
        self.reduce = conv_bn_relu(channels, width)
        self.span = nn.Conv2d(width, self.places * self.groups, 1)
        self.windows = Unfold(channels, kernel_size, stride=stride, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "Involution")
        require_multiple_size(x, self.stride, "Involution")
        weights = self.span(self.reduce(x if self.stride == 1 else F.avg_pool2d(x, self.stride, self.stride)))
        height, width = weights.shape[2], weights.shape[3]
        weights = weights.reshape(-1, self.groups, 1, self.places, height, width)
        windows = self.windows(x).reshape(-1, self.groups, self.group_channels, self.places, height, width)
        return (windows * weights).sum(3).reshape(-1, self.channels, height, width)
