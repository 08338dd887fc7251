"""C3, the cross-stage block of YOLOv5, with the bottleneck that YOLO's later blocks are made of.

Paper: CSPNet: A New Backbone that can Enhance Learning Capability of CNN, CVPR Workshops 2020, arXiv:1911.11929; the
    block itself has no paper.
Official: ultralytics 8.4, nn/modules/block.py (C3, C3k, Bottleneck).
Export: Conv, Mul, Sigmoid, Add and Concat; nothing had to be replaced. Fusing folds every BatchNorm.
Deviations: kernel_sizes=(3, 3) is the official C3k. YOLO models set BatchNorm's eps to 1e-3 after construction; give
    bn_eps for their checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, check_channels, require_divisible, require_odd, require_positive
from attn_deploy.registry import register


def hidden_width(out_channels: int, e: float) -> int:
    """The width int(out_channels * e), which must be at least 1.

    Raises:
        ValueError: naming both arguments.
    """
    require_positive(out_channels=out_channels)
    if int(out_channels * e) < 1:
        raise ValueError(
            f"int(out_channels * e) must be at least 1, got out_channels={out_channels} and e={e}: use an e of at "
            f"least {1 / out_channels:.3g}."
        )
    return int(out_channels * e)


class Bottleneck(nn.Module):
    """Two convolutions and, where the widths allow it, a shortcut around them.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        shortcut: whether the input is added; only where C_in is C_out.
        groups: of the second convolution.
        kernel_sizes: of both.
        e: width between the two in multiples of C_out.
        bn_eps: of the BatchNorms.

    Raises:
        ValueError: if the width between the two is below 1, or not a multiple of groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        shortcut: bool = True,
        groups: int = 1,
        kernel_sizes: Sequence[int] = (3, 3),
        e: float = 0.5,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        width = hidden_width(out_channels, e)
        require_positive(groups=groups)
        require_divisible("the bottleneck's width", width, "groups", groups)
        require_divisible("out_channels", out_channels, "groups", groups)
        first, second = kernel_sizes
        self.cv1 = ConvNormAct(in_channels, width, first, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(width, out_channels, second, groups=groups, bn_eps=bn_eps)
        self.add = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register("c3", aliases=("c3_block",), reference={"in_channels": 64, "out_channels": 64}, parameters=18816)
class C3(nn.Module):
    """Sends half of the width through bottlenecks and joins it with the other half, which one convolution made.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of bottlenecks.
        shortcut: whether each bottleneck adds its input.
        groups: of the second convolution of each bottleneck.
        e: width of each half in multiples of C_out.
        kernel_sizes: of the two convolutions of each bottleneck; (3, 3) makes it C3k.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if int(out_channels * e) < 1 or not a multiple of groups, a kernel is even, or a number is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n: int = 1,
        shortcut: bool = True,
        groups: int = 1,
        e: float = 0.5,
        kernel_sizes: Sequence[int] = (1, 3),
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, n=n)
        require_odd(**{f"kernel_sizes[{i}]": k for i, k in enumerate(kernel_sizes)})
        if len(kernel_sizes) != 2:
            raise ValueError(
                f"kernel_sizes must hold one size for each of two convolutions, got {kernel_sizes}: use (1, 3)."
            )
        width = hidden_width(out_channels, e)
        self.in_channels = in_channels
        self.cv1 = ConvNormAct(in_channels, width, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(in_channels, width, bn_eps=bn_eps)
        self.cv3 = ConvNormAct(2 * width, out_channels, bn_eps=bn_eps)
        self.m = nn.Sequential(
            *(
                Bottleneck(
                    width, width, shortcut=shortcut, groups=groups, kernel_sizes=kernel_sizes, e=1.0, bn_eps=bn_eps
                )
                for _ in range(n)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "C3")
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
