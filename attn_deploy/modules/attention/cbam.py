"""CBAM: a channel gate followed by a spatial gate.

Paper: CBAM: Convolutional Block Attention Module, ECCV 2018, arXiv:1807.06521.
Official: Jongchan/attention-module, MODELS/cbam.py (CBAM, ChannelGate, SpatialGate).
Export: pooling by a kernel of the whole map is a reduction over (2, 3) instead (the official form is refused by the
    TorchScript exporter and silently bound to the traced size by the other); the pooled vectors lie side by side on the
    last axis, so that the shared MLP runs once. lp and lse pooling go axis by axis and scale by the maximum, which is
    the same number without its overflow in fp16. Equal up to rounding.
Deviations: External-Attention has a kernel of 49, no BatchNorm, biased convolution, biasless MLP and adds a residual;
    timm, awesome-attention and pytorch-attention feed [mean, max] instead of [max, mean] and drop the MLP's biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    global_avg_pool,
    global_max_pool,
    require_choice,
    require_positive,
    require_reduced,
)
from attn_deploy.registry import register


def _l2_norm(x: Tensor, axis: int) -> Tensor:
    """Euclidean norm along an axis; squares ratios to the maximum, so nothing overflows, and has a gradient at 0."""
    largest = x.abs().amax(axis, keepdim=True)
    ratio = x / (largest + (largest == 0).to(x.dtype))
    return largest * (ratio * ratio).sum(axis, keepdim=True).clamp_min(1.0).sqrt()


def _log_sum_exp(x: Tensor, axis: int) -> Tensor:
    largest = x.amax(axis, keepdim=True)
    return largest + (x - largest).exp().sum(axis, keepdim=True).log()


def _lp_pool(x: Tensor) -> Tensor:
    return _l2_norm(_l2_norm(x, 3), 2)


def _lse_pool(x: Tensor) -> Tensor:
    return _log_sum_exp(_log_sum_exp(x, 3), 2)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": global_avg_pool,
    "max": global_max_pool,
    "lp": _lp_pool,
    "lse": _lse_pool,
}


def _zero_biases(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        if isinstance(getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(layer.bias)


@register("cbam_channel", parameters=580)
class ChannelGate(Fusible, nn.Module):
    """CBAM's channel half: one MLP on several global poolings, whose outputs are added.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the MLP's hidden layer is narrower than C.
        pool_types: poolings in use, of 'avg', 'max', 'lp' (Euclidean norm over H, W) and 'lse' (log-sum-exp).

    Raises:
        ValueError: if channels // reduction < 1, or pool_types is empty or holds an unknown word.
    """

    official_keys = {
        "ChannelGate.mlp.1": "reduce",
        "ChannelGate.mlp.3": "expand",
        "mlp.1": "reduce",
        "mlp.3": "expand",
    }

    def __init__(self, channels: int, *, reduction: int = 16, pool_types: Sequence[str] | str = ("avg", "max")) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        if isinstance(pool_types, str):
            pool_types = (pool_types,)
        if not pool_types:
            raise ValueError(f"pool_types must name at least one of {', '.join(map(repr, POOLS))}, got {pool_types!r}.")
        for pool_type in pool_types:
            require_choice("pool_types", pool_type, POOLS)
        self.channels = channels
        self.pool_types = tuple(pool_types)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)
        self.bias_is_summed = len(self.pool_types) == 1

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ChannelGate")
        pooled = torch.cat([POOLS[pool_type](x) for pool_type in self.pool_types], 3)
        hidden = self.reduce(pooled).relu()
        if self.bias_is_summed:
            logits = self.expand(hidden.sum(3, keepdim=True))
        else:
            logits = self.expand(hidden).sum(3, keepdim=True)
        return x * logits.sigmoid()

    def fuse_(self) -> str | None:
        """Add the hidden vectors before the second layer, which is linear; its bias then counts once per pooling."""
        if self.bias_is_summed:
            return None
        with torch.no_grad():
            self.expand.bias.mul_(len(self.pool_types))
        self.bias_is_summed = True
        return f"merged the second MLP layer of {len(self.pool_types)} poolings"


@register("cbam_spatial", parameters=100)
class SpatialGate(nn.Module):
    """CBAM's spatial half: a 7x7 convolution over the channel-wise maximum and mean.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C; the weights do not depend on it.
        zero_init_bn: initialise as the official networks do, BatchNorm weight 0, so that the gate starts at 0.5.

    Raises:
        ValueError: if channels is below 1.
    """

    official_keys = {
        "SpatialGate.spatial.conv": "mix.0",
        "SpatialGate.spatial.bn": "mix.1",
        "spatial.conv": "mix.0",
        "spatial.bn": "mix.1",
    }

    def __init__(self, channels: int, *, zero_init_bn: bool = False) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.mix = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01))
        if zero_init_bn:
            nn.init.kaiming_normal_(self.mix[0].weight, mode="fan_out")
            nn.init.zeros_(self.mix[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SpatialGate")
        summary = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * self.mix(summary).sigmoid()


@register("cbam", parameters=680)
class CBAM(nn.Module):
    """Reweights channels by pooled statistics, then positions by statistics over the channels.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the channel MLP's hidden layer is narrower than C.
        pool_types: poolings of the channel gate, of 'avg', 'max', 'lp' (Euclidean norm over H, W) and 'lse'
            (log-sum-exp).
        no_spatial: leave the spatial gate out.
        zero_init_spatial_bn: initialise as the official networks do: spatial BatchNorm weight 0 (its gate starts at
            0.5), convolution kaiming fan_out, all biases 0.

    Raises:
        ValueError: if channels // reduction < 1, or pool_types is empty or holds an unknown word.
    """

    official_keys = {
        "ChannelGate.mlp.1": "channel.reduce",
        "ChannelGate.mlp.3": "channel.expand",
        "SpatialGate.spatial.conv": "spatial.mix.0",
        "SpatialGate.spatial.bn": "spatial.mix.1",
    }

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        pool_types: Sequence[str] | str = ("avg", "max"),
        no_spatial: bool = False,
        zero_init_spatial_bn: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.channel = ChannelGate(channels, reduction=reduction, pool_types=pool_types)
        self.spatial = nn.Identity() if no_spatial else SpatialGate(channels, zero_init_bn=zero_init_spatial_bn)
        if zero_init_spatial_bn:
            _zero_biases(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "CBAM")
        return self.spatial(self.channel(x))
