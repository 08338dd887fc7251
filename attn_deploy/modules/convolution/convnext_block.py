"""The residual blocks of ConvNeXt and ConvNeXt V2.

Paper: A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545; version 2: ConvNeXt V2: Co-designing and Scaling ConvNets
    with Masked Autoencoders, CVPR 2023, arXiv:2301.00808.
Official: facebookresearch/ConvNeXt, models/convnext.py (Block); facebookresearch/ConvNeXt-V2, models/convnextv2.py
    (Block).
Export: version 1 stays (N, H, W, C) from LayerNorm to the layer scale, as published; in version 2 both Linear layers are
    1x1 convolutions on (N, C, H, W), GRN is sums over the map, and only LayerNorm, which runtimes have over the last
    axis, stands between two permutations. Fused, LayerNorm's scale and shift are in the first 1x1
    convolution, GRN's beta and the layer scale in the second. Equal up to rounding.
Deviations: timm names the layers mlp.fc1 and mlp.fc2, and GRN's tensors weight and bias. The official networks start
    the weights from a truncated normal of 0.02; here they start as PyTorch's layers do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from attn_deploy.ops import (
    DropPath,
    Fusible,
    LayerNormOverChannels,
    ResponseNorm,
    check_channels,
    require_choice,
    require_odd,
    require_positive,
    scale_conv_output_,
)
from attn_deploy.ops.bounded import in_half_range
from attn_deploy.registry import register


@register(
    "convnextv2_block",
    aliases=("convnextv2", "convnext_block_v2"),
    reference={"channels": 64, "version": 2},
    parameters=36928,
    summary="Mixes space by a depthwise 7x7 and channels by a widened pair of layers with global response normalisation.",
)
@register("convnext_block", aliases=("convnext", "convnextv1_block"), parameters=36480)
class ConvNeXtBlock(Fusible, nn.Module):
    """Mixes space by a large depthwise convolution and channels by a widened pair of 1x1 layers, around a skip.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: of the depthwise convolution.
        expansion: factor by which the middle of the pair is wider than C.
        layer_scale_init_value: what the factor on the branch starts at; 0 or None leaves it out. Version 1 only.
        version: 1, or 2 for global response normalisation in the middle of the pair.
        drop_path: share of the samples whose branch is left out in training.

    Raises:
        ValueError: if kernel_size is even, a number is below its least, drop_path is not a rate, or version is unknown.
    """

    official_keys = {"grn": "response"}

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        expansion: int = 4,
        layer_scale_init_value: float | None = 1e-6,
        version: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, expansion=expansion)
        require_odd(kernel_size=kernel_size)
        require_choice("version", version, (1, 2))
        self.channels = channels
        width = channels * expansion
        scaled = version == 1 and bool(layer_scale_init_value)
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale_init_value or 0))) if scaled else None
        self.dwconv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = LayerNormOverChannels(channels)
        self.pwconv1 = nn.Conv2d(channels, width, 1)
        self.act = nn.GELU()
        self.response = ResponseNorm(width) if version == 2 else None
        self.pwconv2 = nn.Conv2d(width, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ConvNeXtBlock")
        y = self.dwconv(x)
        if self.response is None and not in_half_range(y):
            return x + self.drop_path(self._channels_last(y))
        y = self.act(self.pwconv1(self.norm(y)))
        if self.response is not None:
            y = self.response(y)
        y = self.pwconv2(y)
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        return x + self.drop_path(y)

    def _channels_last(self, x: Tensor) -> Tensor:
        """From LayerNorm to the layer scale between two permutations: products with a bias and GELU are one kernel."""
        y = layer_norm(x.permute(0, 2, 3, 1), (self.channels,), self.norm.weight, self.norm.bias, self.norm.eps)
        y = self.act(linear(y, self.pwconv1.weight.flatten(1), self.pwconv1.bias))
        y = linear(y, self.pwconv2.weight.flatten(1), self.pwconv2.bias)
        return (y if self.gamma is None else y * self.gamma).permute(0, 3, 1, 2)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold LayerNorm's scale and shift into the first 1x1 convolution, GRN's beta and the layer scale into the second."""
        if self.norm.weight is None:
            return None
        self.norm.fold_into_(self.pwconv1)
        if self.response is not None:
            self.response.move_beta_(self.pwconv2)
        if self.gamma is not None:
            scale_conv_output_(self.pwconv2, self.gamma)
            self.gamma = None
        return "folded the affine parts of the normalisations and the layer scale into the 1x1 convolutions"
