"""Generalized attention: any sum of four energy terms over content and relative position.

Paper: An Empirical Study of Spatial Attention Mechanisms in Deep Networks, ICCV 2019, arXiv:1904.05873.
Official: open-mmlab/mmcv, mmcv/cnn/bricks/generalized_attention.py (GeneralizedAttention; the authors' release).
Export: position embeddings are computed from the symbolic lengths and stay free of the batch axis; strided pooling with
    a 1x1 window is a slice; the mask of spatial_range is computed, not stored for one map size. Equal up to rounding.
Deviations: with the second term and without the fourth, the official code takes the vertical energy from an already
    transposed query: it crashes where H and W differ and is silently wrong where they agree. Here it is right.
    Officially spatial_range works at 256 and 512 channels only; here at any.
Limits: holds an energy of num_heads x (H * W) x (H * W / kv_stride^2). Energies are not scaled by the head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_positive, resize_bilinear
from attn_deploy.registry import register

_MASKED = -6e4  # within fp16; the energies are not scaled, so the usual -1e4 could be reached by one


@register(
    "generalized_attention",
    aliases=("empirical_attention", "gen_attention_block"),
    parameters=20351,
)
@register(
    "generalized_attention_0010",
    reference={"channels": 64, "attention_type": "0010"},
    parameters=12224,
    summary="Generalized attention by key content alone: one attention map for all positions.",
)
class GeneralizedAttention(Fusible, nn.Module):
    """Adds multi-head attention whose energy sums query-key, query-position, key and position terms.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        num_heads: heads; each has channels // num_heads channels.
        spatial_range: positions farther away than this along H or W are masked; -1 for no mask.
        position_embedding_dim: width of the sine and cosine embedding of a relative position; -1 for channels.
        position_magnitude: factor on relative positions.
        kv_stride: every how many-th row and column gives a key.
        q_stride: every how many-th row and column gives a query; the result is resized bilinearly.
        attention_type: four bits: query with key content, query with position, key content, position.

    Raises:
        ValueError: if attention_type is not four bits with a 1 among them, channels is less than num_heads, or
            position_embedding_dim is not a multiple of 4 where a position term needs it.
    """

    official_keys = {
        "query_conv": "query",
        "key_conv": "key",
        "value_conv": "value",
        "proj_conv": "project",
        "appr_bias": "content_bias",
        "geom_bias": "position_bias",
        "appr_geom_fc_x": "position_x",
        "appr_geom_fc_y": "position_y",
        "local_constraint_map": None,
    }
    wavelengths: Tensor

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 9,
        spatial_range: int = -1,
        position_embedding_dim: int = -1,
        position_magnitude: float = 1,
        kv_stride: int = 2,
        q_stride: int = 1,
        attention_type: str | int = "1111",
    ) -> None:
        super().__init__()
        attention_type = str(attention_type)
        require_positive(channels=channels, num_heads=num_heads, kv_stride=kv_stride, q_stride=q_stride)
        if len(attention_type) != 4 or set(attention_type) - {"0", "1"} or "1" not in attention_type:
            raise ValueError(
                f"attention_type must be four characters 0 or 1 with a 1 among them, got {attention_type!r}: "
                "'1111' has all terms, '0010' key content alone."
            )
        if channels < num_heads:
            raise ValueError(
                f"channels must be at least num_heads, got channels={channels} and num_heads={num_heads}: "
                f"use num_heads of at most {channels}."
            )
        content, relative, key_content, position = (bit == "1" for bit in attention_type)
        self.channels, self.num_heads, self.head_channels = channels, num_heads, channels // num_heads
        self.spatial_range, self.position_magnitude = spatial_range, position_magnitude
        self.kv_stride, self.q_stride = kv_stride, q_stride
        self.query_meets_content, self.query_meets_position = content, relative
        self.one_map = attention_type == "0010" and spatial_range < 0
        self.batch_free = attention_type == "0001"
        width = self.head_channels * num_heads
        self.query = nn.Conv2d(channels, width, 1, bias=False) if content or relative else None
        self.key = nn.Conv2d(channels, width, 1, bias=False) if content or key_content else None
        self.value = nn.Conv2d(channels, width, 1, bias=False)
        self.position_x: nn.Linear | None = None
        self.position_y: nn.Linear | None = None
        if relative or position:
            embedding = channels if position_embedding_dim < 0 else position_embedding_dim
            require_positive(position_embedding_dim=embedding)
            require_divisible("position_embedding_dim", embedding, "4, one half each for x and y, sine and cosine", 4)
            self.position_x = nn.Linear(embedding // 2, width, bias=False)
            self.position_y = nn.Linear(embedding // 2, width, bias=False)
            steps = torch.arange(embedding // 4) * (4.0 / embedding)
            self.register_buffer("wavelengths", torch.pow(1000.0, steps), persistent=False)
        self.content_bias = nn.Parameter(torch.empty(width)) if key_content else None
        self.position_bias = nn.Parameter(torch.empty(width)) if position else None
        self.project = nn.Conv2d(width, channels, 1)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.zeros(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The official initial values."""
        for layer in (self.query, self.key, self.value, self.position_x, self.position_y, self.project):
            if layer is not None:
                bound = math.sqrt(3 / layer.weight.shape[1])
                layer.weight.uniform_(-bound, bound)
                if layer.bias is not None:
                    layer.bias.zero_()
        bound = 1 / math.sqrt(2 * self.head_channels)
        for bias in (self.content_bias, self.position_bias):
            if bias is not None:
                bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GeneralizedAttention")
        dense = x if self.q_stride == 1 else F.avg_pool2d(x, 1, self.q_stride)
        sparse = x if self.kv_stride == 1 else F.avg_pool2d(x, 1, self.kv_stride)
        query = None if self.query is None else self._heads(self.query(dense))
        terms = []
        if self.key is not None:
            key = self._heads(self.key(sparse))
            rows = self._rows(query if self.query_meets_content else None, self.content_bias)
            if self.query_meets_content:
                terms.append(rows.transpose(2, 3).matmul(key))
            else:  # not a product that broadcasts over the batch: torch.export would ask for a batch above 1
                terms.append((rows * key).sum(2, keepdim=True))
        if self.position_x is not None:
            rows = self._rows(query if self.query_meets_position else None, self.position_bias)
            terms.append(self._position_energy(rows, dense, sparse))
        energy = sum(terms[1:], start=terms[0])
        if self.spatial_range >= 0:
            energy = torch.where(self._within_range(dense, sparse), energy, _MASKED)
        attention = energy.softmax(3)
        if self.batch_free:  # spelled out, for a product that broadcasts would ask torch.export for a batch above 1
            attention = attention.expand(x.shape[0], -1, -1, -1)
        values = self._heads(self.value(sparse))
        if self.one_map:  # one query: its row needs no transpose back
            mixed = attention.matmul(values.transpose(2, 3))
        else:
            mixed = attention.matmul(values.transpose(2, 3)).transpose(2, 3)  # faster than to transpose the weights
        height, width = (1, 1) if self.one_map else (dense.shape[2], dense.shape[3])
        out = self.project(mixed.reshape(x.shape[0], self.num_heads * self.head_channels, height, width))
        if self.q_stride > 1 and not self.one_map:
            out = resize_bilinear(out, x.shape[2], x.shape[3], align_corners=False)
        return x + out if self.gamma is None else x + self.gamma * out

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.num_heads, self.head_channels, -1)

    def _rows(self, query: Tensor | None, bias: Tensor | None) -> Tensor:
        """What meets the keys or positions: query, bias or their sum, (N or 1, heads, head_channels, queries or 1)."""
        if bias is None:
            return query
        bias = bias.reshape(1, self.num_heads, self.head_channels, 1)
        return bias if query is None else query + bias

    def _position_energy(self, rows: Tensor, dense: Tensor, sparse: Tensor) -> Tensor:
        """The rows times the embedded offsets along x and along y: (N or 1, heads, queries, keys)."""
        height, width = (dense.shape[2], dense.shape[3]) if self.query_meets_position else (1, 1)
        rows = rows.reshape(rows.shape[0], self.num_heads, self.head_channels, height, width)
        offsets_x = self._offsets(self.position_x, dense.shape[3], sparse.shape[3], rows)
        offsets_y = self._offsets(self.position_y, dense.shape[2], sparse.shape[2], rows)
        along_x = rows.permute(0, 1, 4, 3, 2).matmul(offsets_x).transpose(2, 3)  # (N, heads, h, w, keys along x)
        along_y = rows.permute(0, 1, 3, 4, 2).matmul(offsets_y)  # (N, heads, h, w, keys along y)
        return (along_x.unsqueeze(4) + along_y.unsqueeze(5)).flatten(4).flatten(2, 3)

    def _offsets(self, layer: nn.Linear, queries: int, keys: int, like: Tensor) -> Tensor:
        """Embedded offsets of all queries and keys of one axis: (heads, queries, head_channels, keys)."""
        query = torch.arange(queries, device=like.device).unsqueeze(1) * self.q_stride
        key = torch.arange(keys, device=like.device).unsqueeze(0) * self.kv_stride
        offset = (query - key).to(like.dtype) * self.position_magnitude
        angle = offset.unsqueeze(2) / self.wavelengths
        embedded = layer(torch.cat([angle.sin(), angle.cos()], 2)) * math.sqrt(0.5)
        return embedded.reshape(queries, keys, self.num_heads, self.head_channels).permute(2, 0, 3, 1)

    def _within_range(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """Whether a key lies within spatial_range of a query: (queries, keys), by the official integer rule."""
        axes = []
        for axis in (2, 3):
            query = torch.arange(dense.shape[axis], device=dense.device).unsqueeze(1)
            key = torch.arange(sparse.shape[axis], device=dense.device).unsqueeze(0) * self.kv_stride
            before, after = key + self.kv_stride > query - self.spatial_range, key <= query + self.spatial_range + 1
            axes.append(before & after)
        rows, columns = axes
        return (rows.unsqueeze(1).unsqueeze(3) & columns.unsqueeze(0).unsqueeze(2)).flatten(2).flatten(0, 1)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Take gamma into the last convolution."""
        if self.gamma is None:
            return None
        self.project.weight.mul_(self.gamma)
        self.project.bias.mul_(self.gamma)
        self.gamma = None
        return "gamma in the projection"
