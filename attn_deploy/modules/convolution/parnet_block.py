"""ParNet block: RepVGG's three branches with squeeze-and-excitation on the identity.

Paper: Non-deep Networks, NeurIPS 2022, arXiv:2110.07641.
Official: imankgoyal/NonDeepNetworks, imagenet/timm/models/simplenet_impl/repvgg.py (RepVGGBlock) and utils.py (SE1), at
    stride 1 with equal widths.
Export: Conv, Sigmoid, Mul and Add; nothing had to be replaced. Fused, both convolutions with their BatchNorms are one 3x3
    convolution, the identity's BatchNorm is a scale and a shift, and the gate reads the plain average. Equal up to
    rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_before_conv,
    fold_bn_into_conv,
    global_avg_pool,
    require_positive,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.registry import register


@register("parnet_block", parameters=45440)
class ParNetBlock(Fusible, nn.Module):
    """Adds a 3x3 convolution, a 1x1 convolution and the normalised map under a channel gate.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1.
    """

    official_keys = {
        "rbr_identity": "identity",
        "rbr_dense.conv": "dense.0",
        "rbr_dense.bn": "dense.1",
        "rbr_1x1.conv": "point.0",
        "rbr_1x1.bn": "point.1",
        "se.cvsig.conv": "gate",
    }

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.identity: nn.BatchNorm2d | None = nn.BatchNorm2d(channels)
        self.dense = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.point = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.gate = nn.Conv2d(channels, channels, 1, bias=False)
        self.scale: nn.Parameter | None = None
        self.shift: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ParNetBlock")
        if self.identity is None:
            gate = self.gate(global_avg_pool(x)).sigmoid()
            return F.silu(self.dense(x) + (x * self.scale + self.shift) * gate)
        identity = self.identity(x)
        gate = self.gate(global_avg_pool(identity)).sigmoid()
        return F.silu(self.dense(x) + self.point(x) + identity * gate)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One 3x3 convolution, a scale and a shift of the identity, and a gate that has absorbed both."""
        if self.identity is None:
            return None
        dense, point = fold_bn_into_conv(*self.dense), fold_bn_into_conv(*self.point)
        dense.weight[:, :, 1:2, 1:2] += point.weight
        dense.bias += point.bias
        self.dense = dense
        self.gate = fold_bn_before_conv(self.identity, self.gate)
        scale, shift = (v.reshape(1, -1, 1, 1) for v in scale_and_shift(self.identity))
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)
        self.identity = self.point = None
        return "merged two convolutions into one, folded the identity's BatchNorm"
