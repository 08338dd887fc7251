"""Necks of detectors, as their repositories write them: maps enlarged by interpolate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(fan_in: int, fan_out: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    unit = nn.Sequential()
    unit.add_module("conv", nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2))
    return unit


class FPN(nn.Module):
    """MMDetection's FPN of three levels: each enlarged to the size of the next, read from its shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_conv(channels, channels) for _ in range(3))
        self.fpn_convs = nn.ModuleList(_conv(channels, channels, 3) for _ in range(3))

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, levels, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            size = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True))


class PAFPN(FPN):
    """The same, and once more from the finest level up by strided convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.downsample_convs = nn.ModuleList(_conv(channels, channels, 3, 2) for _ in range(2))
        self.pafpn_convs = nn.ModuleList(_conv(channels, channels, 3) for _ in range(2))

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        inner = list(super().forward(*levels))
        for i in range(2):
            inner[i + 1] = inner[i + 1] + self.downsample_convs[i](inner[i])
        return (inner[0], *(self.pafpn_convs[i - 1](inner[i]) for i in range(1, 3)))


def _add_conv(fan_in: int, fan_out: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    unit = nn.Sequential()
    unit.add_module("conv", nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False))
    unit.add_module("batch_norm", nn.BatchNorm2d(fan_out))
    unit.add_module("leaky", nn.LeakyReLU(0.1))
    return unit


class ASFF(nn.Module):
    """Adaptively spatial feature fusion at the middle level: a softmax over three joined maps of weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.compress_level_0, self.stride_level_2 = _add_conv(channels, channels), _add_conv(channels, channels, 3, 2)
        self.expand = _add_conv(channels, channels, 3)
        for level in range(3):
            self.add_module(f"weight_level_{level}", _add_conv(channels, 16))
        self.weight_levels = nn.Conv2d(48, 3, 1)

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(self.compress_level_0(coarse), scale_factor=2, mode="nearest")
        maps = (coarse, middle, self.stride_level_2(fine))
        weights = torch.cat([getattr(self, f"weight_level_{i}")(x) for i, x in enumerate(maps)], 1)
        weights = F.softmax(self.weight_levels(weights), dim=1)
        fused = maps[0] * weights[:, 0:1] + maps[1] * weights[:, 1:2] + maps[2] * weights[:, 2:]
        return self.expand(fused)
