"""Context Anchor Attention.

Paper: Poly Kernel Inception Network for Remote Sensing Detection, CVPR 2024, arXiv:2403.06258.
Official: NUST-Machine-Intelligence-Laboratory/PKINet, mmrotate/models/backbones/pkinet.py (CAA).
Export: AveragePool of a fixed window, Conv and Sigmoid; nothing had to be replaced. Fusing folds both BatchNorms.
Deviations: as officially, the output is the factor, which the PKI block multiplies with another map; the copies in YOLO
    forks return the product with the input (multiply=True). PKINet itself builds it with norm=False, act=None and kernels
    of 11 + 2 i in block i.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_odd, require_positive
from attn_deploy.registry import register


@register("caa", aliases=("context_anchor_attention",), parameters=9984)
class ContextAnchorAttention(nn.Module):
    """Computes a gate for each value from local averages seen through a long row and a long column.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        h_kernel_size: length of the row.
        v_kernel_size: length of the column.
        norm: whether a BatchNorm follows both 1x1 convolutions; without it they have a bias.
        act: "silu" after both 1x1 convolutions, or None.
        multiply: whether the output is the input times the gate; otherwise it is the gate.

    Raises:
        ValueError: if a kernel size is even, or act is another.
    """

    official_keys = {
        "conv1.conv": "conv1.0",
        "conv1.bn": "conv1.1",
        "h_conv.conv": "h_conv",
        "v_conv.conv": "v_conv",
        "conv2.conv": "conv2.0",
        "conv2.bn": "conv2.1",
    }

    def __init__(
        self,
        channels: int,
        *,
        h_kernel_size: int = 11,
        v_kernel_size: int = 11,
        norm: bool = True,
        act: str | None = "silu",
        multiply: bool = False,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_odd(h_kernel_size=h_kernel_size, v_kernel_size=v_kernel_size)
        require_choice("act", act, ("silu", None))
        self.channels, self.multiply = channels, multiply

        def point() -> nn.Sequential:
            layer = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=not norm))
            if norm:
                layer.append(nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03))
            if act is not None:
                layer.append(nn.SiLU())
            return layer

        self.avg_pool = nn.AvgPool2d(7, 1, 3)
        self.conv1 = point()
        self.h_conv = nn.Conv2d(
            channels, channels, (1, h_kernel_size), padding=(0, h_kernel_size // 2), groups=channels
        )
        self.v_conv = nn.Conv2d(
            channels, channels, (v_kernel_size, 1), padding=(v_kernel_size // 2, 0), groups=channels
        )
        self.conv2 = point()

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ContextAnchorAttention")
        gate = self.conv2(self.v_conv(self.h_conv(self.conv1(self.avg_pool(x))))).sigmoid()
        return x * gate if self.multiply else gate
