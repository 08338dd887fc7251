"""Triplet Attention.

Paper: Rotate to Attend: Convolutional Triplet Attention Module, WACV 2021, arXiv:2010.03045.
Official: landskape-ai/triplet-attention, triplet_attention.py (TripletAttention); keys of the older copy under MODELS/
    are taken too.
Export: the map is never turned. It is reduced along the axis in question, the one-channel gate is turned, and the gates
    are added before one product: four full-size transpositions less. The (H, C) kernel is stored as (C, H), so that the
    plane need not be turned either. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_map
from attn_deploy.registry import Input, register

KERNEL = 7


def _gate() -> nn.Sequential:
    conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(1, momentum=0.01))


@register(
    "triplet_attention",
    aliases=("triplet",),
    reference={},
    parameters=300,
    inputs=(Input("x", ("N", 64, "H", "W")),),
)
class TripletAttention(nn.Module):
    """Averages three gated copies of a map; each gate is a convolution over two of the axes C, H and W.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: accepted so that it fits wherever an attention does, and ignored.
        no_spatial: leave out the gate over H and W.
    """

    official_keys = {
        f"{theirs}.{layer}": f"{ours}.{index}"
        for ours, names in (
            ("cw", ("cw.conv", "ChannelGateH.spatial")),
            ("hc", ("hc.conv", "ChannelGateW.spatial")),
            ("hw", ("hw.conv", "SpatialGate.spatial")),
        )
        for theirs in names
        for index, layer in enumerate(("conv", "bn"))
    }

    def __init__(self, channels: int | None = None, *, no_spatial: bool = False) -> None:
        super().__init__()
        self.cw = _gate()
        self.hc = _gate()
        self.hw = None if no_spatial else _gate()

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn the kernel of the (H, C) plane."""
        return {k: v.transpose(2, 3) if k == "hc.0.weight" else v for k, v in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, "TripletAttention")
        by_row = torch.cat([x.amax(2, keepdim=True), x.mean(2, keepdim=True)], 2).transpose(1, 2)  # (N, 2, C, W)
        by_column = torch.cat([x.amax(3, keepdim=True), x.mean(3, keepdim=True)], 3).permute(0, 3, 1, 2)  # (N, 2, C, H)
        gate = self.cw(by_row).sigmoid().transpose(1, 2) + self.hc(by_column).sigmoid().permute(0, 2, 3, 1)
        if self.hw is None:
            return x * (gate * 0.5)
        by_channel = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * ((gate + self.hw(by_channel).sigmoid()) * (1.0 / 3.0))
