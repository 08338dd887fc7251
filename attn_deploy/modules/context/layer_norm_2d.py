"""LayerNorm over the channels of a map.

Paper: Layer Normalization, 2016, arXiv:1607.06450; on maps as in A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545.
Official: facebookresearch/ConvNeXt, models/convnext.py (LayerNorm with data_format="channels_first").
Export: between two permutations to (N, H, W, C) and back, since runtimes have LayerNorm over the last axis as one kernel;
    means over the second axis cost three times as much. In fp16 there is no permutation, the mean is subtracted before
    squaring, and the differences are taken relative to the largest, so that no square leaves the range. Equal.
"""

from __future__ import annotations

from torch import Tensor

from attn_deploy.ops import LayerNormOverChannels, check_channels, require_positive
from attn_deploy.registry import register


@register("layer_norm_2d", aliases=("channels_first_layer_norm",), parameters=128)
class LayerNorm2d(LayerNormOverChannels):
    """Brings each position to zero mean and unit variance over the channels, then scales and shifts each channel.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        eps: added to the variance.

    Raises:
        ValueError: if channels is below 1 or eps is not above 0.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        require_positive(channels=channels)
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps!r}: it keeps a constant position from dividing by 0.")
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "LayerNorm2d")
        return super().forward(x)
