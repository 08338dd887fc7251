"""Weighted shortcut of YOLO, which joins maps with different channel counts.

Paper: YOLOv4: Optimal Speed and Accuracy of Object Detection, 2020, arXiv:2004.10934 (multi-input weighted residual
    connections).
Official: WongKinYiu/PyTorch_YOLOv4, utils/layers.py (WeightedFeatureFusion).
Export: channels are added by slices and Concat; the official x[:, :n] += a exports as ScatterND, and without weights
    it changes the caller's tensor. Equal. Fusing makes the weights constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, is_traced, require_positive
from attn_deploy.registry import Input, register


@register(
    "yolo_weighted_fusion",
    reference={"channels": (64, 48, 96)},
    parameters=3,
    inputs=(Input("x", ("N", "channels[i]", "H", "W"), repeat="channels"),),
)
class YOLOWeightedFusion(Fusible, nn.Module):
    """Adds maps to the first one, over the channels that both have.

    Shape: (N, channels[0], H, W), (N, channels[1], H, W), ... -> (N, channels[0], H, W); dynamic N, H, W.

    Args:
        channels: channels of each map, the one that is added to first.
        weighted: whether each map has a learned weight, sigmoid(w) * 2 / len(channels).

    Raises:
        ValueError: if there are fewer than 2 channel counts, or the maps given do not fit them or differ in size.
    """

    def __init__(self, channels: Sequence[int], *, weighted: bool = True) -> None:
        super().__init__()
        if isinstance(channels, int) or len(channels) < 2:
            raise ValueError(
                f"channels must hold the channel count of each map, of which there are 2 or more, got {channels!r}: "
                "use (64, 48, 96) for three."
            )
        require_positive(**{f"channels[{i}]": c for i, c in enumerate(channels)})
        self.channels = tuple(channels)
        self.weighted = weighted
        self.constant = False
        if weighted:
            self.w = nn.Parameter(torch.zeros(len(self.channels)))

    def fuse_(self) -> str | None:
        if not self.weighted or self.constant:
            return None
        self.w = nn.Parameter(self._factors().detach(), requires_grad=False)
        self.constant = True
        return "made the weights constants"

    def forward(self, *features: Tensor) -> Tensor:
        self._check(features)
        own = self.channels[0]
        parts = [x if width <= own else x[:, :own] for x, width in zip(features, self.channels, strict=True)]
        if self.weighted:
            factors = self._factors()
            parts = [part * factors[i] for i, part in enumerate(parts)]
        y = parts[0]
        for part, width in zip(parts[1:], self.channels[1:], strict=True):
            y = y + part if width >= own else torch.cat([y[:, :width] + part, y[:, width:]], 1)
        return y

    def _factors(self) -> Tensor:
        return self.w if self.constant else self.w.sigmoid() * (2 / len(self.channels))

    def _check(self, features: tuple[Tensor, ...]) -> None:
        if len(features) != len(self.channels):
            raise ValueError(
                f"YOLOWeightedFusion: expected {len(self.channels)} maps, got {len(features)}: give channels one entry "
                "for each."
            )
        for feature, width in zip(features, self.channels, strict=True):
            check_channels(feature, width, "YOLOWeightedFusion")
            if not is_traced() and feature.shape[2:] != features[0].shape[2:]:
                raise ValueError(
                    f"YOLOWeightedFusion: the maps must have one height and width, got {tuple(features[0].shape)} and "
                    f"{tuple(feature.shape)}: resample them first."
                )
