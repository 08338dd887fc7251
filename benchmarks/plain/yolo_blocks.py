"""Blocks of detectors, as their repositories write them: branches not merged, halves shuffled by reshapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dynamic import GSConv
from .reparameterised import conv_bn
from .tokens import ConvUnit


class ParNet(nn.Module):
    """ParNet's block: 3x3 and 1x1 branches, and the normalised input times a gate of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(channels)
        self.rbr_dense, self.rbr_1x1 = conv_bn(channels, channels, 3), conv_bn(channels, channels, 1)
        self.se = nn.Module()
        self.se.cvsig = nn.Sequential()
        self.se.cvsig.add_module("conv", nn.Conv2d(channels, channels, 1, bias=False))
        self.se.cvsig.add_module("sigmoid", nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        identity = self.rbr_identity(x)
        identity = identity * self.se.cvsig(F.adaptive_avg_pool2d(identity, (1, 1)))
        return F.silu(self.rbr_dense(x) + self.rbr_1x1(x) + identity)


class RepConv(nn.Module):
    """A 3x3 and a 1x1 branch, each normalised, and SiLU of their sum."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvUnit(fan_in, fan_out, 3, act=False), ConvUnit(fan_in, fan_out, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv1(x) + self.conv2(x))


class RepC3(nn.Module):
    """RT-DETR's stage: a chain of those beside a 1x1 convolution, added."""

    def __init__(self, channels: int, count: int = 3) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvUnit(channels, channels), ConvUnit(channels, channels)
        self.m = nn.Sequential(*(RepConv(channels, channels) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.m(self.cv1(x)) + self.cv2(x)


class GSBottleneck(nn.Module):
    """Two GSConvs, each with its shuffle, beside a 1x1 convolution."""

    def __init__(self, fan_in: int, fan_out: int, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(fan_out * e)
        self.conv_lighting = nn.Sequential(
            GSConv(fan_in, hidden, act=nn.Mish()), GSConv(hidden, fan_out, 3, act=nn.Identity())
        )
        self.shortcut = ConvUnit(fan_in, fan_out, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_lighting(x) + self.shortcut(x)


def _mish_unit(fan_in: int, fan_out: int, kernel_size: int = 1) -> ConvUnit:
    unit = ConvUnit(fan_in, fan_out, kernel_size)
    unit.act = nn.Mish()
    return unit


class VoVGSCSP(nn.Module):
    """Slim-neck's block of the YOLOv5 folder; its layer res is stored and never used."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1, self.cv2 = _mish_unit(channels, half), _mish_unit(channels, half)
        self.gsb = nn.Sequential(GSBottleneck(half, half, 1.0))
        self.res, self.cv3 = _mish_unit(half, half, 3), _mish_unit(2 * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        first = self.gsb(self.cv1(x))
        return self.cv3(torch.cat((self.cv2(x), first), dim=1))


class _RepBottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = RepConv(channels, channels), ConvUnit(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class _RepCSP(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        half = fan_out // 2
        self.cv1, self.cv2, self.cv3 = ConvUnit(fan_in, half), ConvUnit(fan_in, half), ConvUnit(2 * half, fan_out)
        self.m = nn.Sequential(_RepBottleneck(half))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class RepNCSPELAN4(nn.Module):
    """YOLOv9's block: two cross-stage parts one after the other, with branches not merged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1, self.cv4 = ConvUnit(channels, channels), ConvUnit(channels + 2 * half, channels)
        self.cv2 = nn.Sequential(_RepCSP(half, half), ConvUnit(half, half, 3))
        self.cv3 = nn.Sequential(_RepCSP(half, half), ConvUnit(half, half, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in [self.cv2, self.cv3])
        return self.cv4(torch.cat(y, 1))


class SCDown(nn.Module):
    """YOLOv10's step down: a ConvNormAct chain of a 1x1 and a strided depthwise convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvUnit(channels, channels)
        self.cv2 = ConvUnit(channels, channels, 3, channels, act=False, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))
