"""C3k2, the block of YOLO11: C2f whose blocks are narrow bottlenecks, small C3 blocks, or bottlenecks with attention.

Paper: none of its own; YOLO11 by Ultralytics, 2024, https://docs.ultralytics.com/models/yolo11.
Official: ultralytics 8.4, nn/modules/block.py (C3k2).
Export: as c2f. Fusing folds every BatchNorm and the scale of the attention into its queries.
Deviations: older releases have no attn. The bottleneck is half as wide inside (its class's default), not as wide as in
    c2f, and shortcut is on by default, as in the official code. YOLO models set BatchNorm's eps to 1e-3 after
    construction; give bn_eps for their checkpoints.
"""

from __future__ import annotations

from torch import nn

from attn_deploy.modules.attention.c2psa import PSABlock
from attn_deploy.modules.convolution.c2f import SplitJoin
from attn_deploy.modules.convolution.c3 import C3, Bottleneck
from attn_deploy.registry import register


@register("c3k2", reference={"in_channels": 64, "out_channels": 64}, parameters=19808)
class C3k2(SplitJoin):
    """C2f with a choice of what its blocks are.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of blocks.
        c3k: blocks are C3 with two bottlenecks of 3x3 convolutions.
        attn: blocks are a bottleneck and then attention; wins over c3k.
        shortcut: whether each bottleneck adds its input.
        groups: of the second convolution of each bottleneck.
        e: width of a half in multiples of C_out.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if a width is below 1 or not a multiple of groups, a number is below 1, or attn cannot divide the
            width among its heads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n: int = 1,
        c3k: bool = False,
        attn: bool = False,
        shortcut: bool = True,
        groups: int = 1,
        e: float = 0.5,
        bn_eps: float = 1e-5,
    ) -> None:
        def block(width: int) -> nn.Module:
            if c3k and not attn:
                return C3(width, width, n=2, shortcut=shortcut, groups=groups, kernel_sizes=(3, 3), bn_eps=bn_eps)
            bottleneck = Bottleneck(width, width, shortcut=shortcut, groups=groups, bn_eps=bn_eps)
            if not attn:
                return bottleneck
            return nn.Sequential(bottleneck, PSABlock(width, max(width // 64, 1), bn_eps=bn_eps))

        super().__init__(in_channels, out_channels, n, e, block, bn_eps)
