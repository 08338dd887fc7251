"""Criss-cross attention, its recurrent form and the segmentation head of CCNet.

Paper: CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019, arXiv:1811.11721.
Official: speedinghzl/CCNet, cc_attention/functions.py (CrissCrossAttention) and networks/ccnet.py (RCCAModule).
Export: rows and columns are batched axes of four-dimensional products, so the batch is never merged with H or W, and
    the mask is an in-graph comparison times -1e4 instead of a repeated diagonal of -inf: since each position's own
    energy is present in its row, its masked copy stays 1e4 below the maximum and its weight is exactly 0. Equal.
Deviations: the official head hard-codes 512 channels in its last convolution, here it is out_channels; its forward
    runs once by default and its training scripts ask for two passes, which is the default here.
Limits: memory grows with N * H * W * (H + W); C of at least 8 (the head: in_channels of at least 32); a file exported
    with dynamic axes is for H and W of at least 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, fold_bn_into_conv, require_positive
from attn_deploy.registry import register

REDUCTION = 8
NEGATIVE_SLOPE = 0.01


@register(
    "criss_cross",
    aliases=("cc", "cca"),
    parameters=5201,
    minimum={"H": 2, "W": 2},
)
class CrissCrossAttention(Fusible, nn.Module):
    """Adds to each position a softmax-weighted sum over the positions of its row and column.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C; queries and keys have C // 8 channels.

    Raises:
        ValueError: if channels is below 8.
    """

    official_keys = {"gamma.scale": "gamma"}  # mmcv wraps the scalar

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        if channels < REDUCTION:
            raise ValueError(
                f"channels must be at least {REDUCTION}, got channels={channels}: queries and keys have "
                f"channels // {REDUCTION} channels, which would be 0."
            )
        self.channels = channels
        self.query_conv = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.key_conv = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "CrissCrossAttention")
        height = x.shape[2]
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        row = torch.arange(height, device=x.device)
        itself = (row.unsqueeze(1) == row.unsqueeze(0)).to(x.dtype) * -1e4
        along_column = torch.matmul(query.permute(0, 3, 2, 1), key.permute(0, 3, 1, 2)) + itself  # (N, W, H, H)
        along_row = torch.matmul(query.permute(0, 2, 3, 1), key.permute(0, 2, 1, 3))  # (N, H, W, W)
        weights = torch.cat([along_column.permute(0, 2, 1, 3), along_row], 3).softmax(3)
        # Channels stay before the axis that is summed over: then each permutation moves one axis only, which is cheap.
        of_column, of_row = weights[:, :, :, :height].permute(0, 2, 3, 1), weights[:, :, :, height:].transpose(2, 3)
        from_column = torch.matmul(value.permute(0, 3, 1, 2), of_column)  # (N, W, C, H)
        from_row = torch.matmul(value.transpose(1, 2), of_row)  # (N, H, C, W)
        gathered = from_column.permute(0, 2, 3, 1) + from_row.transpose(1, 2)
        return x + (gathered if self.gamma is None else self.gamma * gathered)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold gamma into the value convolution and drop the key bias, which softmax cancels."""
        if self.gamma is None:
            return None
        self.value_conv.weight *= self.gamma
        self.value_conv.bias *= self.gamma
        self.gamma = None
        self.key_conv.bias = None
        return "folded gamma into the value convolution, dropped the key bias"


@register("rcca", parameters=5201, minimum={"H": 2, "W": 2})
class RecurrentCrissCrossAttention(nn.Module):
    """Applies one criss-cross attention several times; after two passes each position has seen the whole map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C; queries and keys have C // 8 channels.
        recurrence: how many times the attention is applied, with the same weights.

    Raises:
        ValueError: if channels is below 8 or recurrence below 1.
    """

    def __init__(self, channels: int, *, recurrence: int = 2) -> None:
        super().__init__()
        require_positive(recurrence=recurrence)
        self.channels = channels
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "RecurrentCrissCrossAttention")
        for _ in range(self.recurrence):
            x = self.cca(x)
        return x


class InPlaceABN(nn.BatchNorm2d):
    """In-Place Activated BatchNorm as a plain layer: scale |weight| + eps, then LeakyReLU with slope 0.01."""

    def forward(self, input: Tensor) -> Tensor:
        scale = self.weight.abs() + self.eps
        normalised = F.batch_norm(
            input, self.running_mean, self.running_var, scale, self.bias, self.training, self.momentum or 0.0, self.eps
        )
        return F.leaky_relu(normalised, NEGATIVE_SLOPE)


def _conv_abn(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), InPlaceABN(out_channels)]


@register(
    "rcca_head",
    reference={"in_channels": 64, "out_channels": 24, "num_classes": 5, "recurrence": 2},
    parameters=29378,
    minimum={"H": 2, "W": 2},
)
class RCCAModule(Fusible, nn.Module):
    """CCNet's segmentation head: recurrent criss-cross attention between convolutions, then a classifier of positions.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); dynamic N, H, W.

    Args:
        in_channels: channels of the input; the attention works at a quarter of them.
        out_channels: channels before the classifier.
        num_classes: channels of the output.
        recurrence: how many times the attention is applied, with the same weights.

    Raises:
        ValueError: if in_channels is below 32, or another argument is below 1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_classes: int, recurrence: int = 2) -> None:
        super().__init__()
        require_positive(
            in_channels=in_channels, out_channels=out_channels, num_classes=num_classes, recurrence=recurrence
        )
        width = in_channels // 4
        if width < REDUCTION:
            raise ValueError(
                f"in_channels must be at least {4 * REDUCTION}, got in_channels={in_channels}: the attention's queries "
                f"have in_channels // {4 * REDUCTION} channels, which would be 0."
            )
        self.in_channels = in_channels
        self.recurrence = recurrence
        self.conva = nn.Sequential(*_conv_abn(in_channels, width))
        self.cca = CrissCrossAttention(width)
        self.convb = nn.Sequential(*_conv_abn(width, width))
        self.bottleneck = nn.Sequential(
            *_conv_abn(in_channels + width, out_channels), nn.Dropout2d(0.1), nn.Conv2d(out_channels, num_classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RCCAModule")
        y = self.conva(x)
        for _ in range(self.recurrence):
            y = self.cca(y)
        return self.bottleneck(torch.cat([x, self.convb(y)], 1))

    def fuse_(self) -> str | None:
        """Fold every activated BatchNorm, with its scale |weight| + eps, into the convolution before it."""
        folds = 0
        for block in (self.conva, self.convb, self.bottleneck):
            abn = block[1]
            if isinstance(abn, InPlaceABN):
                block[0] = fold_bn_into_conv(block[0], abn, abs_weight_eps=abn.eps)
                block[1] = nn.LeakyReLU(NEGATIVE_SLOPE)
                folds += 1
        return f"folded {folds} activated BatchNorm" if folds else None
