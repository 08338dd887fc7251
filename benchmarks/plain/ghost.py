"""Ghost modules of GhostNetV2, as published: the gate is enlarged by interpolate, and the surplus maps are cut off."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv_bn(fan_in: int, fan_out: int, kernel: tuple[int, int] = (1, 1), groups: int = 1) -> list[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return [nn.Conv2d(fan_in, fan_out, kernel, padding=padding, groups=groups, bias=False), nn.BatchNorm2d(fan_out)]


class GhostModule(nn.Module):
    """A 1x1 convolution for half of the maps, depthwise 3x3 filters of those for the others."""

    def __init__(self, fan_in: int, fan_out: int, relu: bool = True) -> None:
        super().__init__()
        self.fan_out, half = fan_out, math.ceil(fan_out / 2)
        self.primary_conv = nn.Sequential(*_conv_bn(fan_in, half), nn.ReLU() if relu else nn.Identity())
        self.cheap_operation = nn.Sequential(*_conv_bn(half, half, (3, 3), half), nn.ReLU() if relu else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary_conv(x)
        return torch.cat([first, self.cheap_operation(first)], dim=1)[:, : self.fan_out, :, :]


class GhostModuleV2(GhostModule):
    """A Ghost module times a gate that is made at half the size and enlarged to the size read from the shape."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out)
        self.short_conv = nn.Sequential(
            *_conv_bn(fan_in, fan_out),
            *_conv_bn(fan_out, fan_out, (1, 5), fan_out),
            *_conv_bn(fan_out, fan_out, (5, 1), fan_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.short_conv(F.avg_pool2d(x, kernel_size=2, stride=2))
        maps = super().forward(x)
        size = (maps.shape[-2], maps.shape[-1])
        return maps * F.interpolate(torch.sigmoid(gate), size=size, mode="nearest")


class GhostBottleneckV2(nn.Module):
    """GhostNetV2's block at stride 1: a gated Ghost module, a plain one without ReLU, and the input."""

    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.ghost1, self.ghost2 = GhostModuleV2(channels, mid), GhostModule(mid, channels, relu=False)
        self.shortcut = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.ghost2(self.ghost1(x)) + self.shortcut(x)
