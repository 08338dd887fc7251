"""Contextual Transformer attention (CoT) and its grouped form (CoXt).

Paper: Contextual Transformer Networks for Visual Recognition, TPAMI 2022, arXiv:2107.12292.
Official: JDAI-CV/CoTNet, models/cotnet.py (CotLayer, CoXtLayer) with cupy_layers/aggregation_zeropad.py.
Export: the CUDA kernel that weights each position's window is a depthwise convolution with a one-hot kernel, a product
    and a sum; the softmax over two branches is the sigmoid of their difference. Equal up to rounding. Fusing folds every
    BatchNorm, the one after the aggregation into the values and one shift, and computes the difference in one layer.
Deviations: External-Attention's CoTAttention is another function: it averages the weights over the window and takes a
    softmax over all positions.
Limits: the windows take kernel_size ** 2 * C values for each position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    conv_bn_relu,
    fold_sequential,
    global_avg_pool,
    require_multiple,
    require_odd,
    require_positive,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.ops.group_norm import GroupNorm2d
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register

SHARE = 8  # channels of the width that share one weight of a window
_KEYS = {"bn": "norm"}


class _ContextualTransformer(Fusible, nn.Module):
    """The common part: static context of keys, weights from keys and queries, aggregation, selection of branches."""

    official_keys = _KEYS

    def __init__(self, channels: int, kernel_size: int, key_groups: int, groups: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_odd(kernel_size=kernel_size)
        require_multiple("channels", channels, SHARE * groups, "that many channels share a weight, in each group")
        self.channels, self.groups, self.places = channels, groups, kernel_size * kernel_size
        self.weights = channels // SHARE
        self.key_embed = conv_bn_relu(channels, channels, kernel_size, groups=key_groups)
        self.embed = nn.Sequential(
            *conv_bn_relu(2 * channels, channels // 2, groups=groups),
            nn.Conv2d(channels // 2, self.places * self.weights, 1, groups=groups),
            GroupNorm2d(self.weights, self.places * self.weights),
        )
        self.conv1x1 = conv_bn_relu(channels, channels, groups=groups, relu=False)
        self.windows = Unfold(channels, kernel_size, padding=kernel_size // 2)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(channels)
        self.shift: nn.Parameter | None = None
        width = max(channels // 2, 32)
        self.se = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * channels, 1),
        )
        self.subtracted = False

    def _joined(self, x: Tensor, key: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, type(self).__name__)
        key = self.key_embed(x)
        value = self._aggregated(self.conv1x1(x), self.embed(self._joined(x, key)))
        value = self.norm(value) if self.norm is not None else value + self.shift
        value = value * value.sigmoid()
        logits = self.se(global_avg_pool(value + key))
        if not self.subtracted:
            pairs = logits.reshape(-1, self.channels, 2)
            logits = (pairs[:, :, 0] - pairs[:, :, 1]).reshape(-1, self.channels, 1, 1)
        return key + logits.sigmoid() * (value - key)

    def _aggregated(self, value: Tensor, weights: Tensor) -> Tensor:
        """The sum of each position's window under its weights; channel c of a group takes weight c modulo their number."""
        batch, own = value.shape[0], self.weights // self.groups
        rounds = self.channels // self.weights
        windows = self.windows(value).reshape(batch, self.groups, rounds, own, self.places, -1)
        weights = weights.reshape(batch, self.groups, 1, own, self.places, -1)
        return (windows * weights).sum(4).reshape(batch, self.channels, value.shape[2], value.shape[3])

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorm after the aggregation into the values, and both rows of the selection into one."""
        if self.subtracted or self.norm is None:
            return None
        fold_sequential(self.conv1x1)
        values = self.conv1x1[0]
        scale, shift = scale_and_shift(self.norm)
        values.weight *= scale.reshape(-1, 1, 1, 1)
        values.bias *= scale
        self.norm, self.shift = None, nn.Parameter(shift.reshape(1, -1, 1, 1))
        both = self.se[3]
        one = nn.Conv2d(both.in_channels, self.channels, 1)
        one.weight = nn.Parameter(both.weight[0::2] - both.weight[1::2])
        one.bias = nn.Parameter(both.bias[0::2] - both.bias[1::2])
        self.se[3], self.subtracted = one, True
        return "folded the BatchNorm of the aggregation, merged both rows of the selection"


@register(
    "cot",
    aliases=("cot_attention", "cot_layer", "contextual_transformer", "cotnet"),
    parameters=26744,
)
class CoTLayer(_ContextualTransformer):
    """Selects between a static context of the keys and values weighted by window weights computed from both.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: k of the window and of the convolution that makes the keys.

    Raises:
        ValueError: if channels is not a multiple of 8, or kernel_size is even.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__(channels, kernel_size, key_groups=4, groups=1)

    def _joined(self, x: Tensor, key: Tensor) -> Tensor:
        return torch.cat([x, key], 1)


@register("coxt", aliases=("coxt_layer", "coxt_attention"), parameters=16888)
class CoXtLayer(_ContextualTransformer):
    """CoT with grouped convolutions, whose halves of the channels are weighted by halves of the weights.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: k of the window and of the convolution that makes the keys.

    Raises:
        ValueError: if channels is not a multiple of 16, or kernel_size is even.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__(channels, kernel_size, key_groups=8, groups=2)

    def _joined(self, x: Tensor, key: Tensor) -> Tensor:
        return torch.stack([x, key], 2).reshape(-1, 2 * self.channels, x.shape[2], x.shape[3])
