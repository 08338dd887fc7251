"""InceptionNeXt: a large depthwise kernel split into a small square one and two bands, and the block around it.

Paper: InceptionNeXt: When Inception Meets ConvNeXt, CVPR 2024, arXiv:2303.16900.
Official: sail-sg/inceptionnext, models/inceptionnext.py (InceptionDWConv2d, MetaNeXtBlock).
Export: nothing had to be replaced. Fused, the BatchNorm before the first 1x1 convolution is folded into it, which is
    exact because it does not pad, and the layer scale into the second. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    DropPath,
    Fusible,
    activation,
    check_channels,
    fold_bn_before_conv,
    require_odd,
    require_positive,
    scale_conv_output_,
)
from attn_deploy.registry import register


@register("inception_dwconv", aliases=("inception_dwconv2d", "inception_depthwise_conv"), parameters=272)
class InceptionDWConv2d(nn.Module):
    """Filters one share of the channels by a square kernel, two by bands along W and H, and lets the rest pass.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        square_kernel_size: of the square kernel.
        band_kernel_size: length of the bands.
        branch_ratio: share of the channels that each of the three kernels filters.

    Raises:
        ValueError: if a share has no channel, the three exceed C, or a kernel size is even.
    """

    def __init__(
        self,
        channels: int,
        *,
        square_kernel_size: int = 3,
        band_kernel_size: int = 11,
        branch_ratio: float = 0.125,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_odd(square_kernel_size=square_kernel_size, band_kernel_size=band_kernel_size)
        width = int(channels * branch_ratio)
        if width < 1 or 3 * width > channels:
            raise ValueError(
                f"int(channels * branch_ratio) must be at least 1 and at most channels // 3, got channels={channels} and "
                f"branch_ratio={branch_ratio}: use a branch_ratio from {1 / channels:.3g} to 1/3."
            )
        self.channels = channels
        self.widths = (channels - 3 * width, width, width, width)
        square, band = square_kernel_size, band_kernel_size
        self.dwconv_hw = nn.Conv2d(width, width, square, padding=square // 2, groups=width)
        self.dwconv_w = nn.Conv2d(width, width, (1, band), padding=(0, band // 2), groups=width)
        self.dwconv_h = nn.Conv2d(width, width, (band, 1), padding=(band // 2, 0), groups=width)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "InceptionDWConv2d")
        kept, square, along_w, along_h = torch.split(x, self.widths, 1)
        parts = (kept, self.dwconv_hw(square), self.dwconv_w(along_w), self.dwconv_h(along_h))
        return torch.cat(parts if self.widths[0] else parts[1:], 1)


@register("inception_next_block", aliases=("inceptionnext", "metanext_block"), parameters=33552)
class InceptionNeXtBlock(Fusible, nn.Module):
    """Mixes space by an inception depthwise convolution and channels by a widened pair of 1x1 layers, around a skip.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        mlp_ratio: factor by which the middle of the pair is wider than C.
        act: "gelu", "relu", "relu6", "silu" or "hardswish".
        layer_scale_init_value: what the factor on the branch starts at; 0 or None leaves it out.
        square_kernel_size: of the square kernel.
        band_kernel_size: length of the bands.
        branch_ratio: share of the channels that each of the three kernels filters.
        drop_path: share of the samples whose branch is left out in training.

    Raises:
        ValueError: if a share has no channel, the three exceed C, a kernel size is even, act is unknown, the middle has no
            channel, or drop_path is not a rate.
    """

    official_keys = {"mlp.fc1": "fc1", "mlp.fc2": "fc2"}

    def __init__(
        self,
        channels: int,
        *,
        mlp_ratio: float = 4,
        act: str = "gelu",
        layer_scale_init_value: float | None = 1e-6,
        square_kernel_size: int = 3,
        band_kernel_size: int = 11,
        branch_ratio: float = 0.125,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        width = int(mlp_ratio * channels)
        if width < 1:
            raise ValueError(
                f"mlp_ratio * channels must be at least 1, got mlp_ratio={mlp_ratio} and channels={channels}: use a "
                "larger mlp_ratio, such as 4."
            )
        self.channels = channels
        value = float(layer_scale_init_value or 0)
        self.gamma = nn.Parameter(torch.full((channels,), value)) if value else None
        self.token_mixer = InceptionDWConv2d(
            channels,
            square_kernel_size=square_kernel_size,
            band_kernel_size=band_kernel_size,
            branch_ratio=branch_ratio,
        )
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.act = activation(act)
        self.fc2 = nn.Conv2d(width, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "InceptionNeXtBlock")
        y = self.fc2(self.act(self.fc1(self.norm(self.token_mixer(x)))))
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        return x + self.drop_path(y)

    def fuse_(self) -> str | None:
        """Fold BatchNorm into the first 1x1 convolution and the layer scale into the second."""
        if isinstance(self.norm, nn.Identity):
            return None
        self.fc1 = fold_bn_before_conv(self.norm, self.fc1)
        self.norm = nn.Identity()
        if self.gamma is not None:
            scale_conv_output_(self.fc2, self.gamma)
            self.gamma = None
        return "folded BatchNorm and the layer scale into the 1x1 convolutions"
