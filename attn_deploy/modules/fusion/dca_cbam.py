"""Connected CBAM of DCANet: channel and spatial gates that also read the previous block's gated maps.

Paper: DCANet: Learning Connected Attentions for Convolutional Neural Networks, ICME 2021, arXiv:2007.05099.
Official: 13952522076/DCANet, models/resnet/resnet_cbam_dca.py (CBAM, ChannelGate, SpatialGate).
Export: maps pass from block to block as plain tensors, and whether a block has a predecessor, and how much larger its
    map is, is settled when it is made. The 2-to-1 convolution over stacked vectors is a weighted sum. Equal up
    to rounding.
Deviations: the official first block owns the layers for a predecessor that it never has; here they are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    conv_bn_relu,
    global_avg_pool,
    global_max_pool,
    require_positive,
    require_reduced,
)
from attn_deploy.ops.channel_norm import ChannelLayerNorm
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.ops.predecessor import require_predecessor
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register

_PREVIOUS = ("N", "previous_channels", "ratio*H", "ratio*W")
_OUTPUTS = ("y", "channel_map", "spatial_map")


@register(
    "dca_cbam",
    reference={"channels": 64, "previous_channels": 32, "ratio": 2},
    parameters=3056,
    inputs=(
        Input("x", ("N", "channels", "H", "W")),
        Input("previous_channel", _PREVIOUS),
        Input("previous_spatial", _PREVIOUS),
    ),
    outputs=_OUTPUTS,
)
@register(
    "dca_cbam_first",
    parameters=680,
    outputs=_OUTPUTS,
    summary="Connected CBAM in the first block of a network, which has no gated maps before it.",
)
class DCACBAM(Fusible, nn.Module):
    """Gates channels, then positions, each by statistics joined with those of the previous block's gated map.

    Shape: (N, C, H, W) and twice (N, previous_channels, ratio * H, ratio * W) -> three maps (N, C, H, W): the result,
    and what the next block takes: the channel-gated map, and the spatially gated one, which is the result again.
    A first block takes the first input alone. Dynamic N, H, W.

    Args:
        channels: C.
        previous_channels: channels of the previous block's maps; 0 for the first block, which has none.
        reduction: factor by which the channel gate's hidden layer is narrower than C.
        ratio: how many times higher and wider the previous block's maps are.

    Raises:
        ValueError: if channels // reduction < 1, or the previous maps are missing or of another shape.
    """

    official_keys = {
        "ChannelGate.mlp.1": "reduce",
        "ChannelGate.mlp.3": "expand",
        "ChannelGate.att_fc": "adapt",
        "ChannelGate.alpha.0.weight": "mix",
        "ChannelGate.alpha.1": "mix_norm",
        "SpatialGate.p1": "mix_own",
        "SpatialGate.p2": "mix_previous",
        "SpatialGate.bnrelu.0": "map_norm",
        "SpatialGate.spatial.conv": "spatial.0",
        "SpatialGate.spatial.bn": "spatial.1",
    }

    def __init__(self, channels: int, *, previous_channels: int = 0, reduction: int = 16, ratio: int = 1) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        require_positive(ratio=ratio)
        self.channels, self.previous_channels, self.ratio = channels, previous_channels, ratio
        self.reduce = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)
        self.spatial = conv_bn_relu(2, 1, 7, relu=False)
        self.spatial[1].momentum = 0.01
        self.map_norm: nn.BatchNorm2d | None = None
        if previous_channels:
            require_positive(previous_channels=previous_channels)
            same = previous_channels == channels
            self.adapt = nn.Identity() if same else _adapter(previous_channels, channels)
            self.mix = nn.Parameter(torch.empty(2).uniform_(-(0.5**0.5), 0.5**0.5))
            self.mix_norm = ChannelLayerNorm(channels)
            self.mix_own = nn.Parameter(torch.ones(1))
            self.mix_previous = nn.Parameter(torch.zeros(1))
            self.map_norm = nn.BatchNorm2d(2)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what a first block owns but never uses."""
        if self.previous_channels:
            return state
        return {k: v for k, v in state.items() if not k.startswith(("adapt", "mix", "map_norm"))}

    def forward(
        self, x: Tensor, previous_channel: Tensor | None = None, previous_spatial: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        check_channels(x, self.channels, "DCACBAM")
        self._check_previous(x, previous_channel)
        self._check_previous(x, previous_spatial)
        gated = x * self._channel_gate(x, previous_channel)
        y = gated * self._spatial_gate(gated, previous_spatial)
        return y, gated, y

    def _channel_gate(self, x: Tensor, previous: Tensor | None) -> Tensor:
        pooled = [global_avg_pool(x), global_max_pool(x)]
        if previous is not None:
            previous = self.adapt(previous)
            # Unlike reductions, these run in the blocked layout that ONNX Runtime's convolutions leave.
            before = [F.adaptive_avg_pool2d(previous, 1), F.adaptive_max_pool2d(previous, 1)]
            joined = [self.mix[0] * own + self.mix[1] * other for own, other in zip(pooled, before, strict=True)]
            pooled = [self.mix_norm(j).relu() for j in joined]
        average, maximum = [self.expand(self.reduce(p).relu()) for p in pooled]
        return (average + maximum).sigmoid()

    def _spatial_gate(self, gated: Tensor, previous: Tensor | None) -> Tensor:
        view = _channel_statistics(gated)
        if previous is not None:
            if self.ratio > 1:
                previous = F.avg_pool2d(previous, self.ratio)
            before = _channel_statistics(previous)
            if self.map_norm is None:
                view = (self.scale_own * view + self.scale_previous * before + self.shift).relu()
            else:
                view = self.map_norm(self.mix_own * view + self.mix_previous * before).relu()
        return self.spatial(view).sigmoid()

    def _check_previous(self, x: Tensor, previous: Tensor | None) -> None:
        require_predecessor(previous, self.previous_channels, "DCACBAM", "map")
        if previous is None or not sizes_are_known():
            return
        check_channels(previous, self.previous_channels, "DCACBAM, previous map")
        expected = (self.ratio * x.shape[2], self.ratio * x.shape[3])
        if tuple(previous.shape[2:]) != expected:
            raise ValueError(
                f"DCACBAM: expected a previous map of {expected[0]}x{expected[1]} for ratio={self.ratio} and a map of "
                f"{x.shape[2]}x{x.shape[3]}, got {previous.shape[2]}x{previous.shape[3]}: set ratio to what divides them."
            )

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorm of the joined statistics into the two weights of their sum."""
        if self.map_norm is None:
            return None
        scale, shift = (v.reshape(1, 2, 1, 1) for v in scale_and_shift(self.map_norm))
        self.register_buffer("scale_own", scale * self.mix_own)
        self.register_buffer("scale_previous", scale * self.mix_previous)
        self.register_buffer("shift", shift)
        self.map_norm = None
        del self.mix_own, self.mix_previous
        return "BatchNorm folded into the weights of the joined statistics"


def _adapter(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())


def _channel_statistics(x: Tensor) -> Tensor:
    """Maximum and mean over the channels: (N, C, H, W) -> (N, 2, H, W)."""
    return torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
