"""Blocks of parallel convolutions with BatchNorms, in the form in which they are trained and often exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(fan_in: int, fan_out: int, kernel_size: int, groups: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and a BatchNorm, under the keys conv and bn."""
    unit = nn.Sequential()
    conv = nn.Conv2d(fan_in, fan_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    unit.add_module("conv", conv)
    unit.add_module("bn", nn.BatchNorm2d(fan_out))
    return unit


class _WindowSE(nn.Module):
    """Squeeze-excitation that pools with a window as wide as the map, read from the shape."""

    def __init__(self, channels: int, hidden: int, names: tuple[str, str], square: bool) -> None:
        super().__init__()
        self.names, self.square = names, square
        self.add_module(names[0], nn.Conv2d(channels, hidden, 1))
        self.add_module(names[1], nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        window = x.size(3) if self.square else [x.shape[2], x.shape[3]]
        gate = F.avg_pool2d(x, kernel_size=window)
        gate = F.relu(getattr(self, self.names[0])(gate))
        gate = torch.sigmoid(getattr(self, self.names[1])(gate))
        return x * gate.view(-1, x.shape[1], 1, 1) if self.square else x * gate


class RepVGG(nn.Module):
    """Three branches: 3x3, 1x1 and the input, each normalised; SE pools with a W x W window, as published."""

    def __init__(self, channels: int, se: bool = False) -> None:
        super().__init__()
        self.se = _WindowSE(channels, channels // 16, ("down", "up"), True) if se else nn.Identity()
        self.rbr_identity = nn.BatchNorm2d(channels)
        self.rbr_dense, self.rbr_1x1 = conv_bn(channels, channels, 3), conv_bn(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.se(self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x)))


class QARepVGG(nn.Module):
    """RepVGG with one outer BatchNorm, and none in the small branches; version 2 adds an average over 3x3."""

    def __init__(self, channels: int, version: int = 1) -> None:
        super().__init__()
        self.rbr_avg = nn.AvgPool2d(3, 1, 1) if version == 2 else None
        self.rbr_dense = conv_bn(channels, channels, 3)
        self.rbr_1x1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        total = self.rbr_dense(x) + self.rbr_1x1(x) + x
        if self.rbr_avg is not None:
            total = total + self.rbr_avg(x)
        return F.relu(self.bn(total))


class MobileOne(nn.Module):
    """Four 3x3 branches, a 1x1 branch and the input."""

    def __init__(self, channels: int, branches: int = 4, se: bool = False) -> None:
        super().__init__()
        self.se = _WindowSE(channels, int(channels * 0.0625), ("reduce", "expand"), False) if se else nn.Identity()
        self.rbr_skip = nn.BatchNorm2d(channels)
        self.rbr_conv = nn.ModuleList(conv_bn(channels, channels, 3) for _ in range(branches))
        self.rbr_scale = conv_bn(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        total = self.rbr_scale(x) + self.rbr_skip(x)
        for branch in self.rbr_conv:
            total = total + branch(x)
        return F.relu(self.se(total))


class _IdentityConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, 1, 1))
        self.identity = torch.eye(channels).reshape(channels, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight + self.identity.to(self.weight))


class _BorderedNorm(nn.Module):
    """BatchNorm, then a border filled with what it makes of zero, written into slices."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        value = (self.bn.bias.detach() - self.bn.running_mean * scale.detach()).view(1, -1, 1, 1)
        y = F.pad(y, [1] * 4)
        y[:, :, 0:1, :] = value
        y[:, :, -1:, :] = value
        y[:, :, :, 0:1] = value
        y[:, :, :, -1:] = value
        return y


class DiverseBranch(nn.Module):
    """3x3, 1x1, average pooling and 1x1 before 3x3, summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dbb_origin = conv_bn(channels, channels, 3)
        self.dbb_avg = nn.Sequential()
        self.dbb_avg.add_module("conv", nn.Conv2d(channels, channels, 1, bias=False))
        self.dbb_avg.add_module("bn", _BorderedNorm(channels))
        self.dbb_avg.add_module("avg", nn.AvgPool2d(3, 1, 0))
        self.dbb_avg.add_module("avgbn", nn.BatchNorm2d(channels))
        self.dbb_1x1 = conv_bn(channels, channels, 1)
        self.dbb_1x1_kxk = nn.Sequential()
        self.dbb_1x1_kxk.add_module("idconv1", _IdentityConv(channels))
        self.dbb_1x1_kxk.add_module("bn1", _BorderedNorm(channels))
        self.dbb_1x1_kxk.add_module("conv2", nn.Conv2d(channels, channels, 3, bias=False))
        self.dbb_1x1_kxk.add_module("bn2", nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dbb_origin(x) + self.dbb_1x1(x) + self.dbb_avg(x) + self.dbb_1x1_kxk(x))


class DilatedReparam(nn.Module):
    """A large depthwise kernel and dilated small ones, each normalised."""

    BRANCHES = ((5, 1), (3, 2), (3, 3))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lk_origin = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.origin_bn = nn.BatchNorm2d(channels)
        for k, r in self.BRANCHES:
            padding = (r * (k - 1) + 1) // 2
            conv = nn.Conv2d(channels, channels, k, padding=padding, dilation=r, groups=channels, bias=False)
            self.add_module(f"dil_conv_k{k}_{r}", conv)
            self.add_module(f"dil_bn_k{k}_{r}", nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.origin_bn(self.lk_origin(x))
        for k, r in self.BRANCHES:
            out = out + getattr(self, f"dil_bn_k{k}_{r}")(getattr(self, f"dil_conv_k{k}_{r}")(x))
        return out


class LargeKernel(nn.Module):
    """RepLKNet's large depthwise kernel with a small one beside it."""

    def __init__(self, channels: int, kernel_size: int, small: int) -> None:
        super().__init__()
        self.lkb_origin = conv_bn(channels, channels, kernel_size, channels)
        self.small_conv = conv_bn(channels, channels, small, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.lkb_origin(x) + self.small_conv(x)


class RepLK(nn.Module):
    """RepLKNet's block around that."""

    def __init__(self, channels: int, kernel_size: int, small: int) -> None:
        super().__init__()
        self.pw1, self.pw2 = conv_bn(channels, channels, 1), conv_bn(channels, channels, 1)
        self.large_kernel = LargeKernel(channels, kernel_size, small)
        self.prelkb_bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.pw1(self.prelkb_bn(x)))
        return x + self.pw2(F.relu(self.large_kernel(y)))


class HetConv(nn.Module):
    """HetConv by p pairs of convolutions on strided channels, interleaved."""

    def __init__(self, channels: int, p: int = 4) -> None:
        super().__init__()
        self.p = p
        every, rest = channels // p, channels - channels // p
        self.filters = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(every, every, 3, padding=1, bias=False), nn.Conv2d(rest, every, 1, bias=False)])
            for _ in range(p)
        )
        self.rest = [[c for c in range(channels) if c % p != i] for i in range(p)]

    def forward(self, x: Tensor) -> Tensor:
        parts = [f[0](x[:, i :: self.p]) + f[1](x[:, self.rest[i]]) for i, f in enumerate(self.filters)]
        joined = torch.stack(parts, 2)
        return joined.flatten(1, 2)


class SPDConv(nn.Module):
    """Space to depth by four slices, then a convolution at a quarter of the positions."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.conv = conv_bn(4 * fan_in, fan_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return F.silu(self.conv(torch.cat(parts, 1)))
