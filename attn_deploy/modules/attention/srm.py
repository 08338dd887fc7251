"""Style-based Recalibration Module.

Paper: SRM: A Style-based Recalibration Module for Convolutional Neural Networks, ICCV 2019, arXiv:1903.10829.
Official: hyunjaelee410/style-based-recalibration-module, models/recalibration_modules.py (SRMLayer).
Export: the unbiased variance is a mean of squares of the centred map with a correction. Equal up to rounding. Fusing
    folds the BatchNorm into both style weights and a shift.
Deviations: changzy00/pytorch-attention adds nothing to the variance and has other keys.
Limits: at least two positions; the unbiased variance of one is undefined (the official code gives NaN). Training needs
    batches above 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_positive, require_two_positions, unbiased_variance
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.registry import register


@register("srm", aliases=("style_recalibration", "srm_layer"), parameters=256, minimum={"W": 2})
class SRM(Fusible, nn.Module):
    """Gates each channel by a weighted sum of its mean and standard deviation.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1, or the input is a single position.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.eps = 1e-5
        self.cfc = nn.Parameter(torch.zeros(channels, 2))
        self.bn: nn.BatchNorm2d | None = nn.BatchNorm2d(channels)
        self.weights: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SRM")
        require_two_positions(x, "SRM")
        mean = x.mean((2, 3), keepdim=True)
        deviation = (unbiased_variance(x - mean) + self.eps).sqrt()
        if self.weights is not None:
            return x * (self.weights[0] * mean + self.weights[1] * deviation + self.weights[2]).sigmoid()
        weight = self.cfc.t().reshape(2, 1, self.channels, 1, 1)
        return x * self.bn(weight[0] * mean + weight[1] * deviation).sigmoid()

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Three vectors remain: factors of the mean and of the deviation, and a shift."""
        if self.bn is None:
            return None
        scale, shift = scale_and_shift(self.bn)
        weights = torch.stack([self.cfc[:, 0] * scale, self.cfc[:, 1] * scale, shift])
        self.weights = nn.Parameter(weights.reshape(3, 1, self.channels, 1, 1))
        self.bn = self.cfc = None
        return "folded BatchNorm into the style weights"
