"""Means along one axis of a map.

`AdaptiveAvgPool2d((None, 1))` is refused by the TorchScript exporter and exported by the torch.export exporter with the
traced length baked in: wrong numbers at every other size, without a word.
"""

from __future__ import annotations

from torch import Tensor


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each row and of each column: (N, C, H, W) -> (N, C, H, 1) and (N, C, 1, W)."""
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True)
