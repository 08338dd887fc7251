"""Separable self-attention of MobileViTv2.

Paper: Separable Self-attention for Mobile Vision Transformers, TMLR 2023, arXiv:2206.02680.
Official: apple/ml-cvnets, cvnets/layers/linear_attention.py (LinearSelfAttention).
Export: the weighted sum of the keys is a matrix product. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_positive
from attn_deploy.registry import Input, register


@register(
    "separable_self_attention",
    aliases=("linear_self_attention", "separable_attention"),
    parameters=12545,
    inputs=(Input("x", ("N", "channels", "P", "L")),),
    dynamic=("N", "P", "L"),
    sizes={"P": 4, "L": 35},
)
class SeparableSelfAttention(nn.Module):
    """Multiplies the values of all positions by one context vector, a softmax-weighted sum of keys; linear in positions.

    Shape: (N, C, P, L), P sequences of length L, -> (N, C, P, L); dynamic N, P, L.

    Args:
        channels: C.

    Raises:
        ValueError: if channels is below 1.
    """

    official_keys = {"qkv_proj.block.conv": "qkv_proj", "out_proj.block.conv": "out_proj"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.qkv_proj = nn.Conv2d(channels, 1 + 2 * channels, 1)
        self.out_proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SeparableSelfAttention")
        query, key, value = torch.split(self.qkv_proj(x), [1, self.channels, self.channels], 1)
        context = (key * query.softmax(3)).sum(3, keepdim=True)
        return self.out_proj(value.relu() * context)
