"""Shuffle Attention.

Paper: SA-Net: Shuffle Attention for Deep Convolutional Neural Networks, ICASSP 2021, arXiv:2102.00240.
Official: wofmanaf/SA-Net, models/sa_resnet.py, sa_layer.
Export: the official code merges batch and groups, splits, concatenates and shuffles through 5-D views. Here each half
    is picked by one constant index over the channels, and concatenation with shuffle is one index more, so that no
    reshape is left. GroupNorm with one channel a group is written as centre, square, mean. Equal up to rounding.
Deviations: External-Attention uses 8 groups by default; the maths is equal.
Limits: channels must be a multiple of 2 * groups, so that the official default of 64 groups needs 128 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, global_avg_pool, instance_norm, require_divisible, require_positive
from attn_deploy.registry import register


@register("shuffle_attention", aliases=("sa", "sa_layer"), reference={"channels": 64, "groups": 8}, parameters=24)
class ShuffleAttention(nn.Module, Fusible):
    """Gates half of each channel group by its averages, the other half by its normalised map, then shuffles.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        groups: G, the groups that the channels are divided into; all share the parameters of the gates.

    Raises:
        ValueError: if channels is not a multiple of 2 * groups.
    """

    official_keys = {
        "cweight": "channel_weight",
        "cbias": "channel_bias",
        "sweight": "spatial_weight",
        "sbias": "spatial_bias",
        "gn.weight": "norm_weight",
        "gn.bias": "norm_bias",
    }

    def __init__(self, channels: int, *, groups: int = 64) -> None:
        super().__init__()
        require_positive(channels=channels, groups=groups)
        require_divisible("channels", channels, "2 * groups", 2 * groups)
        half = channels // (2 * groups)
        self.channels = channels
        self.groups = groups
        self.eps = 1e-5
        self.fused = False
        self.channel_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.norm_weight = nn.Parameter(torch.ones(1, half, 1, 1))
        self.norm_bias = nn.Parameter(torch.zeros(1, half, 1, 1))
        halves = torch.arange(channels).reshape(groups, 2, half)
        self.register_buffer("first", halves[:, 0].flatten(), persistent=False)
        self.register_buffer("second", halves[:, 1].flatten(), persistent=False)
        # where each channel of the grouped order stands in cat([first, second]), then the shuffle with 2 groups
        place = torch.cat([self.first, self.second]).argsort()
        shuffled = place.reshape(2, channels // 2).t().flatten()
        self.register_buffer("order", shuffled.contiguous(), persistent=False)

    def _gates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale and shift of both gates, for all channels of a half."""
        gates = (
            self.channel_weight,
            self.channel_bias,
            self.spatial_weight * self.norm_weight,
            self.spatial_weight * self.norm_bias + self.spatial_bias,
        )
        return tuple(g.repeat(1, self.groups, 1, 1) for g in gates)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ShuffleAttention")
        if self.fused:
            scale, shift = (self.channel_weight, self.spatial_weight), (self.channel_bias, self.spatial_bias)
        else:
            channel_scale, channel_shift, spatial_scale, spatial_shift = self._gates()
            scale, shift = (channel_scale, spatial_scale), (channel_shift, spatial_shift)
        first = x.index_select(1, self.first)
        second = x.index_select(1, self.second)
        first = first * (global_avg_pool(first) * scale[0] + shift[0]).sigmoid()
        second = second * (instance_norm(second, self.eps) * scale[1] + shift[1]).sigmoid()
        return torch.cat([first, second], 1).index_select(1, self.order)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Merge the normalisation's affine part into the spatial gate, and repeat the gates for all groups once."""
        if self.fused:
            return None
        gates = self._gates()
        names = ("channel_weight", "channel_bias", "spatial_weight", "spatial_bias")
        for name, gate in zip(names, gates, strict=True):
            setattr(self, name, nn.Parameter(gate))
        self.norm_weight = self.norm_bias = None
        self.fused = True
        return "merged the affine part of the normalisation into the spatial gate"
