"""Mixed Local Channel Attention.

Paper: Mixed local channel attention for object detection, Engineering Applications of Artificial Intelligence 123, 2023.
Official: wandahangFY/MLCA, MLCA.py (MLCA).
Export: pooling to bins and back is two products with averaging matrices each, for maps smaller than the bins too. The
    usual adaptive pools are exported with the traced size baked in: wrong numbers at every other size, without a word.
    The convolutions are two-dimensional: TensorRT quantizes no other. Equal up to rounding.
Deviations: the convolution over the bins runs across their borders, from the last channels of one to the first of the
    next, as in the official code.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from attn_deploy.ops import adaptive_avg_pool2d, check_channels, require_positive
from attn_deploy.registry import register


@register("mlca", aliases=("mixed_local_channel_attention",), parameters=6)
class MLCA(nn.Module):
    """Gates channels by short convolutions over their global averages, and over their averages in a grid of bins.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        local_size: n of the n x n bins.
        gamma: the kernel size is the odd number at or above |log2 C + b| / gamma, rounded down.
        b: as above.
        local_weight: share of the gate of the bins; the rest is that of the global averages.

    Raises:
        ValueError: if channels or local_size < 1, or gamma is not above 0.
    """

    def __init__(
        self, channels: int, *, local_size: int = 5, gamma: float = 2, b: float = 1, local_weight: float = 0.5
    ) -> None:
        super().__init__()
        require_positive(channels=channels, local_size=local_size)
        if not gamma > 0:
            raise ValueError(f"gamma must be above 0, got {gamma}: it divides log2 of the channel count; use 2.")
        size = int(abs(math.log2(channels) + b) / gamma)
        size = size if size % 2 else size + 1
        self.channels, self.local_size, self.local_weight = channels, local_size, local_weight
        self.conv = nn.Conv2d(1, 1, (size, 1), padding=(size // 2, 0), bias=False)
        self.conv_local = nn.Conv2d(1, 1, (size, 1), padding=(size // 2, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "MLCA")
        batch, bins = x.shape[0], self.local_size
        local = adaptive_avg_pool2d(x, bins).flatten(2).transpose(1, 2)  # (N, n * n, C)
        # The mean of the bins, not of the map: bins overlap where n does not divide H or W.
        whole = local.mean(1, keepdim=True).reshape(batch, 1, self.channels, 1)
        local = local.reshape(batch, 1, bins * bins * self.channels, 1)
        whole = self.conv(whole).sigmoid().reshape(batch, 1, self.channels)
        local = self.conv_local(local).sigmoid().reshape(batch, bins * bins, self.channels)
        gate = self.local_weight * local + (1 - self.local_weight) * whole
        gate = gate.transpose(1, 2).reshape(batch, self.channels, bins, bins)
        return x * adaptive_avg_pool2d(gate, (x.shape[2], x.shape[3]))
