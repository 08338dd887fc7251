"""C2f, the block of YOLOv8's backbone and neck: every bottleneck's output reaches the last convolution.

Paper: none of its own; YOLOv8 by Ultralytics, 2023, https://docs.ultralytics.com/models/yolov8.
Official: ultralytics 8.4, nn/modules/block.py (C2f).
Export: the first convolution's output enters the concatenation whole and is cut once, by a slice with constant bounds;
    the official chunk cuts it in two. Equal bit for bit. Fusing folds every BatchNorm.
Deviations: YOLO models set BatchNorm's eps to 1e-3 after construction; give bn_eps for their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_deploy.modules.convolution.c3 import Bottleneck, hidden_width
from attn_deploy.ops import ConvNormAct, check_channels, require_positive
from attn_deploy.registry import register


class SplitJoin(nn.Module):
    """What C2f, C3k2 and C2fCIB share: one convolution, n blocks one after the other, one convolution on all of it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        n: number of blocks.
        e: width of each block in multiples of out_channels.
        block: makes a block for a width.
        bn_eps: of both BatchNorms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n: int,
        e: float,
        block: Callable[[int], nn.Module],
        bn_eps: float,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, n=n)
        width = hidden_width(out_channels, e)
        self.in_channels, self.width = in_channels, width
        self.cv1 = ConvNormAct(in_channels, 2 * width, bn_eps=bn_eps)
        self.cv2 = ConvNormAct((2 + n) * width, out_channels, bn_eps=bn_eps)
        self.m = nn.ModuleList(block(width) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, type(self).__name__)
        halves = self.cv1(x)
        y, maps = halves[:, self.width :], [halves]
        for block in self.m:
            y = block(y)
            maps.append(y)
        return self.cv2(torch.cat(maps, 1))


@register("c2f", reference={"in_channels": 64, "out_channels": 64}, parameters=29056)
class C2f(SplitJoin):
    """Sends half of the width through bottlenecks, one after the other, and joins both halves and every output.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of bottlenecks.
        shortcut: whether each bottleneck adds its input.
        groups: of the second convolution of each bottleneck.
        e: width of a half in multiples of C_out.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if int(out_channels * e) < 1 or not a multiple of groups, or a number is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n: int = 1,
        shortcut: bool = False,
        groups: int = 1,
        e: float = 0.5,
        bn_eps: float = 1e-5,
    ) -> None:
        def block(width: int) -> nn.Module:
            return Bottleneck(width, width, shortcut=shortcut, groups=groups, e=1.0, bn_eps=bn_eps)

        super().__init__(in_channels, out_channels, n, e, block, bn_eps)
