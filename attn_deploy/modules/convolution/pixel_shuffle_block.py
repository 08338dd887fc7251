"""Sub-pixel convolution and its inverse: channels to positions after a convolution, positions to channels before one.

Paper: Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network,
    CVPR 2016, arXiv:1609.05158.
Official: pytorch/pytorch, torch.nn.PixelShuffle and PixelUnshuffle, each with a convolution.
Export: PixelShuffle is DepthToSpace in mode CRD. ONNX's SpaceToDepth has another channel order than PixelUnshuffle, which
    is reshaped and permuted; fused, it is gone: with the convolution after it, it is one convolution of kernel
    scale * k and stride scale. Equal up to rounding.
Limits: pixel_unshuffle_block needs H and W that are multiples of scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_odd, require_positive
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}


@register(
    "pixel_shuffle_block",
    aliases=("pixel_shuffle", "sub_pixel_conv", "espcn"),
    reference=_REFERENCE,
    parameters=147712,
)
class PixelShuffleBlock(nn.Module):
    """Makes scale * scale values for each position by a convolution and lays them out as a larger map.

    Shape: (N, C_in, H, W) -> (N, C_out, scale * H, scale * W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        scale: factor by which the map grows.
        kernel_size: of the convolution.
        icnr: whether the scale * scale filters of an output channel start equal, which leaves no checkerboard.

    Raises:
        ValueError: if kernel_size is even, or a number is below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 3, icnr: bool = False
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, scale=scale)
        require_odd(kernel_size=kernel_size)
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels, out_channels * scale * scale, kernel_size, padding=kernel_size // 2)
        self.shuffle = nn.PixelShuffle(scale)
        if icnr:
            with torch.no_grad():
                first = self.conv.weight[:: scale * scale]
                self.conv.weight.copy_(first.repeat_interleave(scale * scale, 0))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "PixelShuffleBlock")
        return self.shuffle(self.conv(x))


@register(
    "pixel_unshuffle_block",
    aliases=("pixel_unshuffle",),
    reference=_REFERENCE,
    parameters=147520,
    multiple={"H": "scale", "W": "scale"},
)
class PixelUnshuffleBlock(Fusible, nn.Module):
    """Lays the positions of each scale x scale square out as channels and convolves the smaller map.

    Shape: (N, C_in, H, W) -> (N, C_out, H / scale, W / scale); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        scale: factor by which the map shrinks.
        kernel_size: of the convolution.

    Raises:
        ValueError: if kernel_size is even, a number is below 1, or H or W is no multiple of scale.
    """

    def __init__(self, in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 3) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, scale=scale)
        require_odd(kernel_size=kernel_size)
        self.in_channels, self.scale, self.merged = in_channels, scale, False
        self.conv = nn.Conv2d(in_channels * scale * scale, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "PixelUnshuffleBlock")
        require_multiple_size(x, self.scale, "PixelUnshuffleBlock")
        return self.conv(x if self.merged else F.pixel_unshuffle(x, self.scale))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One convolution of stride scale, whose kernel holds the weights of a position's channels where it lies."""
        if self.merged or self.scale == 1:
            return None
        small, scale = self.conv, self.scale
        kernel_size = small.kernel_size[0]
        conv = nn.Conv2d(
            self.in_channels, small.out_channels, scale * kernel_size, scale, padding=scale * (kernel_size // 2)
        )
        by_place = small.weight.reshape(-1, self.in_channels, scale, scale, kernel_size, kernel_size)
        conv.weight = nn.Parameter(by_place.permute(0, 1, 4, 2, 5, 3).reshape(conv.weight.shape).clone())
        conv.bias = nn.Parameter(small.bias.detach().clone())
        self.conv, self.merged = conv, True
        return "merged the rearrangement into the convolution"
