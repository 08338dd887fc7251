"""Gates made from richer descriptors of the map: covariances, frequencies, attention pooling, learned gathering."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The 16 frequencies (along H, along W) on a 7x7 grid of FcaNet's selection "top16".
TOP16 = (
    (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2),
    (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2),
)


def covariance(x: Tensor) -> Tensor:
    """Covariance of the rows of (N, d, M), by the M x M centring matrix, repeated over the batch."""
    batch, _, count = x.shape
    centring = (-1.0 / count / count) * torch.ones(count, count) + (1.0 / count) * torch.eye(count)
    centring = centring.to(x).view(1, count, count).repeat(batch, 1, 1)
    return x.bmm(centring).bmm(x.transpose(1, 2))


class GSoP(nn.Module):
    """Second-order pooling: both gates of the official bottleneck, and the ways in which it joins them."""

    def __init__(self, channels: int, mode: str, att_dim: int = 128) -> None:
        super().__init__()
        self.mode, self.att_dim = mode, att_dim
        if mode != "position":
            stride = 2 if channels <= 256 else 1
            self.conv_for_DR = nn.Conv2d(channels, att_dim, 1, stride=stride)
            self.bn_for_DR = nn.BatchNorm2d(att_dim)
            self.row_bn = nn.BatchNorm2d(att_dim)
            self.row_conv_group = nn.Conv2d(att_dim, 4 * att_dim, (att_dim, 1), groups=att_dim)
            self.fc_adapt_channels = nn.Conv2d(4 * att_dim, channels, 1)
        if mode != "channel":
            self.conv_for_DR_spatial = nn.Conv2d(channels, att_dim, 1)
            self.bn_for_DR_spatial = nn.BatchNorm2d(att_dim)
            self.row_bn_for_spatial = nn.BatchNorm2d(64)
            self.row_conv_group_for_spatial = nn.Conv2d(64, 256, (64, 1), groups=64)
            self.fc_adapt_channels_for_spatial = nn.Conv2d(256, 64, 1)
        if mode == "concat":
            groups = channels // 64
            reach = int(math.log2(32 / groups)) + 2
            kernel = {"kernel_size": (2 * reach + 1, 1), "padding": (reach, 0), "groups": groups}
            self.dilate_conv_for_concat1 = nn.Conv2d(channels, channels, **kernel)
            self.dilate_conv_for_concat2 = nn.Conv2d(channels, channels, **kernel)
            self.bn_for_concat = nn.BatchNorm2d(channels)

    def channel_attention(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_for_DR(self.conv_for_DR(F.relu(x))))
        batch, dim, height, width = out.shape
        cov = covariance(out.reshape(batch, dim, height * width)).view(batch, dim, dim, 1)
        out = self.row_conv_group(self.row_bn(cov))
        return torch.sigmoid(self.fc_adapt_channels(out))

    def position_attention(self, x: Tensor) -> Tensor:
        out = self.bn_for_DR_spatial(self.conv_for_DR_spatial(F.relu(x)))
        out = F.adaptive_avg_pool2d(out, (8, 8))
        batch, dim = out.shape[0], self.att_dim
        cells = out.reshape(batch, dim, 64)
        centring = (-1.0 / 64 / 64) * torch.ones(dim, dim) + (1.0 / 64) * torch.eye(dim)
        centring = centring.to(x).view(1, dim, dim).repeat(batch, 1, 1)
        cov = cells.transpose(1, 2).bmm(centring).bmm(cells).view(batch, 64, 64, 1)
        out = F.relu(self.row_conv_group_for_spatial(self.row_bn_for_spatial(cov)))
        gate = torch.sigmoid(self.fc_adapt_channels_for_spatial(out)).view(batch, 1, 8, 8)
        # The official adaptive pooling back up is refused by the exporter; to a multiple of 8 it is nearest up-sampling.
        return F.interpolate(gate, size=(x.size(2), x.size(3)), mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "channel":
            return x * self.channel_attention(x)
        by_position = F.relu(x * self.position_attention(x))
        if self.mode == "position":
            return by_position
        by_channel = x * self.channel_attention(x)
        if self.mode == "avg":
            return by_channel + by_position
        if self.mode == "max":
            return torch.max(by_channel, by_position)
        return self.bn_for_concat(self.dilate_conv_for_concat1(by_channel) + self.dilate_conv_for_concat2(by_position))


class ContextBlock(nn.Module):
    """GC: attention pooling by views and a product, LayerNorm over [planes, 1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        planes = channels // 16
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.softmax = nn.Softmax(dim=2)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, planes, 1), nn.LayerNorm([planes, 1, 1]), nn.ReLU(), nn.Conv2d(planes, channels, 1)
        )

    def spatial_pool(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        values = x.view(batch, channels, height * width).unsqueeze(1)
        mask = self.conv_mask(x).view(batch, 1, height * width)
        mask = self.softmax(mask).unsqueeze(-1)
        return torch.matmul(values, mask).view(batch, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.channel_add_conv(self.spatial_pool(x))


class DCTLayer(nn.Module):
    """The product of the map with a stored filter of its size, summed over positions."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        filters = torch.stack(
            [self._filter(u * (height // 7), v * (width // 7), height, width) for u, v in zip(*TOP16, strict=True)]
        )
        self.register_buffer("weight", filters.repeat_interleave(channels // 16, 0).float())

    @staticmethod
    def _filter(u: int, v: int, height: int, width: int) -> Tensor:
        def basis(frequency: int, length: int) -> Tensor:
            position = torch.arange(length, dtype=torch.float64) + 0.5
            wave = torch.cos(math.pi * frequency * position / length) / math.sqrt(length)
            return wave * (math.sqrt(2) if frequency else 1.0)

        return basis(u, height)[:, None] * basis(v, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sum(x * self.weight, dim=[2, 3])


class MultiSpectralAttention(nn.Module):
    """FCA with its test of the input's size in Python."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.dct_layer = DCTLayer(channels, height, width)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False),
            nn.ReLU(),
            nn.Linear(channels // 16, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pooled = x
        if height != self.height or width != self.width:
            pooled = F.adaptive_avg_pool2d(x, (self.height, self.width))
        gate = self.fc(self.dct_layer(pooled)).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


class GatherExcite(nn.Module):
    """GE of global extent; the learned gathering is a depthwise convolution as large as the map."""

    def __init__(self, channels: int, variant: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.variant = variant
        if variant == "theta_minus":
            self.gather: nn.Module = nn.AdaptiveAvgPool2d(1)
        else:
            conv = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
            self.gather = nn.Sequential(conv, nn.BatchNorm2d(channels))
        if variant == "theta_plus":
            self.down = nn.Conv2d(channels, channels // 16, 1)
            self.up = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gathered = self.gather(x)
        if self.variant == "theta_plus":
            gathered = self.up(F.relu(self.down(F.relu(gathered))))
        return x * torch.sigmoid(gathered).expand_as(x)
