"""Normalization-based Attention Module.

Paper: NAM: Normalization-based Attention Module, NeurIPS 2021 workshop, arXiv:2111.12419.
Official: Christian-lyc/NAM, MODELS/attention.py (Att, Channel_Att); the paper's pixel half was never published.
Export: the official code reads `.data` of a parameter in forward, at which the torch.export exporter ends the process
    without a message; the factors are detached instead. Both permutations are gone. Equal up to rounding. Fusing leaves
    one scale and one shift for each channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_positive
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.registry import register


@register("nam", aliases=("nam_channel", "normalization_based_attention"), parameters=128)
class NAM(Fusible, nn.Module):
    """Gates each value by its normalised self, times the share that its channel's scale has in all scales.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1.
    """

    official_keys = {"Channel_Att.bn2": "bn", "bn2": "bn"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.bn: nn.BatchNorm2d | None = nn.BatchNorm2d(channels)
        self.scale: nn.Parameter | None = None
        self.shift: nn.Parameter | None = None

    def _shares(self) -> Tensor:
        """No gradient goes through them, as officially."""
        size = self.bn.weight.detach().abs()
        return (size / size.sum()).reshape(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "NAM")
        logits = self._shares() * self.bn(x) if self.bn is not None else x * self.scale + self.shift
        return x * logits.sigmoid()

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """The BatchNorm and the shares are one scale and one shift."""
        if self.bn is None:
            return None
        shares = self._shares()
        scale, shift = (v.reshape(1, -1, 1, 1) * shares for v in scale_and_shift(self.bn))
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)
        self.bn = None
        return "folded BatchNorm and the shares into one scale and shift"
