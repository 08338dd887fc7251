"""Space-to-depth and the convolution behind it that replace strided convolutions and pooling; YOLO's Focus.

Paper: No More Strided Convolutions or Pooling: A New CNN Building Block for Low-Resolution Images and Small Objects,
    ECML PKDD 2022, arXiv:2208.03641.
Official: LabSAINT/SPD-Conv, YOLOv5-SPD/models/common.py (space_to_depth, Conv); ultralytics/yolov5, models/common.py (Focus),
    the same function.
Export: four strided slices and a Concat, which both exporters get right. Fused, slices, convolution and BatchNorm are one
    convolution of twice the kernel and stride 2. Equal.
Deviations: blocks of channels come in the official order, q = row + 2 * column; torch.nn.PixelUnshuffle and ONNX
    SpaceToDepth have others. YOLO trains with BatchNorm eps 1e-3: give bn_eps for such checkpoints.
Limits: H and W must be even, which the official code needs too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    ConvNormAct,
    Fusible,
    activation,
    check_channels,
    require_activation,
    require_odd,
    require_positive,
)
from attn_deploy.ops.branch_merging import folded_kernel
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.registry import register

BLOCKS = ((0, 0), (1, 0), (0, 1), (1, 1))  # row and column of each block of channels
_EVEN = {"H": 2, "W": 2}


@register("space_to_depth", aliases=("spd",), parameters=0, multiple=_EVEN)
class SpaceToDepth(nn.Module):
    """Moves each 2x2 window of pixels into the channels.

    Shape: (N, C, H, W) -> (N, 4 * C, H / 2, W / 2); dynamic N, H, W, of which H and W are even.

    Args:
        channels: C; checked against the input.

    Raises:
        ValueError: if channels is below 1, or, at the call, H or W is odd.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SpaceToDepth")
        require_multiple_size(x, 2, "SpaceToDepth")
        return torch.cat([x[:, :, row::2, column::2] for row, column in BLOCKS], 1)


@register(
    "spd_conv",
    aliases=("focus",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=147584,
    multiple=_EVEN,
)
class SPDConv(Fusible, nn.Module):
    """Moves each 2x2 window of pixels into the channels and convolves the smaller map, with BatchNorm and activation.

    Shape: (N, C_in, H, W) -> (N, C_out, H / 2, W / 2); dynamic N, H, W, of which H and W are even.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the convolution.
        act: name of the activation, or None.
        bn_eps: of the BatchNorm.

    Raises:
        ValueError: if kernel_size is even, act is unknown, or, at the call, H or W is odd.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        act: str | None = "silu",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_odd(kernel_size=kernel_size)
        require_activation("act", act)
        self.in_channels = in_channels
        self.spd = SpaceToDepth(in_channels)
        self.conv = ConvNormAct(4 * in_channels, out_channels, kernel_size, bn_eps=bn_eps, act=None)
        self.act = activation(act)
        self.fused: nn.Conv2d | None = None

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One convolution with stride 2 that finds each block of channels at its place in the window."""
        if self.fused is not None:
            return None
        weight, bias = folded_kernel(self.conv.conv, self.conv.bn)
        small = self.conv.conv
        fused = nn.Conv2d(
            self.in_channels,
            small.out_channels,
            2 * small.kernel_size[0],
            stride=2,
            padding=2 * small.padding[0],
            device=small.weight.device,
            dtype=small.weight.dtype,
        )
        for (row, column), block in zip(BLOCKS, weight.chunk(4, 1), strict=True):
            fused.weight[:, :, row::2, column::2] = block.to(fused.weight.dtype)
        fused.bias.copy_(bias)
        self.fused = fused.eval()
        del self.conv, self.spd
        return "merged slices, convolution and BatchNorm into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SPDConv")
        require_multiple_size(x, 2, "SPDConv")
        return self.act(self.fused(x) if self.fused is not None else self.conv(self.spd(x)))
