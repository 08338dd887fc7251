"""Squeeze-and-Excitation.

Paper: Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507.
Official: hujie-frank/SENet, models/SE-ResNet-50.prototxt (Caffe); the biases are on, as in the released models.
Export: the pooled vector is x.mean((2, 3)) and both layers are 1x1 convolutions on it, so the usual view and expand_as
    chains are gone. Equal up to rounding.
Deviations: senet.pytorch and most collections drop the biases (bias=False); timm rounds the reduced width to a multiple
    of 8, which gives 8 instead of 4 at 64 channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_reduced
from attn_deploy.registry import register


@register("se", aliases=("squeeze_excite", "se_block", "senet", "se_layer"), parameters=580)
class SqueezeExcitation(nn.Module):
    """Reweights channels by a gate computed from their global averages.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the gate's hidden layer is narrower than C.
        bias: whether both layers of the gate have a bias.

    Raises:
        ValueError: if channels // reduction < 1.
    """

    official_keys = {"fc.0": "reduce", "fc.2": "expand"}

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = True) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels = channels
        self.reduce = nn.Conv2d(channels, width, 1, bias=bias)
        self.expand = nn.Conv2d(width, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SqueezeExcitation")
        gate = self.expand(self.reduce(global_avg_pool(x)).relu()).sigmoid()
        return x * gate
