"""Efficient Attention.

Paper: Efficient Attention: Attention with Linear Complexities, WACV 2021, arXiv:1812.01243.
Official: cmsflash/efficient-attention, efficient_attention.py, EfficientAttention.
Export: all heads at once in one batched product, where the official code loops over slices. Cost is linear in H * W:
    keys and values meet in a small context matrix first. Fused, the three input convolutions are one, and the
    reprojection acts on that matrix.
Deviations: lucidrains' linear attention scales the queries and leaves out the residual or a bias.
Limits: the official code cuts heads wrongly, without a word, where the widths are no multiple of the heads; here that
    is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_positive
from attn_deploy.ops.parallel_convs import join_parallel_convs, split_channels
from attn_deploy.registry import register


@register("efficient_attention", aliases=("linear_attention_efficient", "efficient_attention_linear"), parameters=8352)
class EfficientAttention(nn.Module, Fusible):
    """Self-attention of linear cost: softmax over positions for keys, over channels for queries, and no H * W map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        key_channels: channels of keys and queries over all heads, C // 2 by default.
        num_heads: number of heads.
        value_channels: channels of the values over all heads, C // 2 by default.

    Raises:
        ValueError: if key_channels or value_channels is not a multiple of num_heads.
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int | None = None,
        num_heads: int = 1,
        value_channels: int | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads)
        self.key_channels = channels // 2 if key_channels is None else key_channels
        self.value_channels = channels // 2 if value_channels is None else value_channels
        for name, width in (("key_channels", self.key_channels), ("value_channels", self.value_channels)):
            require_positive(**{name: width})
            require_divisible(name, width, "num_heads", num_heads)
        self.channels = channels
        self.num_heads = num_heads
        self.keys = nn.Conv2d(channels, self.key_channels, 1)
        self.queries = nn.Conv2d(channels, self.key_channels, 1)
        self.values = nn.Conv2d(channels, self.value_channels, 1)
        self.reprojection = nn.Conv2d(self.value_channels, channels, 1)
        self.projection: nn.Conv2d | None = None  # keys, queries and values, once fused

    def _projected(self, x: Tensor) -> Sequence[Tensor]:
        if self.projection is None:
            return self.keys(x).flatten(2), self.queries(x).flatten(2), self.values(x).flatten(2)
        widths = [self.key_channels, self.key_channels, self.value_channels]
        return split_channels(self.projection(x).flatten(2), widths)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "EfficientAttention")
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        heads, key_width, value_width = (
            self.num_heads,
            self.key_channels // self.num_heads,
            self.value_channels // self.num_heads,
        )
        keys, queries, values = self._projected(x)
        keys = keys.reshape(batch, heads, key_width, -1).softmax(3)
        queries = queries.reshape(batch, heads, key_width, -1).softmax(2)
        values = values.reshape(batch, heads, value_width, -1)
        context = torch.matmul(keys, values.transpose(2, 3))
        if self.projection is None:
            attended = torch.matmul(context.transpose(2, 3), queries)
            return self.reprojection(attended.reshape(batch, self.value_channels, height, width)) + x
        joint = torch.matmul(context, self.by_head.transpose(1, 2)).reshape(batch, self.key_channels, self.channels)
        attended = torch.matmul(joint.transpose(1, 2), queries.reshape(batch, self.key_channels, -1))
        attended = attended + self.shift
        return attended.reshape(batch, self.channels, height, width) + x

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Join the input convolutions; from then on the reprojection acts on the context matrix."""
        if self.projection is not None:
            return None
        self.projection = join_parallel_convs(self.keys, self.queries, self.values)
        weight, value_width = self.reprojection.weight, self.value_channels // self.num_heads
        by_head = weight.reshape(self.channels, self.num_heads, value_width).transpose(0, 1)
        self.by_head = nn.Parameter(by_head.contiguous())  # (heads, C, values of a head)
        self.shift = nn.Parameter(self.reprojection.bias.unsqueeze(1))
        self.keys = self.queries = self.values = self.reprojection = None
        return "joined the convolutions of keys, queries and values"
