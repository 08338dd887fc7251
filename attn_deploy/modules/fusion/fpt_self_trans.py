"""Self-transformer of the Feature Pyramid Transformer: non-local attention with a mixture of softmaxes.

Paper: Feature Pyramid Transformer, ECCV 2020, arXiv:2007.09451.
Official: ZHANGDONG-NJUST/FPT, lib/modeling/self_trans.py (SelfTrans).
Export: heads and mixtures are one axis of a batched product; sizes of the pooled map come from the pooled map, so odd H
    and W work too, which the official code refuses. Equal up to rounding.
Deviations: the official constructor ignores its dropout argument and uses 0.1 always; here it counts.
Limits: holds num_mixtures attention matrices of (H * W) x (pooled H * W) for each head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_into_conv,
    require_choice,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import register


@register("fpt_self_trans", parameters=12672)
class FPTSelfTransformer(Fusible, nn.Module):
    """Adds to each position values from all positions, weighted by a mixture of softmaxes over key blocks.

    Shape: (N, C, H, W) -> (N, C, H, W), or (N, 2 * C, H, W) with concat; dynamic N, H, W.

    Args:
        channels: C.
        num_heads: attention heads.
        num_mixtures: blocks of key channels, each with its own softmax.
        key_channels: channels of queries and keys for each head; C by default.
        value_channels: channels of values for each head; C by default.
        query_transform: what makes queries and keys, with shared weights: 'conv' (1x1), 'ffn' (3x3, BatchNorm, ReLU,
            1x1) or 'dffn' (the same, dilated by 4).
        pooling: keys and values come from the map averaged over 3x3 windows at every second position.
        concat: put the result before the input along the channels instead of adding it.
        dropout: rate of the dropout on each softmax.

    Raises:
        ValueError: if key_channels is not a multiple of num_mixtures, or query_transform is unknown.
    """

    official_keys = {
        "conv_qs": "query",
        "conv_ks": None,
        "conv_vs": "value",
        "attention.weight": "mixture",
        "conv": "project",
        "norm_layer": "norm",
    }

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 1,
        num_mixtures: int = 2,
        key_channels: int | None = None,
        value_channels: int | None = None,
        query_transform: str = "conv",
        pooling: bool = True,
        concat: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        key_channels = channels if key_channels is None else key_channels
        value_channels = channels if value_channels is None else value_channels
        require_positive(channels=channels, num_heads=num_heads, num_mixtures=num_mixtures)
        require_positive(key_channels=key_channels, value_channels=value_channels)
        require_divisible("key_channels", key_channels, "num_mixtures", num_mixtures)
        require_choice("query_transform", query_transform, ("conv", "ffn", "dffn"))
        self.channels, self.num_heads, self.num_mixtures = channels, num_heads, num_mixtures
        self.key_channels, self.value_channels, self.concat = key_channels, value_channels, concat
        self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False) if pooling else nn.Identity()
        self.query = _query_transform(query_transform, channels, num_heads * key_channels)
        self.value = nn.Conv2d(channels, num_heads * value_channels, 1)
        self.mixture: nn.Parameter | None = None
        if num_mixtures > 1:
            bound = num_mixtures**-0.5
            self.mixture = nn.Parameter(torch.empty(num_mixtures, key_channels).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)
        self.project: nn.Module = nn.Conv2d(num_heads * value_channels, channels, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        if query_transform == "conv":
            nn.init.normal_(self.query.weight, 0, math.sqrt(2 / (channels + key_channels)))
        nn.init.normal_(self.value.weight, 0, math.sqrt(2 / (channels + value_channels)))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "FPTSelfTransformer")
        batch, heads, mixtures = x.shape[0], self.num_heads, self.num_mixtures
        pooled = self.pool(x)
        query = self.query(x).reshape(batch, heads * mixtures, self.key_channels // mixtures, -1)
        key = self.query(pooled).reshape(batch, heads * mixtures, self.key_channels // mixtures, -1)
        value = self.value(pooled).reshape(batch, heads, self.value_channels, -1)
        energy = query.transpose(2, 3).matmul(key * self.key_channels**-0.5)
        attention = self.dropout(energy.softmax(3))
        if self.mixture is not None:
            mean = query.mean(3).reshape(batch, heads, self.key_channels)
            shares = mean.matmul(self.mixture.transpose(0, 1)).softmax(2).reshape(batch, heads * mixtures, 1, 1)
            shared = attention * shares
            attention = shared[:, ::mixtures]
            for i in range(1, mixtures):
                attention = attention + shared[:, i::mixtures]
        mixed = attention.matmul(value.transpose(2, 3)).transpose(2, 3)  # faster than the transpose of the weights
        mixed = mixed.reshape(batch, heads * self.value_channels, x.shape[2], x.shape[3])
        mixed = self.norm(self.project(mixed))
        return torch.cat([mixed, x], 1) if self.concat else x + mixed

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorm; with one head, take the projection into the values: mixed softmaxes still sum to one."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return None
        project = fold_bn_into_conv(self.project, self.norm)
        self.norm = nn.Identity()
        if self.num_heads > 1 or self.value_channels < self.channels:
            self.project = project
            return "folded BatchNorm into the projection"
        matrix = project.weight.flatten(1)
        value = nn.Conv2d(self.channels, self.channels, 1).to(matrix)
        value.weight.copy_(matrix.matmul(self.value.weight.flatten(1)).reshape(value.weight.shape))
        value.bias.copy_(matrix.matmul(self.value.bias) + project.bias)
        self.value, self.value_channels, self.project = value, self.channels, nn.Identity()
        return "projection and BatchNorm folded into the values"


def _query_transform(kind: str, channels: int, width: int) -> nn.Module:
    if kind == "conv":
        return nn.Conv2d(channels, width, 1)
    dilation = 4 if kind == "dffn" else 1
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
    )
