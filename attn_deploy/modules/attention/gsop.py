"""Global second-order pooling block.

Paper: Global Second-order Pooling Convolutional Networks, CVPR 2019, arXiv:1811.12006.
Official: ZilinGao/Global-Second-order-Pooling-Convolutional-Networks, torchvision/models/resnet.py (Bottleneck.chan_att,
    pos_att) and MPNCOV/python/MPNCOV.py (Covpool); the block sits on the output of the last BatchNorm, before the
    residual is added.
Export: the covariance is a product of centred maps, so the centring matrix of (HW)^2 entries is never built; a grouped
    convolution whose kernel covers a row of the covariance is a product and a sum; adaptive pooling, down to 8x8 and back
    up, is a product with averaging matrices made in the graph (the official form is silently wrong at other sizes).
    Fused, the position gate reduces the channels of its 64 averages, not of the map. Equal up to rounding.
Limits: mode 'concat' needs C of at least 64 and a multiple of C // 64. The position gate divides by 64 where a
    covariance over channels would divide by att_dim: the official code does, and so does this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    adaptive_avg_pool2d,
    averaging_matrix,
    check_channels,
    fold_bn_into_conv,
    require_choice,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import register

MODES = ("channel", "position", "avg", "max", "concat")
GRID = 8
_SUMMARIES = {
    "channel": "Gates channels by a learned reading of the covariance between them.",
    "position": "Gates positions by a learned reading of the second-order statistics of an 8x8 grid.",
    "avg": "Second-order pooling block that adds its channel-gated and its position-gated map.",
    "max": "Second-order pooling block that takes the maximum of its channel-gated and its position-gated map.",
    "concat": "Second-order pooling block that joins its two gated maps by tall convolutions.",
}
_PARAMETERS = {"channel": 107712, "position": 41792, "avg": 149504, "max": 149504, "concat": 272640}


class RowReader(Fusible, nn.Module):
    """BatchNorm of every row of a square matrix, then outputs that each read one row: (N, d, d) -> (N, 4 d, 1, 1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.bn: nn.Module = nn.BatchNorm2d(size)
        self.conv = nn.Conv2d(size, 4 * size, (size, 1), groups=size)

    def forward(self, matrix: Tensor) -> Tensor:
        rows = self.bn(matrix.unsqueeze(2))
        read = (rows * self.conv.weight.reshape(self.size, 4, self.size)).sum(3)
        return read.reshape(matrix.shape[0], 4 * self.size, 1, 1) + self.conv.bias.reshape(-1, 1, 1)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorm, one scale and shift for each row, into the layer that reads the rows."""
        if isinstance(self.bn, nn.Identity):
            return None
        scale = (self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()).repeat_interleave(4)
        shift = self.bn.bias.repeat_interleave(4) - self.bn.running_mean.repeat_interleave(4) * scale
        self.conv.bias += shift * self.conv.weight.sum((1, 2, 3))
        self.conv.weight *= scale.reshape(-1, 1, 1, 1)
        self.bn = nn.Identity()
        return "folded the BatchNorm of the rows"


class ChannelCovariance(nn.Module):
    """The channel gate: (N, C, H, W), rectified -> (N, C, 1, 1) in 0..1."""

    def __init__(self, channels: int, att_dim: int, stride: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, att_dim, 1, stride=stride), nn.BatchNorm2d(att_dim), nn.ReLU())
        self.rows = RowReader(att_dim)
        self.expand = nn.Conv2d(4 * att_dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        centred = y - y.mean((2, 3), keepdim=True)
        left, right = (centred / y.shape[2]).flatten(2), (centred / y.shape[3]).flatten(2)
        return self.expand(self.rows(torch.matmul(left, right.transpose(1, 2)))).sigmoid()


class PositionCovariance(Fusible, nn.Module):
    """The position gate: (N, C, H, W), rectified -> (N, 1, H, W) in 0..1."""

    def __init__(self, channels: int, att_dim: int) -> None:
        super().__init__()
        cells = GRID * GRID
        self.reduce = nn.Sequential(nn.Conv2d(channels, att_dim, 1), nn.BatchNorm2d(att_dim))
        self.rows = RowReader(cells)
        self.expand = nn.Conv2d(4 * cells, cells, 1)
        self.pools_first = False

    def forward(self, x: Tensor) -> Tensor:
        cells = (
            self.reduce(adaptive_avg_pool2d(x, GRID)) if self.pools_first else adaptive_avg_pool2d(self.reduce(x), GRID)
        )
        y = cells.flatten(2) / GRID
        total = y.sum(1, keepdim=True) / GRID
        second_order = torch.matmul(y.transpose(1, 2), y) - torch.matmul(total.transpose(1, 2), total)
        gate = self.expand(self.rows(second_order).relu()).sigmoid()
        # the map has one channel: a sum for the rows, since a product batched over N alone ties the export to N above 1
        to_rows = averaging_matrix(x.shape[2], GRID, x).unsqueeze(2)
        rows = (gate.reshape(x.shape[0], 1, GRID, GRID) * to_rows).sum(2)
        return torch.matmul(rows, averaging_matrix(x.shape[3], GRID, x).transpose(0, 1)).unsqueeze(1)

    def fuse_(self) -> str | None:
        """Reduce the 64 averages instead of the whole map: at inference both are linear, and the averages' weights sum to 1."""
        if self.pools_first:
            return None
        self.pools_first = True
        return "pooled before the reduction of the position gate"


def _register_modes(cls: type[GSoPBlock]) -> type[GSoPBlock]:
    names = {"channel": "gsop"}
    aliases = {"channel": ("global_second_order_pooling", "gsop_channel")}
    for mode in MODES:
        register(
            names.get(mode, f"gsop_{mode}"),
            aliases=aliases.get(mode, ()),
            reference={"channels": 64, "mode": mode},
            parameters=_PARAMETERS[mode],
            summary=_SUMMARIES[mode],
        )(cls)
    return cls


@_register_modes
class GSoPBlock(Fusible, nn.Module):
    """Gates channels, positions or both by second-order statistics of the whole map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        att_dim: width to which C is reduced before the second-order statistics.
        mode: 'channel', 'position', or both and joined by 'avg' (their sum, as in the official code), 'max' or
            'concat' (a convolution of each, added).
        dr_stride: stride of the channel gate's reduction; None is 2 up to 256 channels and 1 above.

    Raises:
        ValueError: if mode is unknown, an argument is below 1, or mode 'concat' meets C below 64 or no multiple of
            C // 64.
    """

    official_keys = {
        "conv_for_DR": "channel_gate.reduce.0",
        "bn_for_DR": "channel_gate.reduce.1",
        "row_bn": "channel_gate.rows.bn",
        "row_conv_group": "channel_gate.rows.conv",
        "fc_adapt_channels": "channel_gate.expand",
        "conv_for_DR_spatial": "position_gate.reduce.0",
        "bn_for_DR_spatial": "position_gate.reduce.1",
        "row_bn_for_spatial": "position_gate.rows.bn",
        "row_conv_group_for_spatial": "position_gate.rows.conv",
        "fc_adapt_channels_for_spatial": "position_gate.expand",
        "dilate_conv_for_concat1": "join_channel",
        "dilate_conv_for_concat2": "join_position",
        "bn_for_concat": "join_bn",
    }

    def __init__(
        self, channels: int, *, att_dim: int = 128, mode: str = "channel", dr_stride: int | None = None
    ) -> None:
        super().__init__()
        stride = (2 if channels <= 256 else 1) if dr_stride is None else dr_stride
        require_positive(channels=channels, att_dim=att_dim, dr_stride=stride)
        require_choice("mode", mode, MODES)
        self.channels = channels
        self.mode = mode
        if mode != "position":
            self.channel_gate = ChannelCovariance(channels, att_dim, stride)
        if mode != "channel":
            self.position_gate = PositionCovariance(channels, att_dim)
        if mode == "concat":
            if channels < 64:
                raise ValueError(
                    f"mode='concat' needs channels of at least 64, got channels={channels}: use mode='avg' or 'max'."
                )
            groups = channels // 64
            require_divisible("channels", channels, "channels // 64", groups)
            reach = int(math.log2(32 / groups)) + 2
            if reach < 0:
                raise ValueError(f"mode='concat' has no kernel for channels={channels}: use at most 16384 channels.")
            kernel = {"kernel_size": (2 * reach + 1, 1), "padding": (reach, 0), "groups": groups}
            self.join_channel = nn.Conv2d(channels, channels, **kernel)
            self.join_position = nn.Conv2d(channels, channels, **kernel)
            self.join_bn: nn.Module = nn.BatchNorm2d(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GSoPBlock")
        rectified = x.relu()
        if self.mode == "channel":
            return x * self.channel_gate(rectified)
        by_position = (x * self.position_gate(rectified)).relu()
        if self.mode == "position":
            return by_position
        by_channel = x * self.channel_gate(rectified)
        if self.mode == "avg":
            return by_channel + by_position
        if self.mode == "max":
            return torch.maximum(by_channel, by_position)
        return self.join_bn(self.join_channel(by_channel) + self.join_position(by_position))

    def fuse_(self) -> str | None:
        """Fold the BatchNorm after the sum of two convolutions into both; the shift enters once."""
        if self.mode != "concat" or isinstance(self.join_bn, nn.Identity):
            return None
        bias = self.join_position.bias
        self.join_position.bias = None
        only_scaled = fold_bn_into_conv(self.join_position, self.join_bn)
        with torch.no_grad():
            self.join_channel.bias += bias
        self.join_channel = fold_bn_into_conv(self.join_channel, self.join_bn)
        only_scaled.bias = None
        self.join_position = only_scaled
        self.join_bn = nn.Identity()
        return "folded the BatchNorm of the joined maps into both convolutions"
