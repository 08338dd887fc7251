"""Squeeze-enhanced axial attention of SeaFormer.

Paper: SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation, ICLR 2023, arXiv:2301.13156.
Official: fudan-zvg/SeaFormer, seaformer-cls/seaformer.py (Sea_Attention).
Export: the position embeddings are resized by one product with a matrix of linear weights, built in integers from the
    symbolic length. At fixed sizes they are constants. Every BatchNorm folds; queries, keys, values and the row and column
    averages of them stay four-dimensional. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import activation, check_channels, conv_bn_act, linear_matrix, require_positive
from attn_deploy.ops.bounded import bounded_product_softmax
from attn_deploy.registry import register


@register("sea_attention", aliases=("sea", "seaformer_attention", "sea_attn"), parameters=81920)
class SqueezeEnhancedAxialAttention(nn.Module):
    """Attends between the averages of the rows and between those of the columns, and gates a convolved view by the result.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        key_dim: channels of a head's queries and keys.
        num_heads: number of heads.
        attn_ratio: channels of a head's values over key_dim.
        act: "relu", "relu6", "silu", "gelu" or "hardswish".
        pos_len: length of the position embeddings, which are resized to H and to W.

    Raises:
        ValueError: if int(attn_ratio * key_dim) < 1, act is unknown, or a number is below 1.
    """

    official_keys = {
        "to_q.c": "to_q.0",
        "to_q.bn": "to_q.1",
        "to_k.c": "to_k.0",
        "to_k.bn": "to_k.1",
        "to_v.c": "to_v.0",
        "to_v.bn": "to_v.1",
        "proj.1.c": "proj.0",
        "proj.1.bn": "proj.1",
        "proj_encode_row.1.c": "proj_row.0",
        "proj_encode_row.1.bn": "proj_row.1",
        "proj_encode_column.1.c": "proj_column.0",
        "proj_encode_column.1.bn": "proj_column.1",
        "pos_emb_rowq.pos_embed": "row_query_positions",
        "pos_emb_rowk.pos_embed": "row_key_positions",
        "pos_emb_columnq.pos_embed": "column_query_positions",
        "pos_emb_columnk.pos_embed": "column_key_positions",
        "dwconv.c": "detail.0",
        "dwconv.bn": "detail.1",
        "pwconv.c": "project_detail.0",
        "pwconv.bn": "project_detail.1",
    }

    def __init__(
        self,
        channels: int,
        *,
        key_dim: int = 16,
        num_heads: int = 4,
        attn_ratio: float = 2,
        act: str = "relu6",
        pos_len: int = 16,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, key_dim=key_dim, num_heads=num_heads, pos_len=pos_len)
        value_dim = int(attn_ratio * key_dim)
        if value_dim < 1:
            raise ValueError(
                f"int(attn_ratio * key_dim) must be at least 1, got attn_ratio={attn_ratio} and key_dim={key_dim}: use a "
                f"attn_ratio of at least {1 / key_dim:.3g}."
            )
        self.channels, self.key_dim, self.num_heads, self.value_dim = channels, key_dim, num_heads, value_dim
        self.pos_len = pos_len
        keys, values = num_heads * key_dim, num_heads * value_dim
        self.to_q = conv_bn_act(channels, keys)
        self.to_k = conv_bn_act(channels, keys)
        self.to_v = conv_bn_act(channels, values)
        self.row_query_positions = nn.Parameter(torch.randn(1, keys, pos_len))
        self.row_key_positions = nn.Parameter(torch.randn(1, keys, pos_len))
        self.column_query_positions = nn.Parameter(torch.randn(1, keys, pos_len))
        self.column_key_positions = nn.Parameter(torch.randn(1, keys, pos_len))
        self.act = activation(act)
        self.proj_row = conv_bn_act(values, values)
        self.proj_column = conv_bn_act(values, values)
        self.proj = conv_bn_act(values, channels)
        width = 2 * keys + values
        self.detail = conv_bn_act(width, width, 3, groups=width, act=act)
        self.project_detail = conv_bn_act(width, channels)
        self.gate = nn.Hardsigmoid()
        for layers in (self.proj_row, self.proj_column, self.proj):
            nn.init.zeros_(layers[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SqueezeEnhancedAxialAttention")
        query, key, value = self.to_q(x), self.to_k(x), self.to_v(x)
        detail = self.project_detail(self.detail(torch.cat((query, key, value), 1)))
        rows = linear_matrix(x.shape[2], self.pos_len, x)
        row = self._attended(
            query.mean(3) + self.row_query_positions.matmul(rows),
            key.mean(3) + self.row_key_positions.matmul(rows),
            value.mean(3),
        )
        columns = linear_matrix(x.shape[3], self.pos_len, x)
        column = self._attended(
            query.mean(2) + self.column_query_positions.matmul(columns),
            key.mean(2) + self.column_key_positions.matmul(columns),
            value.mean(2),
        )
        row = self.proj_row(self.act(row.unsqueeze(3)))
        column = self.proj_column(self.act(column.unsqueeze(2)))
        return self.gate(self.proj(self.act(value + row + column))) * detail

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Softmax attention between the places of a line: (N, channels, L) each -> (N, heads * value_dim, L)."""
        batch, length = query.shape[0], query.shape[2]
        query = query.reshape(batch, self.num_heads, self.key_dim, length) * self.key_dim**-0.5
        key = key.reshape(batch, self.num_heads, self.key_dim, length)
        value = value.reshape(batch, self.num_heads, self.value_dim, length)
        weights = bounded_product_softmax(query.transpose(2, 3), key, self.key_dim)
        return value.matmul(weights.transpose(2, 3)).reshape(batch, self.num_heads * self.value_dim, length)
