"""Large Separable Kernel Attention, alone and between two projections.

Paper: Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN, Expert Systems with
    Applications 2024, arXiv:2309.01439.
Official: StevenLauHKHK/Large-Separable-Kernel-Attention, models/van.py (LSKA, Attention).
Export: Conv, GELU, Mul and Add; nothing had to be replaced.
Limits: the gate has no sigmoid, so the product of two unbounded maps can leave the range of fp16 in a trained network
    with large activations; keep that product in fp32 there.
Deviations: a kernel size outside the paper's table is refused, where the official code builds no convolution and fails
    in forward.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.modules.attention.lka import ProjectedGate
from attn_deploy.ops import check_channels, fan_out_normal_, require_choice, require_positive
from attn_deploy.registry import register

# Size of the window: first kernel, dilated kernel, dilation.
KERNELS = {7: (3, 3, 2), 11: (3, 5, 2), 23: (5, 7, 3), 35: (5, 11, 3), 41: (5, 13, 3), 53: (5, 17, 3)}
_REFERENCE = {"channels": 64, "kernel_size": 23}


@register("lska", aliases=("large_separable_kernel_attention",), reference=_REFERENCE, parameters=5952)
class LSKA(nn.Module):
    """Multiplies a map by itself as seen through a large window, which row and column convolutions span.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: side of the window: 7, 11, 23, 35, 41 or 53.

    Raises:
        ValueError: if channels < 1, or kernel_size is another.
    """

    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_choice("kernel_size", kernel_size, KERNELS)
        self.channels = channels
        near, far, dilation = KERNELS[kernel_size]

        def strip(kernel: tuple[int, int], dilation: int = 1) -> nn.Conv2d:
            padding = tuple(dilation * (k - 1) // 2 for k in kernel)
            return nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels)

        self.conv0h, self.conv0v = strip((1, near)), strip((near, 1))
        self.conv_spatial_h, self.conv_spatial_v = strip((1, far), dilation), strip((far, 1), dilation)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        fan_out_normal_(self.children())

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "LSKA")
        y = self.conv_spatial_v(self.conv_spatial_h(self.conv0v(self.conv0h(x))))
        return x * self.conv1(y)


@register("lska_attention", reference=_REFERENCE, parameters=14272)
class LSKAAttention(ProjectedGate):
    """Large separable kernel attention between two 1x1 convolutions, with a shortcut around all.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: side of the window: 7, 11, 23, 35, 41 or 53.

    Raises:
        ValueError: if channels < 1, or kernel_size is another.
    """

    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__(channels, LSKA(channels, kernel_size=kernel_size))
