"""SlimConv: recombining features that a gate and its reverse have weighted.

Paper: SlimConv: Reducing Channel Redundancy in Convolutional Neural Networks by Features Recombining, IEEE TIP 2021,
    arXiv:2003.07469.
Official: JiaxiongQ/SlimConv, SC-ResNet.py, slim_conv_3x3.
Export: fused, the gate's last layer has a second set of rows in reverse order, so no flip is left in the graph. Halves
    are slices with constant bounds. Equal up to rounding.
Limits: the output has 3 * C / 4 channels. Training needs a batch above 1 (BatchNorm on one pooled value).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    conv_bn_relu,
    global_avg_pool,
    require_divisible,
    require_positive,
    require_reduced,
)
from attn_deploy.registry import register


@register("slimconv", aliases=("slim_conv_3x3",), parameters=12484)
class SlimConv2d(Fusible, nn.Module):
    """Folds the channels in half under a gate and under the reversed gate, and convolves both to 3/4 of the channels.

    Shape: (N, C, H, W) -> (N, 3 * C / 4, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        channels: C.
        stride: step of the 3x3 convolutions.
        groups: groups of channels of the 3x3 convolutions.
        dilation: distance of the taps of the 3x3 convolutions.
        reduction: factor by which the gate's hidden layer is narrower than C.

    Raises:
        ValueError: if C is no multiple of 4, C // reduction < 1, or groups does not divide C / 2 and C / 4.
    """

    official_keys = {"fc": "gate", "conv2_1": "wide", "conv2_2": "narrow"}

    def __init__(
        self, channels: int, *, stride: int = 1, groups: int = 1, dilation: int = 1, reduction: int = 32
    ) -> None:
        super().__init__()
        hidden = require_reduced(channels, reduction)
        require_positive(stride=stride, groups=groups, dilation=dilation)
        require_divisible("channels", channels, "the fold count", 4)
        half, quarter = channels // 2, channels // 4
        require_divisible("channels // 2", half, "groups", groups)
        require_divisible("channels // 4", quarter, "groups", groups)
        self.channels, self.half_channels = channels, half
        self.gate = nn.Sequential(*conv_bn_relu(channels, hidden), nn.Conv2d(hidden, channels, 1))
        self.wide = conv_bn_relu(half, half, 3, stride=stride, dilation=dilation, groups=groups, relu=False)
        self.narrow = nn.Sequential(
            *conv_bn_relu(half, quarter),
            *conv_bn_relu(quarter, quarter, 3, stride=stride, dilation=dilation, groups=groups, relu=False),
        )
        self.mirrored = False

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Let the gate's last layer compute the reversed gate too."""
        if self.mirrored:
            return None
        last = self.gate[3]
        both = nn.Conv2d(last.in_channels, 2 * self.channels, 1, device=last.weight.device, dtype=last.weight.dtype)
        both.weight.copy_(torch.cat((last.weight, last.weight.flip(0))))
        both.bias.copy_(torch.cat((last.bias, last.bias.flip(0))))
        self.gate[3] = both
        self.mirrored = True
        return "the gate computes its reverse"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SlimConv2d")
        gate = self.gate(global_avg_pool(x)).sigmoid()
        if not self.mirrored:
            gate = torch.cat((gate, gate.flip(1)), 1)
        first, second = x[:, : self.half_channels], x[:, self.half_channels :]
        a, b, c, d = (gate[:, i * self.half_channels : (i + 1) * self.half_channels] for i in range(4))
        return torch.cat((self.wide(a * first + b * second), self.narrow(c * first + d * second)), 1)
