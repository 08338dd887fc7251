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
