"""RepNCSPELAN4, the block of YOLOv9: two stages of re-parameterised cross-stage blocks whose outputs are all joined.

Paper: YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information, ECCV 2024, arXiv:2402.13616.
Official: WongKinYiu/yolov9, models/common.py (RepNCSPELAN4, RepNCSP, RepConvN); alike in ultralytics 8.4 (RepCSP,
    RepConv).
Export: the first convolution's output enters the concatenation whole and is cut once, by a slice with constant bounds.
    Equal bit for bit. Fusing merges the 3x3 and 1x1 branches into one convolution and folds every BatchNorm.
Deviations: YOLO models set BatchNorm's eps to 1e-3 after construction; give bn_eps for their checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    ConvNormAct,
    Fusible,
    add_parallel_conv_,
    check_channels,
    folded_conv,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import register


class _RepConvN(Fusible, nn.Module):
    """SiLU of the sum of a 3x3 and a 1x1 convolution, each with BatchNorm; there is no identity branch."""

    def __init__(self, channels: int, bn_eps: float) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3, act=None, bn_eps=bn_eps)
        self.conv2: nn.Module | None = ConvNormAct(channels, channels, act=None, bn_eps=bn_eps)
        self.act = nn.SiLU()

    def fuse_(self) -> str | None:
        if self.conv2 is None:
            return None
        self.conv1, self.conv2 = add_parallel_conv_(folded_conv(self.conv1), folded_conv(self.conv2)), None
        return "merged two branches into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return self.act(y if self.conv2 is None else y + self.conv2(x))


class _RepNBottleneck(nn.Module):
    """A re-parameterised and a plain 3x3 convolution with a shortcut around them."""

    def __init__(self, channels: int, bn_eps: float) -> None:
        super().__init__()
        self.cv1 = _RepConvN(channels, bn_eps)
        self.cv2 = ConvNormAct(channels, channels, 3, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class _RepNCSP(nn.Module):
    """C3 with re-parameterised bottlenecks."""

    def __init__(self, in_channels: int, out_channels: int, n: int, bn_eps: float) -> None:
        super().__init__()
        width = out_channels // 2
        self.cv1 = ConvNormAct(in_channels, width, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(in_channels, width, bn_eps=bn_eps)
        self.cv3 = ConvNormAct(2 * width, out_channels, bn_eps=bn_eps)
        self.m = nn.Sequential(*(_RepNBottleneck(width, bn_eps) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


@register(
    "repncspelan4",
    aliases=("rep_ncsp_elan4", "gelan"),
    reference={"in_channels": 64, "out_channels": 64, "c3": 64, "c4": 32},
    parameters=45376,
)
class RepNCSPELAN4(nn.Module):
    """Sends half of a map through two cross-stage blocks, one after the other, and joins both halves and both outputs.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        c3: width of both halves together.
        c4: width of each cross-stage block.
        n: bottlenecks in each cross-stage block.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if c3 is odd, c4 is below 2, or a number is below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, c3: int, c4: int, *, n: int = 1, bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, c3=c3, c4=c4, n=n)
        require_divisible("c3", c3, "the number of halves", 2)
        if c4 < 2:
            raise ValueError(f"c4 must be at least 2, got {c4}: the bottlenecks have half of it.")
        self.in_channels, self.kept = in_channels, c3 // 2
        self.cv1 = ConvNormAct(in_channels, c3, bn_eps=bn_eps)
        self.cv2 = nn.Sequential(_RepNCSP(c3 // 2, c4, n, bn_eps), ConvNormAct(c4, c4, 3, bn_eps=bn_eps))
        self.cv3 = nn.Sequential(_RepNCSP(c4, c4, n, bn_eps), ConvNormAct(c4, c4, 3, bn_eps=bn_eps))
        self.cv4 = ConvNormAct(c3 + 2 * c4, out_channels, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RepNCSPELAN4")
        halves = self.cv1(x)
        first = self.cv2(halves[:, self.kept :])
        return self.cv4(torch.cat((halves, first, self.cv3(first)), 1))
