"""Axial attention: self-attention along the columns and along the rows of a map.

Paper: Axial Attention in Multidimensional Transformers, 2019, arXiv:1912.12180.
Official: no PyTorch code was published; as lucidrains/axial-attention, axial_attention/axial_attention.py
    (AxialAttention with two dimensions and dim_index=1), which External-Attention copies.
Export: linear layers are 1x1 convolutions on the map, and rows or columns stay an axis of their own where the usual form
    folds them into the batch. Equal up to rounding. Fusing joins queries, keys and values and puts the scale into the
    queries.
Deviations: none; there is neither a residual nor a position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_positive
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.registry import register


class LineAttention(Fusible, nn.Module):
    """Multi-head self-attention of the positions of each line of a map.

    Shape: (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: C.
        num_heads: number of heads.
        dim_head: width of a head.
        along_width: whether lines are rows; columns otherwise.
    """

    def __init__(self, channels: int, num_heads: int, dim_head: int, *, along_width: bool) -> None:
        super().__init__()
        self.num_heads, self.dim_head, self.along_width = num_heads, dim_head, along_width
        self.inner, self.scale = num_heads * dim_head, dim_head**-0.5
        self.to_q: nn.Conv2d | None = nn.Conv2d(channels, self.inner, 1, bias=False)
        self.to_kv: nn.Conv2d | None = nn.Conv2d(channels, 2 * self.inner, 1, bias=False)
        self.to_out = nn.Conv2d(self.inner, channels, 1)
        self.to_qkv: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Attend along the lines."""
        if self.to_qkv is not None:
            query, key, value = split_channels(self.to_qkv(x), (self.inner,) * 3)
        else:
            query = self.to_q(x) * self.scale
            key, value = split_channels(self.to_kv(x), (self.inner,) * 2)
        query, key, value = (self._lines(t) for t in (query, key, value))
        weights = torch.matmul(query, key.transpose(3, 4)).softmax(4)
        mixed = torch.matmul(weights, value)
        if not self.along_width:
            mixed = mixed.transpose(2, 3)
        mixed = mixed.reshape(x.shape[0], self.num_heads, -1, self.dim_head).transpose(2, 3)
        return self.to_out(mixed.reshape(x.shape[0], self.inner, x.shape[2], x.shape[3]))

    def _lines(self, x: Tensor) -> Tensor:
        """(N, heads * e, H, W) -> (N, heads, lines, positions, e).

        Channels go last as a step of its own: one transpose that moves rows and columns too takes several times as long.
        """
        places = x.reshape(x.shape[0], self.num_heads, self.dim_head, -1).transpose(2, 3)
        rows = places.reshape(x.shape[0], self.num_heads, x.shape[2], x.shape[3], self.dim_head)
        return rows if self.along_width else rows.transpose(2, 3)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One convolution for queries, keys and values, with the scale in the queries."""
        if self.to_qkv is not None:
            return None
        joined = nn.Conv2d(self.to_q.in_channels, 3 * self.inner, 1, bias=False)
        joined.weight = nn.Parameter(torch.cat([self.to_q.weight * self.scale, self.to_kv.weight]))
        self.to_qkv, self.to_q, self.to_kv = joined, None, None
        return "joined queries, keys and values in one convolution"


@register("axial_attention", aliases=("axial", "axial_attn"), parameters=32896)
class AxialAttention(nn.Module):
    """Adds the results of attention along the columns and along the rows, or takes one after the other.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        num_heads: number of heads.
        dim_head: width of a head; C // num_heads by default.
        sum_axial_out: add both; otherwise rows are attended to after columns.

    Raises:
        ValueError: if num_heads does not divide channels, or a number is below 1.
    """

    official_keys = {"axial_attentions.0.fn": "along_h", "axial_attentions.1.fn": "along_w"}

    def __init__(
        self, channels: int, *, num_heads: int = 8, dim_head: int | None = None, sum_axial_out: bool = True
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads)
        require_divisible("channels", channels, "num_heads", num_heads)
        width = channels // num_heads if dim_head is None else dim_head
        require_positive(dim_head=width)
        self.channels, self.sum_axial_out = channels, sum_axial_out
        self.along_h = LineAttention(channels, num_heads, width, along_width=False)
        self.along_w = LineAttention(channels, num_heads, width, along_width=True)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "AxialAttention")
        if self.sum_axial_out:
            return self.along_h(x) + self.along_w(x)
        return self.along_w(self.along_h(x))
