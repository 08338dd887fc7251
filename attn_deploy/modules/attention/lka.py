"""Large Kernel Attention, alone and between two projections as in the Visual Attention Network.

Paper: Visual Attention Network, Computational Visual Media 2023, arXiv:2202.09741.
Official: Visual-Attention-Network/VAN-Classification, models/van.py (LKA, Attention).
Export: Conv, GELU, Mul and Add; nothing had to be replaced.
Limits: the gate has no sigmoid, so the product of two unbounded maps can leave the range of fp16 in a trained network
    with large activations; keep that product in fp32 there. The two depthwise convolutions cannot be merged exactly:
    the second one pads the output of the first with zeros.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, fan_out_normal_, require_positive
from attn_deploy.registry import register


@register("lka", aliases=("large_kernel_attention",), parameters=9024)
class LKA(nn.Module):
    """Multiplies a map by itself as seen through a 21x21 window, which three small convolutions span.

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
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        fan_out_normal_(self.children())

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "LKA")
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class ProjectedGate(nn.Module):
    """A gating unit between two 1x1 convolutions, with a shortcut around all: the attention of VAN and its successors.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        gating_unit: keeps the shape of its input.
    """

    def __init__(self, channels: int, gating_unit: nn.Module) -> None:
        super().__init__()
        self.channels = channels
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = gating_unit
        self.proj_2 = nn.Conv2d(channels, channels, 1)
        fan_out_normal_([self.proj_1, self.proj_2])

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, type(self).__name__)
        return self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x)))) + x


@register("lka_attention", aliases=("van_attention",), parameters=17344)
class LKAAttention(ProjectedGate):
    """Large kernel attention between two 1x1 convolutions, with a shortcut around all.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, LKA(channels))
