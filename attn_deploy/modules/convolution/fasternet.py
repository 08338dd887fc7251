"""Partial convolution and the block of FasterNet around it.

Paper: Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks, CVPR 2023, arXiv:2303.03667.
Official: JierunChen/FasterNet, models/fasternet.py (Partial_conv3, MLPBlock).
Export: Slice, Conv and Concat, as the official split_cat; the official inference form writes into a copy, which exports as a
    chain of scatters. Fused, the block's BatchNorm and layer scale are in its 1x1 convolutions. Equal.
Deviations: not the partial convolution of image inpainting, which has the same name. The official MLPBlock has the partial
    convolution's form and the norm and activation layers as arguments; here the form is fixed and the norm is BatchNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    DropPath,
    Fusible,
    activation,
    check_channels,
    fold_sequential,
    require_activation,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


@register("pconv", aliases=("partial_conv", "partial_conv3"), parameters=2304)
class PartialConv(nn.Module):
    """Convolves the first channels and hands the others on as they are.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        n_div: the first channels // n_div channels are convolved.
        kernel_size: of the convolution, which is padded to keep the size.

    Raises:
        ValueError: if channels // n_div < 1, or kernel_size is even.
    """

    official_keys = {"partial_conv3": "conv"}

    def __init__(self, channels: int, *, n_div: int = 4, kernel_size: int = 3) -> None:
        super().__init__()
        require_positive(channels=channels, n_div=n_div)
        require_odd(kernel_size=kernel_size)
        if channels // n_div < 1:
            raise ValueError(
                f"channels // n_div must be at least 1, got channels={channels} and n_div={n_div}: use an n_div of at "
                f"most {channels}."
            )
        self.channels = channels
        self.convolved = channels // n_div
        self.conv = nn.Conv2d(self.convolved, self.convolved, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "PartialConv")
        if self.convolved == self.channels:
            return self.conv(x)
        return torch.cat([self.conv(x[:, : self.convolved]), x[:, self.convolved :]], 1)


@register("fasternet_block", aliases=("fasternet", "faster_block"), parameters=18944)
class FasterNetBlock(Fusible, nn.Module):
    """Adds to the map a partial convolution and two 1x1 convolutions of it, with an activation in between.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        n_div: the first channels // n_div channels take part in the 3x3 convolution.
        mlp_ratio: width between the 1x1 convolutions, int(C * mlp_ratio).
        act: name of the activation.
        layer_scale_init_value: what the learned scale of the branch starts at; 0 leaves the scale out.
        drop_path: probability with which training leaves the branch of a sample out.

    Raises:
        ValueError: if channels // n_div or int(channels * mlp_ratio) is below 1, act is unknown, or drop_path is not in
            [0, 1).
    """

    official_keys = {
        "spatial_mixing.partial_conv3": "spatial_mixing.conv",
    }

    def __init__(
        self,
        channels: int,
        *,
        n_div: int = 4,
        mlp_ratio: float = 2.0,
        act: str = "relu",
        layer_scale_init_value: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_activation("act", act)
        self.spatial_mixing = PartialConv(channels, n_div=n_div)
        hidden = int(channels * mlp_ratio)
        if hidden < 1:
            raise ValueError(
                f"int(channels * mlp_ratio) must be at least 1, got channels={channels} and mlp_ratio={mlp_ratio}: use "
                "a larger mlp_ratio."
            )
        self.channels, self.drop_path = channels, DropPath(drop_path)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            activation(act),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.layer_scale: nn.Parameter | None = None
        if layer_scale_init_value > 0:
            self.layer_scale = nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorm, and the layer scale into the last convolution."""
        folds = fold_sequential(self.mlp)
        if self.layer_scale is None:
            return "folded the BatchNorm" if folds else None
        scale = self.layer_scale.double().reshape(-1, 1, 1, 1)
        self.mlp[3].weight.copy_(self.mlp[3].weight.double() * scale)
        self.layer_scale = None
        return "folded the BatchNorm and the layer scale"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "FasterNetBlock")
        branch = self.mlp(self.spatial_mixing(x))
        if self.layer_scale is not None:
            branch = branch * self.layer_scale.reshape(-1, 1, 1)
        return x + self.drop_path(branch)
