"""Weighted feature fusion of BiFPN.

Paper: EfficientDet: Scalable and Efficient Object Detection, CVPR 2020, arXiv:1911.09070.
Official: google/automl, efficientdet/tf2/efficientdet_keras.py (FNode.fuse_features);
    rwightman/efficientdet-pytorch, effdet/efficientdet.py (FpnCombine).
Export: the weights are normalised first, as scalars, and the maps are added one by one; the official code divides each
    weighted map and stacks them on a new last axis. Equal up to rounding. Fusing makes the weights constants.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, is_traced, require_choice
from attn_deploy.registry import Input, register

METHODS = ("fast", "softmax", "sum", "channel_fast", "channel_softmax")


@register(
    "weighted_feature_fusion",
    aliases=("bifpn_fusion", "fast_normalized_fusion", "wff"),
    reference={"num_inputs": 3, "channels": 64},
    parameters=3,
    inputs=(Input("x", ("N", "channels", "H", "W"), repeat="num_inputs"),),
)
class WeightedFeatureFusion(Fusible, nn.Module):
    """Adds maps of one shape with learned, normalised weights.

    Shape: num_inputs times (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        num_inputs: number of maps.
        method: "fast" for relu(w) / (sum + eps), "softmax", "sum" without weights; "channel_fast" and
            "channel_softmax" with weights for each channel.
        eps: added to the sum of the weights.
        channels: C; needed for weights by channel, and checked where it is given.

    Raises:
        ValueError: if num_inputs < 2, method is unknown, channels is missing for weights by channel, or the maps given
            are not num_inputs of one shape.
    """

    def __init__(
        self, num_inputs: int, *, method: str = "fast", eps: float = 1e-4, channels: int | None = None
    ) -> None:
        super().__init__()
        if num_inputs < 2:
            raise ValueError(f"num_inputs must be at least 2, got {num_inputs}: one map needs no fusion.")
        require_choice("method", method, METHODS)
        by_channel = method.startswith("channel_")
        if by_channel and channels is None:
            raise ValueError(f"method={method!r} has weights for each channel, got channels=None: give channels.")
        self.num_inputs = num_inputs
        self.channels = channels
        self.eps = eps
        self.method = method.removeprefix("channel_")
        if self.method != "sum":
            self.weight = nn.Parameter(torch.ones((num_inputs, channels) if by_channel else (num_inputs,)))

    def fuse_(self) -> str | None:
        if self.method in ("sum", "constant"):
            return None
        self.weight = nn.Parameter(self._factors().detach(), requires_grad=False)
        self.method = "constant"
        return "made the normalised weights constants"

    def forward(self, *features: Tensor) -> Tensor:
        self._check(features)
        if self.method == "sum":
            return sum(features[1:], features[0])
        factors = self._factors().reshape(self.num_inputs, -1, 1, 1)
        y = features[0] * factors[0]
        for index in range(1, self.num_inputs):
            y = y + features[index] * factors[index]
        return y

    def _factors(self) -> Tensor:
        if self.method == "fast":
            weight = self.weight.relu()
            return weight / (weight.sum(0) + self.eps)
        return self.weight.softmax(0) if self.method == "softmax" else self.weight

    def _check(self, features: tuple[Tensor, ...]) -> None:
        if len(features) != self.num_inputs:
            raise ValueError(
                f"WeightedFeatureFusion: expected {self.num_inputs} maps, got {len(features)}: construct it with "
                "num_inputs set to their number."
            )
        for feature in features:
            if self.channels is not None:
                check_channels(feature, self.channels, "WeightedFeatureFusion")
            if not is_traced() and feature.shape != features[0].shape:
                raise ValueError(
                    f"WeightedFeatureFusion: the maps must have one shape, got {tuple(features[0].shape)} and "
                    f"{tuple(feature.shape)}: resample them first."
                )
