"""Bi-level routing attention of BiFormer.

Paper: BiFormer: Vision Transformer with Bi-Level Routing Attention, CVPR 2023, arXiv:2303.08810.
Official: rayleizhu/BiFormer, ops/bra_nchw.py (nchwBRA) with ops/torch/rrsda.py.
Export: pooling whose window depends on the size is a mean over axes of a reshaped map, and the regions are gathered
    whole: the batch is folded into the index, where an expanded torch.gather asks for an index as large as the keys, and
    bakes it. Equal up to rounding.
Deviations: the scale is C ** -0.5 of the full width, as in the official code. Maps are not padded: the legacy class pads
    before its projection. That class's tensors (qkv.qkv, wo) are taken, its other routing modes are not
    offered.
Limits: the choice of regions is a step: where two are nearly as close, fp16, TF32 or INT8 take the other, and the result
    jumps. Keep qkv_linear and what it feeds in fp32, or judge by more than one map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_odd, require_positive
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.ops.region_gather import gather_regions
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.registry import register


@register(
    "bi_level_routing_attention",
    aliases=("bra", "biformer_attention", "biformer", "nchw_bra"),
    parameters=17280,
    multiple={"H": "n_win", "W": "n_win"},
)
class BiLevelRoutingAttention(nn.Module):
    """Lets the positions of each region attend to those of the few regions that are closest to it.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W, multiples of n_win.

    Args:
        channels: C.
        num_heads: heads that C is cut into; all share the routing.
        n_win: regions along each axis.
        topk: how many regions a region attends to.
        side_dwconv: kernel of the depthwise convolution of the values that is added.
        qk_scale: factor of the inner products; C ** -0.5 by default.

    Raises:
        ValueError: if num_heads does not divide channels, topk is above n_win ** 2, side_dwconv is even, or H or W is not a
            multiple of n_win.
    """

    official_keys = {"qkv.qkv": "qkv_linear", "wo": "output_linear"}  # of the legacy class

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        n_win: int = 7,
        topk: int = 4,
        side_dwconv: int = 3,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads, n_win=n_win, topk=topk)
        require_divisible("channels", channels, "num_heads", num_heads)
        require_odd(side_dwconv=side_dwconv)
        if topk > n_win * n_win:
            raise ValueError(
                f"topk must be at most the number of regions, got topk={topk} and n_win={n_win}: use at most "
                f"{n_win * n_win}."
            )
        self.channels, self.num_heads, self.n_win, self.topk = channels, num_heads, n_win, topk
        self.head_dim = channels // num_heads
        self.scale = channels**-0.5 if qk_scale is None else qk_scale
        self.qkv_linear = nn.Conv2d(channels, 3 * channels, 1)
        self.output_linear = nn.Conv2d(channels, channels, 1)
        self.lepe = nn.Conv2d(channels, channels, side_dwconv, padding=side_dwconv // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "BiLevelRoutingAttention")
        require_multiple_size(x, self.n_win, "BiLevelRoutingAttention")
        query, keys, values = split_channels(self.qkv_linear(x), (self.channels,) * 3)
        routes = self._routes(query, keys)
        key, value = (self._by_head(gather_regions(self._regions(t), routes)) for t in (keys, values))
        query = self._by_head(self._regions(query)) * self.scale
        weights = torch.matmul(query, key.transpose(3, 4)).softmax(4)
        mixed = torch.matmul(weights, value)  # (N, R, heads, T, C / heads)
        return self.output_linear(self._as_map(mixed, x) + self.lepe(values))

    def _routes(self, query: Tensor, key: Tensor) -> Tensor:
        """The regions that each region attends to: (N, R, topk)."""
        of_query, of_key = (self._cells(t).mean((3, 5)).flatten(2) for t in (query.detach(), key.detach()))
        return torch.matmul(of_query.transpose(1, 2), of_key).topk(self.topk, -1)[1]

    def _cells(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // self.n_win, x.shape[3] // self.n_win
        return x.reshape(x.shape[0], -1, self.n_win, height, self.n_win, width)

    def _regions(self, x: Tensor) -> Tensor:
        """(N, c, H, W) -> (N, R, T, c): the pixels of each region.

        Channels go last as a step of its own: whole pixels are moved then, which is several times as fast.
        """
        height, width = x.shape[2] // self.n_win, x.shape[3] // self.n_win
        pixels = x.flatten(2).transpose(1, 2).reshape(x.shape[0], self.n_win, height, self.n_win, width, x.shape[1])
        return pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _by_head(self, regions: Tensor) -> Tensor:
        """(N, R, t, C) -> (N, R, heads, t, C / heads)."""
        batch, count = regions.shape[0], self.n_win * self.n_win
        return regions.reshape(batch, count, -1, self.num_heads, self.head_dim).transpose(2, 3)

    def _as_map(self, mixed: Tensor, x: Tensor) -> Tensor:
        height, width = x.shape[2] // self.n_win, x.shape[3] // self.n_win
        cells = mixed.reshape(x.shape[0], self.n_win, self.n_win, self.num_heads, height, width, self.head_dim)
        pixels = cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(x.shape[0], -1, self.channels)
        return pixels.transpose(1, 2).reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])
