"""Spatial Group-wise Enhance.

Paper: Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks, arXiv:1905.09646,
    2019.
Official: implus/PytorchInsight, classification/models/imagenet/resnet_sge.py, SpatialGroupEnhance.
Export: batch and groups stay two axes, (N, G, C / G, H, W), and the unbiased deviation is written with mean and
    square root. The similarity is scaled by a constant (taken along by the epsilon), and by its largest value before it
    is squared: both cancel exactly, and keep every intermediate in the range of fp16.
Deviations: rewrites with InstanceNorm (biased variance, epsilon inside the root) are another function;
    External-Attention starts the bias at 0 instead of 1.
Limits: at least two positions; the deviation of one is undefined (the official code gives NaN).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_positive
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import register


@register("sge", parameters=128, minimum={"W": 2})
class SpatialGroupEnhance(nn.Module):
    """Gates each group's positions by their normalised similarity to the group's global average.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        groups: G, the number of groups; the published networks use 64.

    Raises:
        ValueError: if channels is not a multiple of groups, or the input is a single position.
    """

    def __init__(self, channels: int, *, groups: int = 64) -> None:
        super().__init__()
        require_positive(channels=channels, groups=groups)
        require_divisible("channels", channels, "groups", groups)
        self.channels = channels
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))
        # a sum over C / G products of inputs up to 100 leaves fp16; the normalisation makes its scale free to choose
        self.scale = min(1.0, 2 * groups / channels)
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SpatialGroupEnhance")
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        if sizes_are_known() and height * width < 2:
            raise ValueError(
                f"SpatialGroupEnhance: needs a map of at least 2 positions, got {height}x{width}: "
                "the deviation of a single position is undefined."
            )
        grouped = x.reshape(batch, self.groups, self.channels // self.groups, height, width)
        average = grouped.mean((3, 4), keepdim=True) * self.scale
        similarity = (grouped * average).sum(2)
        similarity = similarity - similarity.mean((2, 3), keepdim=True)
        largest = similarity.abs().amax((2, 3), keepdim=True) + self.eps
        biased = (similarity / largest).square().mean((2, 3), keepdim=True)
        deviation = (biased + biased / (height * width - 1)).sqrt() * largest
        logits = similarity / (deviation + self.eps * self.scale) * self.weight + self.bias
        return (grouped * logits.sigmoid().unsqueeze(2)).reshape(batch, self.channels, height, width)
