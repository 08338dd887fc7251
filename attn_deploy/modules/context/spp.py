"""Spatial Pyramid Pooling as YOLO uses it: SPP and its faster equal, SPPF.

Paper: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, ECCV 2014, arXiv:1406.4729.
Official: ultralytics/yolov5, models/common.py (SPP, SPPF); order="darknet" for the route of yolov3-spp.cfg.
Export: Conv, MaxPool and Concat; nothing had to be replaced. Fusing folds every BatchNorm and pools each level from the
    one before it with a smaller kernel, which turns SPP(5, 9, 13) into SPPF. Equal.
Deviations: YOLO trains with BatchNorm eps 1e-3, set over the whole network; give bn_eps for such checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_odd, require_positive
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}
_KEYS = {"cv1.conv": "reduce.0", "cv1.bn": "reduce.1", "cv2.conv": "project.0", "cv2.bn": "project.1"}


@register("spp", aliases=("spp_yolo",), reference=_REFERENCE, parameters=10432)
class SPP(Fusible, nn.Module):
    """Concatenates a map with its maxima over windows of several sizes.

    Shape: (N, C, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        kernel_sizes: of the max pools.
        project: convolutions that halve the channels before and mix them after; without them, out_channels is
            in_channels * (1 + len(kernel_sizes)).
        order: "yolov5" for the map itself first, "darknet" for the opposite order.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if a kernel is even, in_channels < 2 with project, out_channels is another without, or order is
            unknown.
    """

    official_keys = _KEYS

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_sizes: Sequence[int] = (5, 9, 13),
        project: bool = True,
        order: str = "yolov5",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, kernel_sizes=len(kernel_sizes))
        require_odd(**{f"kernel_sizes[{i}]": k for i, k in enumerate(kernel_sizes)})
        require_choice("order", order, ("yolov5", "darknet"))
        levels = 1 + len(kernel_sizes)
        if not project and out_channels != in_channels * levels:
            raise ValueError(
                f"without project the output has in_channels * {levels} channels, got in_channels={in_channels} and "
                f"out_channels={out_channels}: use out_channels={in_channels * levels}."
            )
        self.in_channels = in_channels
        self.reverse = order == "darknet"
        self.kernel_sizes = tuple(kernel_sizes)
        self.pools = nn.ModuleList(_pool(k) for k in kernel_sizes)
        self.chained = False
        self.reduce, self.project = nn.Identity(), nn.Identity()
        if project:
            self.reduce, self.project = _projections(in_channels, out_channels, levels, bn_eps)

    def fuse_(self) -> str | None:
        sizes = self.kernel_sizes
        if self.chained or len(sizes) < 2 or any(a > b for a, b in pairwise(sizes)):
            return None
        self.pools = nn.ModuleList([_pool(sizes[0]), *(_pool(b - a + 1) for a, b in pairwise(sizes))])
        self.chained = True
        return "each max pool works on the one before it"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SPP")
        maps = [self.reduce(x)]
        for pool in self.pools:
            maps.append(pool(maps[-1] if self.chained else maps[0]))
        return self.project(torch.cat(maps[::-1] if self.reverse else maps, 1))


@register("sppf", reference=_REFERENCE, parameters=10432)
class SPPF(nn.Module):
    """SPP by one max pool applied three times; kernel_size=5 equals SPP of 5, 9 and 13 and takes its weights.

    Shape: (N, C, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        kernel_size: of the max pool.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if in_channels < 2, or kernel_size is even.
    """

    official_keys = _KEYS

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 5, bn_eps: float = 1e-5) -> None:
        super().__init__()
        require_odd(kernel_size=kernel_size)
        self.in_channels = in_channels
        self.pool = _pool(kernel_size)
        self.reduce, self.project = _projections(in_channels, out_channels, 4, bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SPPF")
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.project(torch.cat(maps, 1))


def _pool(kernel_size: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size, stride=1, padding=kernel_size // 2)


def _projections(
    in_channels: int, out_channels: int, levels: int, bn_eps: float
) -> tuple[nn.Sequential, nn.Sequential]:
    require_positive(out_channels=out_channels)
    if in_channels < 2:
        raise ValueError(f"in_channels must be at least 2, got {in_channels}: half of them are pooled.")
    width = in_channels // 2

    def layer(in_width: int, out_width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_width, out_width, 1, bias=False), nn.BatchNorm2d(out_width, eps=bn_eps), nn.SiLU()
        )

    return layer(in_channels, width), layer(levels * width, out_channels)
