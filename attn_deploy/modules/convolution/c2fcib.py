"""C2fCIB of YOLOv10: C2f whose blocks are compact inverted bottlenecks of depthwise and 1x1 convolutions.

Paper: YOLOv10: Real-Time End-to-End Object Detection, NeurIPS 2024, arXiv:2405.14458.
Official: ultralytics 8.4, nn/modules/block.py (C2fCIB, CIB, RepVGGDW).
Export: as c2f. Fusing folds every BatchNorm and merges the 7x7 and 3x3 depthwise branches into one 7x7.
Deviations: YOLO models set BatchNorm's eps to 1e-3 after construction; give bn_eps for their checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.modules.convolution.c2f import SplitJoin
from attn_deploy.ops import ConvNormAct, Fusible, add_parallel_conv_, folded_conv
from attn_deploy.registry import register


class RepVGGDW(Fusible, nn.Module):
    """SiLU of the sum of a 7x7 and a 3x3 depthwise convolution, each with BatchNorm.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        bn_eps: of both BatchNorms.
    """

    def __init__(self, channels: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, channels, 7, groups=channels, act=None, bn_eps=bn_eps)
        self.conv1: nn.Module | None = ConvNormAct(channels, channels, 3, groups=channels, act=None, bn_eps=bn_eps)
        self.act = nn.SiLU()

    def fuse_(self) -> str | None:
        if self.conv1 is None:
            return None
        merged = add_parallel_conv_(folded_conv(self.conv), folded_conv(self.conv1))
        self.conv, self.conv1 = merged, None
        return "merged two depthwise branches into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(y if self.conv1 is None else y + self.conv1(x))


class CIB(nn.Module):
    """Compact inverted bottleneck: three depthwise convolutions with 1x1 convolutions between them, and a shortcut.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        shortcut: whether the input is added; only where C_in is C_out.
        e: half of the inner width in multiples of C_out.
        lk: 7x7 and 3x3 branches in place of the middle depthwise convolution.
        bn_eps: of every BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        shortcut: bool = True,
        e: float = 0.5,
        lk: bool = False,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        width = 2 * int(out_channels * e)

        def depthwise(channels: int) -> nn.Module:
            return ConvNormAct(channels, channels, 3, groups=channels, bn_eps=bn_eps)

        self.cv1 = nn.Sequential(
            depthwise(in_channels),
            ConvNormAct(in_channels, width, bn_eps=bn_eps),
            RepVGGDW(width, bn_eps=bn_eps) if lk else depthwise(width),
            ConvNormAct(width, out_channels, bn_eps=bn_eps),
            depthwise(out_channels),
        )
        self.add = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return x + y if self.add else y


@register("c2fcib", aliases=("c2f_cib",), reference={"in_channels": 64, "out_channels": 64}, parameters=16192)
class C2fCIB(SplitJoin):
    """C2f with compact inverted bottlenecks.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of blocks.
        shortcut: whether each block adds its input.
        lk: large kernels: 7x7 beside 3x3 in the middle of each block.
        e: width of a half in multiples of C_out.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if int(out_channels * e) < 1, or a number is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n: int = 1,
        shortcut: bool = False,
        lk: bool = False,
        e: float = 0.5,
        bn_eps: float = 1e-5,
    ) -> None:
        def block(width: int) -> nn.Module:
            return CIB(width, width, shortcut=shortcut, e=1.0, lk=lk, bn_eps=bn_eps)

        super().__init__(in_channels, out_channels, n, e, block, bn_eps)
