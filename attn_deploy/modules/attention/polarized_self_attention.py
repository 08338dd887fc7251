"""Polarized self-attention, parallel and sequential, as the official code has it and as the paper does.

Paper: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, Neurocomputing 2022, arXiv:2107.00782.
Official: DeLightCMU/PSA, semantic-segmentation/network/PSA.py (PSA_p, PSA_s); variant="paper" as External-Attention,
    PolarizedSelfAttention.py (ParallelPolarizedSelfAttention, SequentialPolarizedSelfAttention).
Export: the map is pooled under the channel query before the value convolution, which is linear, and the spatial query
    is taken back through its value convolution, so that the only full-size convolutions left give one channel. Equal up
    to rounding. Fusing multiplies the small layers that follow each other.
Deviations: the paper takes a softmax of the pooled query over its channels; the official code does not, and its parallel
    form takes the sigmoid of a softmax over positions, which lies between 0.5 and 0.7311. The paper's form, with biases
    and a LayerNorm before the channel gate, is what most collections copy. The name psa belongs to EPSANet's pyramid
    squeeze attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    global_avg_pool,
    require_choice,
    require_multiple,
    require_positive,
)
from attn_deploy.ops.channel_norm import ChannelLayerNorm
from attn_deploy.registry import register

VARIANTS = ("official", "paper")
_KEYS = {
    "conv_q_right": "channel_query",
    "conv_v_right": "channel_value",
    "conv_up": "channel_up",
    "conv_q_left": "spatial_query",
    "conv_v_left": "spatial_value",
    "ch_wq": "channel_query",
    "ch_wv": "channel_value",
    "ch_wz": "channel_up",
    "ln": "channel_norm",
    "sp_wq": "spatial_query",
    "sp_wv": "spatial_value",
}
_PAPER = {"channels": 64, "variant": "paper"}


class _Polarized(Fusible, nn.Module):
    """What the four forms share: the channel gate, and the layers of the spatial gate."""

    official_keys = _KEYS

    def __init__(self, channels: int, variant: str) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_multiple("channels", channels, 2, "queries and values have half of them")
        require_choice("variant", variant, VARIANTS)
        self.channels, self.width, self.variant = channels, channels // 2, variant
        paper = variant == "paper"
        self.channel_query = nn.Conv2d(channels, 1, 1, bias=paper)
        self.channel_value: nn.Conv2d | None = nn.Conv2d(channels, self.width, 1, bias=paper)
        self.channel_up: nn.Module = nn.Conv2d(self.width, channels, 1, bias=paper)
        self.channel_norm = ChannelLayerNorm(channels) if paper else None
        self.spatial_query: nn.Conv2d | None = nn.Conv2d(channels, self.width, 1, bias=paper)
        self.spatial_value: nn.Conv2d | None = nn.Conv2d(channels, self.width, 1, bias=paper)
        self.spatial_mix: nn.Conv2d | None = None

    def _init_official(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def _channel_gate(self, x: Tensor) -> Tensor:
        """(N, C, 1, 1)."""
        query = self.channel_query(x).flatten(2).softmax(2)
        pooled = torch.matmul(x.flatten(2), query.transpose(1, 2)).unsqueeze(3)
        gate = self.channel_up(pooled if self.channel_value is None else self.channel_value(pooled))
        if self.channel_norm is not None:
            gate = self.channel_norm(gate)
        return gate.sigmoid()

    def _spatial_logits(self, x: Tensor, mean: Tensor) -> Tensor:
        """(N, 1, H * W), of the form in which positions are weighted without a softmax of their values."""
        if self.spatial_mix is not None:
            direction, offset = self.spatial_mix(mean), None
        else:
            query = self.spatial_query(mean)
            if self.variant == "paper":
                query = query.softmax(1)
            direction = F.conv2d(query, self.spatial_value.weight.transpose(0, 1))
            bias = self.spatial_value.bias
            offset = None if bias is None else (query * bias.reshape(1, -1, 1, 1)).sum(1)
        logits = torch.matmul(direction.flatten(2).transpose(1, 2), x.flatten(2))
        return logits if offset is None else logits + offset

    def _as_map(self, logits: Tensor, x: Tensor) -> Tensor:
        return logits.reshape(-1, 1, x.shape[2], x.shape[3])

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Multiply the layers of the channel gate that follow each other, and those of the spatial one."""
        if self.channel_value is None:
            return None
        first = self.channel_up if isinstance(self.channel_up, nn.Conv2d) else self.channel_up[0]
        merged = _product(first, self.channel_value)
        if isinstance(self.channel_up, nn.Conv2d):
            self.channel_up = merged
        else:
            self.channel_up[0] = merged
        self.channel_value = None
        self.channel_query.bias = None  # the softmax over positions cancels it
        if self._spatial_is_linear():
            weight = self.spatial_value.weight.flatten(1).double().t() @ self.spatial_query.weight.flatten(1).double()
            self.spatial_mix = nn.Conv2d(self.channels, self.channels, 1, bias=False)
            self.spatial_mix.weight = nn.Parameter(weight.to(first.weight.dtype).reshape(self.channels, -1, 1, 1))
            self.spatial_query = self.spatial_value = None
        return "multiplied layers that follow each other"

    def _spatial_is_linear(self) -> bool:
        return False


def _product(second: nn.Conv2d, first: nn.Conv2d) -> nn.Conv2d:
    """The 1x1 convolution that equals ``second(first(x))``."""
    outer, inner = second.weight.flatten(1).double(), first.weight.flatten(1).double()
    merged = nn.Conv2d(first.in_channels, second.out_channels, 1)
    merged.weight = nn.Parameter((outer @ inner).to(second.weight.dtype).reshape(merged.weight.shape))
    bias = torch.zeros(second.out_channels, dtype=torch.float64) if second.bias is None else second.bias.double()
    if first.bias is not None:
        bias = bias + outer @ first.bias.double()
    merged.bias = nn.Parameter(bias.to(second.weight.dtype))
    return merged


@register(
    "polarized_self_attention",
    aliases=("psa_p", "parallel_polarized_attention"),
    parameters=8256,
)
@register(
    "polarized_self_attention_paper",
    aliases=("parallel_polarized_self_attention",),
    reference=_PAPER,
    parameters=8545,
    summary="Sums a map gated by channel and one gated by position, both read from the input, in the paper's form.",
)
class ParallelPolarizedSelfAttention(_Polarized):
    """Sums a map gated by channel and one gated by position, both of which are read from the input.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        variant: "official" for the authors' code, "paper" for the form that collections copy.

    Raises:
        ValueError: if channels is odd or variant is unknown.
    """

    def __init__(self, channels: int, *, variant: str = "official") -> None:
        super().__init__(channels, variant)
        if variant == "official":
            self._init_official()

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ParallelPolarizedSelfAttention")
        logits = self._spatial_logits(x, global_avg_pool(x))
        if self.variant == "official":
            logits = logits.softmax(2)
        return x * self._as_map(logits, x).sigmoid() + x * self._channel_gate(x)

    def _spatial_is_linear(self) -> bool:
        return self.variant == "official"


@register(
    "polarized_self_attention_sequential",
    aliases=("psa_s", "sequential_polarized_attention"),
    parameters=7064,
)
@register(
    "polarized_self_attention_sequential_paper",
    aliases=("sequential_polarized_self_attention",),
    reference=_PAPER,
    parameters=8545,
    summary="Gates channels, then positions by what the gated map says, in the paper's form.",
)
class SequentialPolarizedSelfAttention(_Polarized):
    """Gates channels, then positions by what the gated map says.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        variant: "official" for the authors' code, "paper" for the form that collections copy.

    Raises:
        ValueError: if channels is odd, channels // 8 < 1 in the official variant, or variant is unknown.
    """

    def __init__(self, channels: int, *, variant: str = "official") -> None:
        super().__init__(channels, variant)
        if variant == "paper":
            return
        hidden = self.width // 4
        if hidden < 1:
            raise ValueError(
                f"channels must be at least 8, got channels={channels}: the channel gate's hidden layer has "
                "channels // 8 channels, which would be 0."
            )
        self.channel_up = nn.Sequential(
            nn.Conv2d(self.width, hidden, 1), ChannelLayerNorm(hidden), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        self._init_official()

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SequentialPolarizedSelfAttention")
        gate = self._channel_gate(x)
        y = x * gate
        mean = global_avg_pool(x) * gate
        if self.variant == "paper":
            logits = self._spatial_logits(y, mean)
        else:
            query = self.spatial_query(mean).flatten(2).transpose(1, 2)
            logits = torch.matmul(query, self.spatial_value(y).flatten(2).softmax(2))
        return y * self._as_map(logits, x).sigmoid()
