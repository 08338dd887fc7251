"""Halo attention: blocks of queries attend to the block and a halo around it.

Paper: Scaling Local Self-Attention for Parameter Efficient Visual Backbones, CVPR 2021, arXiv:2103.12731.
Official: no PyTorch code was published; as huggingface/pytorch-image-models, timm/layers/halo_attn.py (HaloAttn,
    PosEmbedRel).
Export: windows are one gather of places instead of Tensor.unfold, which the TorchScript exporter refuses; relative
    positions are a constant index into their table instead of padding and reshaping. Equal up to rounding. Fusing puts the
    scale into the keys, or into the queries where it covers the positions too.
Deviations: the padding is not masked, as in timm: the logit of a padded key is its position's term. lucidrains'
    halonet-pytorch, and External-Attention after it, mask the valid keys instead of the padding, so that inside the map
    all queries of a block get the same average.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    require_choice,
    require_divisible,
    require_not_negative,
    require_positive,
)
from attn_deploy.ops.halo_windows import halo_tokens
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.registry import register


@register(
    "halo_attention",
    aliases=("halo", "halo_attn", "halonet"),
    parameters=12720,
    multiple={"H": "block_size", "W": "block_size"},
)
class HaloAttention(Fusible, nn.Module):
    """Lets the positions of each block attend to those of the block and its halo, with learned relative positions.

    Shape: (N, C, H, W) -> (N, out_channels, H / stride, W / stride); dynamic N, H, W, multiples of block_size.

    Args:
        channels: C.
        out_channels: channels of the output; C by default.
        num_heads: heads that the output is cut into.
        dim_head: width of queries and keys in a head; from qk_ratio by default.
        block_size: side of a block of queries.
        halo_size: by how much the block's keys reach over it on every side.
        stride: 1 or 2; queries are taken at every second position, or the result is averaged.
        qk_ratio: width of queries and keys over that of the output.
        qkv_bias: whether queries, keys and values have a bias.
        avg_down: average the result with stride 2, as is also done for an odd block_size.
        scale_pos_embed: scale the positions' terms like the inner products.

    Raises:
        ValueError: if num_heads does not divide out_channels, stride is neither 1 nor 2, a number is below its least, or
            H or W is not a multiple of block_size.
    """

    official_keys = {"pos_embed.height_rel": "height_rel", "pos_embed.width_rel": "width_rel"}
    relative: Tensor

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        num_heads: int = 8,
        dim_head: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        qk_ratio: float = 1.0,
        qkv_bias: bool = False,
        avg_down: bool = False,
        scale_pos_embed: bool = False,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        require_positive(channels=channels, out_channels=out_channels, num_heads=num_heads, block_size=block_size)
        require_divisible("out_channels", out_channels, "num_heads", num_heads)
        require_choice("stride", stride, (1, 2))
        require_not_negative(halo_size=halo_size)
        width = _rounded(out_channels * qk_ratio, 8) // num_heads if dim_head is None else dim_head
        if width < 1:
            raise ValueError(
                f"queries need at least a channel in each head, got num_heads={num_heads}, dim_head={dim_head} and "
                f"qk_ratio={qk_ratio} for out_channels={out_channels}: give dim_head."
            )
        self.channels, self.out_channels, self.num_heads = channels, out_channels, num_heads
        self.block_size, self.halo_size, self.scale_pos_embed = block_size, halo_size, scale_pos_embed
        self.key_dim, self.value_dim, self.window = width, out_channels // num_heads, block_size + 2 * halo_size
        self.averaged = stride > 1 and (avg_down or block_size % stride != 0)
        self.query_stride = 1 if self.averaged else stride
        self.query_block = block_size // self.query_stride
        self.scale = width**-0.5
        self.q = nn.Conv2d(channels, num_heads * width, 1, stride=self.query_stride, bias=qkv_bias)
        self.kv = nn.Conv2d(channels, num_heads * (width + self.value_dim), 1, bias=qkv_bias)
        for layer in (self.q, self.kv):
            nn.init.trunc_normal_(layer.weight, std=channels**-0.5)
        self.height_rel = nn.Parameter(torch.empty(2 * self.window - 1, width))
        self.width_rel = nn.Parameter(torch.empty(2 * self.window - 1, width))
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=width**-0.5)
        distance = torch.arange(self.window).unsqueeze(0) - torch.arange(self.query_block).unsqueeze(1)
        self.register_buffer("relative", (distance + self.window - 1).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "HaloAttention")
        require_multiple_size(x, self.block_size, "HaloAttention")
        batch, rows, columns = x.shape[0], x.shape[2] // self.block_size, x.shape[3] // self.block_size
        side, heads = self.query_block, self.num_heads
        # Channels go last, and back, as a step of its own, which is ten times as fast as with the blocks in one.
        query = self.q(x).reshape(batch, heads, self.key_dim, -1).transpose(2, 3)
        query = query.reshape(batch, heads, rows, side, columns, side, self.key_dim)
        query = query.transpose(3, 4).flatten(2, 3)  # (N, heads, blocks, y, x, key_dim)
        maps = self.kv(x).reshape(batch, heads, self.key_dim + self.value_dim, x.shape[2], x.shape[3])
        key, value = (
            halo_tokens(t.flatten(1, 2), heads, self.block_size, self.halo_size)
            for t in torch.split(maps, [self.key_dim, self.value_dim], 2)
        )
        if self.scale != 1.0 and self.scale_pos_embed:
            query = query * self.scale
        logits = torch.matmul(query.flatten(3, 4), key.transpose(3, 4))
        if self.scale != 1.0 and not self.scale_pos_embed:
            logits = logits * self.scale
        mixed = torch.matmul((logits + self._positions(query)).softmax(4), value)
        mixed = mixed.reshape(batch, heads, rows, columns, side, side, self.value_dim).transpose(3, 4)
        y = mixed.reshape(batch, heads, -1, self.value_dim).transpose(2, 3)
        y = y.reshape(batch, self.out_channels, rows * side, columns * side)
        return F.avg_pool2d(y, 2, 2) if self.averaged else y

    def _positions(self, query: Tensor) -> Tensor:
        """The positions' terms of the logits: (N, heads, blocks, queries, keys)."""
        shape = (self.query_block, self.window, self.key_dim)
        down, across = (t.index_select(0, self.relative).reshape(shape) for t in (self.height_rel, self.width_rel))
        along_h = torch.matmul(query, down.transpose(1, 2))  # (N, heads, blocks, y, x, i)
        along_w = torch.matmul(query.transpose(3, 4), across.transpose(1, 2)).transpose(3, 4)
        return (along_h.unsqueeze(6) + along_w.unsqueeze(5)).flatten(5, 6).flatten(3, 4)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put the scale into the keys, or into the queries where it covers the positions too."""
        if self.scale == 1.0:
            return None
        for tensor in (self.q.weight, self.q.bias) if self.scale_pos_embed else (self.kv.weight, self.kv.bias):
            if tensor is None:
                continue
            if self.scale_pos_embed:
                tensor *= self.scale
            else:
                tensor.reshape(self.num_heads, self.key_dim + self.value_dim, -1)[:, : self.key_dim] *= self.scale
        self.scale = 1.0
        return f"put the scale into the {'queries' if self.scale_pos_embed else 'keys'}"


def _rounded(width: float, multiple: int) -> int:
    """The multiple nearest to a width, at least one, and never more than a tenth below it."""
    rounded = max(multiple, int(width + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * width else rounded
