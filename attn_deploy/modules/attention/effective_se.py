"""Effective Squeeze-and-Excitation: one layer instead of two, so that no channel information is lost between them.

Paper: CenterMask: Real-Time Anchor-Free Instance Segmentation, CVPR 2020, arXiv:1911.06667.
Official: youngwanLEE/vovnet-detectron2, vovnet/vovnet.py (eSEModule).
Export: the pooled vector is x.mean((2, 3)), and relu6(x + 3) / 6 is one HardSigmoid. Equal up to rounding.
Deviations: the official constructor has a reduction that it does not use; timm's EffectiveSEModule is equal, and offers a
    maximum beside the mean.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_positive
from attn_deploy.registry import register


@register(
    "effective_se", aliases=("ese", "ese_module", "effective_se_layer", "effective_squeeze_excite"), parameters=4160
)
class EffectiveSE(nn.Module):
    """Reweights channels by a gate that one layer computes from their global averages.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "EffectiveSE")
        return x * F.hardsigmoid(self.fc(global_avg_pool(x)))
