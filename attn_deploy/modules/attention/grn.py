"""Global response normalisation, the layer that ConvNeXt V2 adds.

Paper: ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders, CVPR 2023, arXiv:2301.00808.
Official: facebookresearch/ConvNeXt-V2, models/utils.py (GRN).
Export: works on (N, C, H, W) instead of (N, H, W, C), with a ReduceSum in place of a norm. In fp16, where a sum of
    squares over a map of 64x64 leaves the range, the values are taken relative to each channel's largest. Equal up to
    rounding.
Deviations: timm names the tensors weight and bias and gives them the shape (C,).
"""

from __future__ import annotations

from torch import Tensor

from attn_deploy.ops import ResponseNorm, check_channels, require_positive
from attn_deploy.registry import register


@register("grn", aliases=("global_response_norm", "global_response_normalization"), parameters=128)
class GlobalResponseNorm(ResponseNorm):
    """Reweights channels by their energy over the map, relative to the mean of all channels, around a skip.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels is below 1.
    """

    def __init__(self, channels: int) -> None:
        require_positive(channels=channels)
        super().__init__(channels)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GlobalResponseNorm")
        return super().forward(x)
