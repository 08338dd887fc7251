"""Spatial Pyramid Pooling: a vector of fixed length from a map of any size.

Paper: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, ECCV 2014, arXiv:1406.4729.
Official: the paper's bins for arbitrary windows, floor(i S / n) to ceil((i + 1) S / n), as in PyTorch's adaptive pools.
Export: both exporters refuse the adaptive max pool, so every bin gathers its rows, then its columns, and takes their
    maximum; "avg" is a product with averaging matrices. Bit-equal for "max", equal up to rounding for "avg".
Deviations: public ports pool with kernel = stride = ceil(S / n) and zero padding: not the paper's bins, a failure on
    some sizes, and a wrong maximum where the map is negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import adaptive_avg_pool2d, adaptive_max_pool2d, require_choice, require_positive
from attn_deploy.registry import Input, register


@register(
    "spp_he",
    aliases=("spp_layer", "sppnet"),
    reference={},
    parameters=0,
    inputs=(Input("x", ("N", 64, "H", "W")),),
)
class SpatialPyramidPooling(nn.Module):
    """Pools the map into grids of several sizes and lays their bins out in one vector.

    Shape: (N, C, H, W) -> (N, C * sum of n * n over levels), each level with the channel slowest; dynamic N, H, W.

    Args:
        levels: bins along each side, one grid for each entry; the paper has (4, 2, 1) and (6, 3, 2, 1).
        pool: "max" or "avg".

    Raises:
        ValueError: if levels is empty or holds a number below 1, or pool is unknown.
    """

    def __init__(self, *, levels: Sequence[int] = (1, 2, 4), pool: str = "max") -> None:
        super().__init__()
        require_positive(levels=len(levels))
        require_positive(**{f"levels[{i}]": n for i, n in enumerate(levels)})
        require_choice("pool", pool, ("max", "avg"))
        self.levels = tuple(levels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        pool = adaptive_max_pool2d if self.pool == "max" else adaptive_avg_pool2d
        return torch.cat([pool(x, bins).flatten(1) for bins in self.levels], 1)
