"""Global context block.

Paper: GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, ICCVW 2019, arXiv:1904.11492.
Official: xvjiarui/GCNet, mmdet/ops/gcb/context_block.py (ContextBlock); mmcv carries the same block.
Export: attention pooling is one product of the flattened map with the softmax weights as a column. Equal up to rounding.
Deviations: timm's GlobalContext gates by default and does not add, with a ratio of 1/8 and eps 1e-6; pytorch-attention
    defines the softmax and never applies it; awesome-attention leaves the initialisation out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    channel_layer_norm,
    check_channels,
    global_avg_pool,
    require_choice,
    require_positive,
)
from attn_deploy.registry import register

POOLINGS = ("att", "avg")
FUSIONS = ("channel_add", "channel_mul")


class ContextTransform(nn.Module):
    """The bottleneck on the context vector: 1x1 convolution, layer norm, ReLU, 1x1 convolution (starts at zero)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.expand = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, context: Tensor) -> Tensor:
        return self.expand(channel_layer_norm(self.reduce(context), self.weight, self.bias).relu())


@register("gc", aliases=("context_block", "gcnet", "gcb"), parameters=653)
class GlobalContextBlock(Fusible, nn.Module):
    """Adds to every position, or scales it by, one transformed context vector pooled by attention over the map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        ratio: width of the transform's hidden layer as a fraction of C; the published networks use 1/16 and 1/4.
        pooling_type: 'att' pools by softmax weights from a 1x1 convolution, 'avg' by the mean.
        fusion_types: what is done with the context, of 'channel_mul' (gate, done first) and 'channel_add'.

    Raises:
        ValueError: if int(channels * ratio) < 1, pooling_type is unknown, or fusion_types is empty or unknown.
    """

    official_keys = {
        f"{official}.{index}": f"{ours}{part}"
        for official, ours in (("channel_add_conv", "add"), ("channel_mul_conv", "mul"))
        for index, part in ((0, ".reduce"), (1, ""), (3, ".expand"))
    }

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 1 / 16,
        pooling_type: str = "att",
        fusion_types: Sequence[str] = ("channel_add",),
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        width = int(channels * ratio)
        if width < 1:
            raise ValueError(
                f"int(channels * ratio) must be at least 1, got channels={channels} and ratio={ratio}: "
                f"use a ratio of at least 1/{channels}."
            )
        require_choice("pooling_type", pooling_type, POOLINGS)
        if isinstance(fusion_types, str):
            fusion_types = (fusion_types,)
        if not fusion_types:
            raise ValueError(f"fusion_types must name at least one of {', '.join(map(repr, FUSIONS))}, got none.")
        for fusion in fusion_types:
            require_choice("fusion_types", fusion, FUSIONS)
        self.channels = channels
        self.pooling_type = pooling_type
        self.fusion_types = tuple(fusion_types)
        if pooling_type == "att":
            self.conv_mask = nn.Conv2d(channels, 1, 1)
            nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in")
            nn.init.zeros_(self.conv_mask.bias)
        if "channel_add" in fusion_types:
            self.add = ContextTransform(channels, width)
        if "channel_mul" in fusion_types:
            self.mul = ContextTransform(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GlobalContextBlock")
        context = self._pool(x)
        y = x
        if "channel_mul" in self.fusion_types:
            y = y * self.mul(context).sigmoid()
        if "channel_add" in self.fusion_types:
            y = y + self.add(context)
        return y

    def _pool(self, x: Tensor) -> Tensor:
        if self.pooling_type == "avg":
            return global_avg_pool(x)
        weights = self.conv_mask(x).flatten(1).softmax(1).unsqueeze(2)  # a column: a transposed row multiplies slower
        return torch.matmul(x.flatten(2), weights).unsqueeze(3)

    def fuse_(self) -> str | None:
        """Drop the mask's bias: softmax does not see a constant."""
        if self.pooling_type != "att" or self.conv_mask.bias is None:
            return None
        self.conv_mask.bias = None
        return "dropped the mask's bias"
