"""Lightweight non-local block of AutoNL.

Paper: Neural Architecture Search for Lightweight Non-Local Networks, CVPR 2020, arXiv:2004.01961.
Official: LiYingwei/AutoNL, model_def.py (TensorFlow 1), MnasBlock._call_non_local.
Export: always (g phi^T / HW) theta, whose cost is linear in H * W; the official code picks the order of its einsum from
    the traced sizes. The division is spread over both factors before the product, which keeps fp16 in range. Equal up
    to rounding.
Deviations: yet_another_mobilenet_series computes f / H * W, which multiplies by W where TensorFlow divides;
    port_scaling=True follows it, for checkpoints trained there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, fold_bn_into_conv, require_positive
from attn_deploy.registry import register


@register("light_nl", aliases=("autonl", "lightweight_non_local"), parameters=704)
class LightNonLocal(Fusible, nn.Module):
    """Adds a depthwise-filtered average of the map, weighted by dot products of its own leading channels.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        nl_ratio: share of the channels, the first int(nl_ratio * C), that the dot products use.
        nl_stride: step at which the map is sampled for keys and values.
        bn_eps: eps of the BatchNorm; the official 1e-3.
        bn_momentum: momentum of the BatchNorm in PyTorch's sense; the official 0.99 is 0.01 here.
        zero_init: start the BatchNorm's weight at zero, so that the block is an identity.
        port_scaling: scale by W / H instead of 1 / (H * W), as the PyTorch port does.

    Raises:
        ValueError: if nl_ratio is outside (0, 1], int(nl_ratio * channels) < 1, or nl_stride < 1.
    """

    official_keys = {"depthwise_conv": "conv"}

    def __init__(
        self,
        channels: int,
        *,
        nl_ratio: float = 1.0,
        nl_stride: int = 1,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
        zero_init: bool = True,
        port_scaling: bool = False,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, nl_stride=nl_stride)
        if not 0 < nl_ratio <= 1:
            raise ValueError(f"nl_ratio must be above 0 and at most 1, got {nl_ratio}.")
        self.width = int(nl_ratio * channels)
        if self.width < 1:
            raise ValueError(
                f"int(nl_ratio * channels) must be at least 1, got channels={channels} and nl_ratio={nl_ratio}: "
                f"use an nl_ratio of at least 1/{channels}."
            )
        self.channels = channels
        self.nl_stride = nl_stride
        self.port_scaling = port_scaling
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(channels, eps=bn_eps, momentum=bn_momentum)
        if zero_init:
            nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "LightNonLocal")
        theta = x[:, : self.width]
        g = x if self.nl_stride == 1 else x[:, :, :: self.nl_stride, :: self.nl_stride]
        phi = g[:, : self.width] / x.shape[2]
        g = g * x.shape[3] if self.port_scaling else g / x.shape[3]
        mixing = torch.matmul(g.flatten(2), phi.flatten(2).transpose(1, 2))
        y = torch.matmul(mixing, theta.flatten(2)).reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])
        return x + self.bn(self.conv(y))

    def fuse_(self) -> str | None:
        """Fold the BatchNorm into the depthwise convolution."""
        if isinstance(self.bn, nn.Identity):
            return None
        self.conv = fold_bn_into_conv(self.conv, self.bn)
        self.bn = nn.Identity()
        return "folded BatchNorm into the depthwise convolution"
