"""Convolutions on parts of the channels, on added coordinates and in two frequencies, as they are published."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _SpatialReconstruction(nn.Module):
    """Two gates by a threshold on sigmoids, each multiplied with the map."""

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        shares = (self.gn.weight / sum(self.gn.weight)).view(1, -1, 1, 1)
        gate = torch.sigmoid(self.gn(x) * shares)
        strong = torch.where(gate > 0.5, torch.ones_like(gate), gate) * x
        weak = torch.where(gate > 0.5, torch.zeros_like(gate), gate) * x
        strong1, strong2 = torch.split(strong, strong.size(1) // 2, dim=1)
        weak1, weak2 = torch.split(weak, weak.size(1) // 2, dim=1)
        return torch.cat([strong1 + weak2, strong2 + weak1], dim=1)


class _ChannelReconstruction(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half, quarter = channels // 2, channels // 4
        self.squeeze1 = nn.Conv2d(self.half, quarter, 1, bias=False)
        self.squeeze2 = nn.Conv2d(self.half, quarter, 1, bias=False)
        self.GWC = nn.Conv2d(quarter, channels, 3, padding=1, groups=2)
        self.PWC1 = nn.Conv2d(quarter, channels, 1, bias=False)
        self.PWC2 = nn.Conv2d(quarter, channels - quarter, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rich, poor = torch.split(x, [self.half, self.half], dim=1)
        rich, poor = self.squeeze1(rich), self.squeeze2(poor)
        joined = torch.cat([self.GWC(rich) + self.PWC1(rich), torch.cat([self.PWC2(poor), poor], dim=1)], dim=1)
        joined = F.softmax(F.adaptive_avg_pool2d(joined, 1), dim=1) * joined
        first, second = torch.split(joined, joined.size(1) // 2, dim=1)
        return first + second


class SCConvRecon(nn.Module):
    """SCConv: both results of the channel unit are joined, weighted and split again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.SRU, self.CRU = _SpatialReconstruction(channels), _ChannelReconstruction(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.CRU(self.SRU(x))


class DualConv(nn.Module):
    """A grouped 3x3 and a full 1x1 convolution, added."""

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        self.gc = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.pwc = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.gc(x) + self.pwc(x)


class OctaveConv(nn.Module):
    """Two frequencies with four convolutions between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        high, low = channels - channels // 2, channels // 2
        self.conv_l2l = nn.Conv2d(low, low, 3, padding=1, bias=False)
        self.conv_l2h = nn.Conv2d(low, high, 3, padding=1, bias=False)
        self.conv_h2l = nn.Conv2d(high, low, 3, padding=1, bias=False)
        self.conv_h2h = nn.Conv2d(high, high, 3, padding=1, bias=False)
        self.downsample, self.upsample = nn.AvgPool2d(2, 2), nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        to_high = self.upsample(self.conv_l2h(low)) + self.conv_h2h(high)
        return to_high, self.conv_h2l(self.downsample(high)) + self.conv_l2l(low)


class ContextGuided(nn.Module):
    """CGNet's block: local and surrounding context joined, normalised together, and gated through linear layers."""

    def __init__(self, channels: int, dilation: int = 2, reduction: int = 16) -> None:
        super().__init__()
        half = channels // 2
        self.conv1x1 = self._named(conv=nn.Conv2d(channels, half, 1, bias=False), **self._norm(half))
        self.F_loc = self._named(conv=nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False))
        self.F_sur = self._named(
            conv=nn.Conv2d(half, half, 3, padding=dilation, dilation=dilation, groups=half, bias=False)
        )
        self.bn_prelu = self._named(**self._norm(channels))
        self.F_glo = nn.Module()
        hidden = channels // reduction
        self.F_glo.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    @staticmethod
    def _norm(channels: int) -> dict[str, nn.Module]:
        return {"bn": nn.BatchNorm2d(channels, eps=1e-3), "act": nn.PReLU(channels)}

    @staticmethod
    def _named(**layers: nn.Module) -> nn.Sequential:
        unit = nn.Sequential()
        for name, layer in layers.items():
            unit.add_module(name, layer)
        return unit

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1x1(x)
        y = self.bn_prelu(torch.cat([self.F_loc(y), self.F_sur(y)], 1))
        batch, channels = y.shape[:2]
        gate = self.F_glo.fc(F.adaptive_avg_pool2d(y, 1).view(batch, channels)).view(batch, channels, 1, 1)
        return x + y * gate
