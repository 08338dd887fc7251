"""Concatenation of feature maps as a module.

Paper: YOLOv3: An Incremental Improvement, 2018, arXiv:1804.02767 (the "route" layer).
Official: ultralytics/yolov3, utils/layers.py (Concat, FeatureConcat).
Export: Concat; nothing had to be replaced. A single map passes through.
Deviations: the YOLO form takes indices into a list of all earlier outputs, which belongs to the network that owns them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import is_traced
from attn_deploy.registry import Input, register


@register(
    "feature_concat",
    aliases=("concat", "useful_tools"),
    reference={},
    parameters=0,
    inputs=(
        Input("x0", ("N", 64, "H", "W")),
        Input("x1", ("N", 32, "H", "W")),
        Input("x2", ("N", 16, "H", "W")),
    ),
)
class FeatureConcat(nn.Module):
    """Joins any number of maps along one axis.

    Shape: (N, C0, H, W), (N, C1, H, W), ... -> (N, C0 + C1 + ..., H, W); one list of maps will do too; dynamic N, H, W.

    Args:
        dim: the axis to join along.

    Raises:
        ValueError: if no map is given, or the maps differ in rank or in any other axis.
    """

    def __init__(self, *, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *features: Tensor | list[Tensor]) -> Tensor:
        maps = features[0] if len(features) == 1 and isinstance(features[0], list | tuple) else features
        if not maps:
            raise ValueError("FeatureConcat: got no map to join; give at least 1.")
        if len(maps) == 1:
            return maps[0]
        rank = maps[0].dim()
        if any(m.dim() != rank for m in maps) or (not is_traced() and not self._fit(maps)):
            shapes = ", ".join(str(tuple(m.shape)) for m in maps)
            raise ValueError(f"FeatureConcat: the maps may differ in axis {self.dim} only, got shapes {shapes}.")
        return torch.cat(tuple(maps), self.dim)

    def _fit(self, maps: tuple[Tensor, ...] | list[Tensor]) -> bool:
        free = self.dim % maps[0].dim()
        return len({tuple(m.shape[:free]) + tuple(m.shape[free + 1 :]) for m in maps}) == 1
