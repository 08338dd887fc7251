"""Position-sensitive axial attention of Axial-DeepLab.

Paper: Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation, ECCV 2020, arXiv:2003.07853.
Official: csrhddlam/axial-deeplab, lib/models/axialnet.py (AxialAttention).
Export: lines stay an axis of their own where the official code folds them into the batch, the convolution along lines is
    a 1x1 convolution on the map, and the three einsums with positions are batched matrix products. Equal up to rounding.
    Fusing folds every BatchNorm: that of the logits into the tables of positions and a factor of the queries, that of the
    output into the values and their table.
Deviations: the index of relative positions, a buffer of official checkpoints, is rebuilt here.
Limits: the axis that is attended along has the fixed length kernel_size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_sequential,
    require_convolution,
    require_multiple,
    require_positive,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register

_REFERENCE = {"in_channels": 64, "out_channels": 64, "groups": 4, "kernel_size": 16}


@register(
    "axial_attention_deeplab",
    aliases=("axial_deeplab", "position_sensitive_axial_attention"),
    reference=_REFERENCE,
    parameters=9720,
    inputs=(Input("x", ("N", "in_channels", "kernel_size", "W")),),
    dynamic=("N", "W"),
    minimum={"W": "stride"},
)
@register(
    "axial_attention_deeplab_width",
    aliases=("axial_attention_deeplab_w",),
    reference={**_REFERENCE, "width": True},
    parameters=9720,
    inputs=(Input("x", ("N", "in_channels", "H", "kernel_size")),),
    dynamic=("N", "H"),
    minimum={"H": "stride"},
    summary="Self-attention along the rows of a map, with learned relative positions in queries, keys and values.",
)
class PositionSensitiveAxialAttention(Fusible, nn.Module):
    """Self-attention along one axis of a map, with learned relative positions in queries, keys and values.

    Shape: (N, C_in, kernel_size, W) -> (N, C_out, kernel_size / stride, W / stride), or with ``width`` the same of W;
    dynamic N and the other axis.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        groups: heads.
        kernel_size: length of the axis that is attended along.
        stride: the result is averaged over windows of this side.
        width: attend along W instead of H.

    Raises:
        ValueError: if groups does not divide in_channels and out_channels, out_channels / groups is odd, or the axis has
            another length.
    """

    official_keys = {
        "qkv_transform": "qkv.0",
        "bn_qkv": "qkv.1",
        "flatten_index": None,
    }
    index: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = 8,
        kernel_size: int = 56,
        stride: int = 1,
        width: bool = False,
    ) -> None:
        super().__init__()
        require_convolution(in_channels, out_channels, groups)
        require_positive(kernel_size=kernel_size, stride=stride)
        require_multiple("out_channels / groups", out_channels // groups, 2, "queries and keys have half of them")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.length, self.stride, self.width = kernel_size, stride, width
        self.value_dim, self.key_dim = out_channels // groups, out_channels // groups // 2
        self.qkv = nn.Sequential(
            nn.Conv2d(in_channels, 2 * out_channels, 1, bias=False), nn.BatchNorm2d(2 * out_channels)
        )
        self.bn_similarity: nn.BatchNorm2d | None = nn.BatchNorm2d(3 * groups)
        self.bn_output: nn.BatchNorm2d | None = nn.BatchNorm2d(2 * out_channels)
        self.relative: nn.Parameter | None = nn.Parameter(torch.randn(2 * self.value_dim, 2 * kernel_size - 1))
        nn.init.normal_(self.relative, 0, self.value_dim**-0.5)
        nn.init.normal_(self.qkv[0].weight, 0, in_channels**-0.5)
        position = torch.arange(kernel_size)
        index = position.unsqueeze(1) - position.unsqueeze(0) + kernel_size - 1
        self.register_buffer("index", index.flatten(), persistent=False)

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of each place with each other: for queries and keys (L, key_dim, L), for values (L, L, value_dim)."""
        pairs = self.relative.index_select(1, self.index).reshape(-1, self.length, self.length)
        of_query, of_key, of_value = torch.split(pairs, [self.key_dim, self.key_dim, self.value_dim], 0)
        return of_query.transpose(0, 1), of_key.transpose(0, 1), of_value.permute(1, 2, 0)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "PositionSensitiveAxialAttention")
        self._check_length(x)
        y = self._deployed(x) if self.relative is None else self._attended(x)
        return y if self.stride == 1 else F.avg_pool2d(y, self.stride, self.stride)

    def _attended(self, x: Tensor) -> Tensor:
        """The attention with its BatchNorms: (N, in_channels, H, W) -> (N, out_channels, H, W)."""
        dims = self.qkv(x).reshape(x.shape[0], self.groups, 2 * self.value_dim, x.shape[2], x.shape[3])
        lines = dims.permute(0, 1, 3, 4, 2) if self.width else dims.permute(0, 1, 4, 3, 2)
        # Each piece gets its own memory: a matrix product of a strided one makes torch.export ask for a batch above 1.
        query, key, value = (
            t.clone(memory_format=torch.contiguous_format)
            for t in torch.split(lines, [self.key_dim, self.key_dim, self.value_dim], 4)
        )
        of_query, of_key, of_value = self._tables()
        terms = (
            torch.matmul(query, key.transpose(3, 4)),
            torch.matmul(query.transpose(2, 3), of_query).transpose(2, 3),
            torch.matmul(key.transpose(2, 3), of_key).permute(0, 1, 3, 4, 2),
        )
        logits = self.bn_similarity(torch.cat(terms, 1).flatten(2, 3))
        logits = logits.reshape(x.shape[0], 3, self.groups, -1, self.length, self.length).sum(1)
        weights = logits.softmax(4)
        of_content = torch.matmul(weights, value)
        of_position = torch.matmul(weights.transpose(2, 3), of_value).transpose(2, 3)
        both = torch.stack([of_content, of_position], 5).permute(0, 1, 4, 5, 2, 3)
        both = self.bn_output(both.reshape(x.shape[0], 2 * self.out_channels, -1, self.length))
        y = both.reshape(x.shape[0], self.out_channels, 2, -1, self.length).sum(2)
        return y if self.width else y.transpose(2, 3)

    def _deployed(self, x: Tensor) -> Tensor:
        """As `_attended` with every BatchNorm folded. Places lead, and the groups of all lines are one axis behind them.

        So the products with tables, one for each place, need no transpose on the way in. A transpose that moves one axis
        is ten times as fast in ONNX Runtime as one that reorders them all: channels go last, and back, as a single step.
        """
        batch, length = x.shape[0], self.length
        tokens = x.flatten(2).transpose(1, 2).reshape(-1, self.in_channels)
        projection = self.qkv[0]
        dims = F.linear(tokens, projection.weight.flatten(1), projection.bias)
        query, key, value = torch.split(self._places_first(dims, x), self._widths(), 2)
        of_content, of_place, of_key, key = (
            t.reshape(length, -1, self.key_dim)
            for t in (query * self.content_factor, query * self.place_factor, key * self.key_factor, key)
        )
        logits = torch.bmm(of_content.transpose(0, 1), key.permute(1, 2, 0))
        logits = logits + torch.bmm(of_place, self.query_table).transpose(0, 1)
        logits = logits + torch.bmm(of_key, self.key_table).permute(1, 2, 0)
        weights = logits.softmax(2)
        value = value.reshape(length, -1, self.value_dim).transpose(0, 1)
        mixed = torch.bmm(weights, value).transpose(0, 1).reshape(length, -1, self.out_channels)
        placed = torch.bmm(weights.transpose(0, 1), self.value_table).reshape(length, -1, self.out_channels)
        mixed = (mixed + placed * self.value_factor).reshape(length, batch, -1, self.out_channels)
        rows = (mixed.permute(1, 2, 0, 3) if self.width else mixed.transpose(0, 1)).reshape(
            batch, -1, self.out_channels
        )
        return rows.transpose(1, 2).reshape(batch, self.out_channels, x.shape[2], x.shape[3])

    def _places_first(self, tokens: Tensor, x: Tensor) -> Tensor:
        """(N * H * W, channels) -> (length, N * lines, channels)."""
        if self.width:
            lines = tokens.reshape(-1, self.length, tokens.shape[1])
            return lines.transpose(0, 1)
        maps = tokens.reshape(x.shape[0], self.length, -1, tokens.shape[1])
        return maps.transpose(0, 1).flatten(1, 2)

    def _widths(self) -> list[int]:
        """Channels of all queries, of all keys and of all values."""
        return [self.groups * self.key_dim, self.groups * self.key_dim, self.out_channels]

    def _check_length(self, x: Tensor) -> None:
        axis = "W" if self.width else "H"
        if sizes_are_known() and x.shape[3 if self.width else 2] != self.length:
            raise ValueError(
                f"PositionSensitiveAxialAttention: {axis} must be kernel_size={self.length}, got "
                f"{x.shape[2]}x{x.shape[3]}: construct it with the length of that axis."
            )

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorms of the logits and of the output into tables, a factor of the queries and the values."""
        if self.relative is None:
            return None
        dtype = self.relative.dtype
        self.query_table, self.key_table, self.value_table = (nn.Parameter(t.contiguous()) for t in self._tables())
        logit_scale, _ = scale_and_shift(self.bn_similarity, dtype=torch.float64)  # softmax cancels the shift
        self.content_factor, self.place_factor, self.key_factor = (
            nn.Parameter(f.repeat_interleave(self.key_dim).to(dtype)) for f in logit_scale.reshape(3, self.groups)
        )
        output_scale, output_shift = scale_and_shift(self.bn_output, dtype=torch.float64)
        of_content, of_position = output_scale.reshape(self.groups, self.value_dim, 2).unbind(2)
        self.value_factor = nn.Parameter(of_position.flatten().to(dtype))
        fold_sequential(self.qkv)
        projection = self.qkv[0]
        weight = projection.weight.reshape(self.groups, 2 * self.value_dim, -1)
        bias = projection.bias.reshape(self.groups, 2 * self.value_dim)
        values = slice(2 * self.key_dim, None)
        shift = output_shift.reshape(self.groups, self.value_dim, 2).sum(2)  # weights sum to 1
        weight[:, values] *= of_content.unsqueeze(2).to(dtype)
        bias[:, values] = (bias[:, values].double() * of_content + shift).to(dtype)
        by_kind = torch.arange(2 * self.out_channels).reshape(self.groups, -1)
        order = torch.cat([t.flatten() for t in torch.split(by_kind, [w // self.groups for w in self._widths()], 1)])
        projection.weight.copy_(projection.weight[order])
        projection.bias.copy_(projection.bias[order])
        self.relative = self.bn_similarity = self.bn_output = None
        return "folded the BatchNorms of the logits and of the output"
