"""Blocks and gates around large depthwise kernels, as their repositories write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .reparameterised import DilatedReparam, conv_bn


def _depthwise(channels: int, kernel: tuple[int, int], dilation: int = 1) -> nn.Conv2d:
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    return nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels)


class _InceptionMixer(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.widths = (channels - 3 * width, width, width, width)
        self.dwconv_hw = _depthwise(width, (3, 3))
        self.dwconv_w, self.dwconv_h = _depthwise(width, (1, 11)), _depthwise(width, (11, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, square, along_w, along_h = torch.split(x, self.widths, dim=1)
        parts = (kept, self.dwconv_hw(square), self.dwconv_w(along_w), self.dwconv_h(along_h))
        return torch.cat(parts, dim=1)


class InceptionNeXt(nn.Module):
    """InceptionNeXt's block: the map split in four, a BatchNorm before the MLP, and the layer scale after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.token_mixer, self.norm = _InceptionMixer(channels, channels // 8), nn.BatchNorm2d(channels)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Conv2d(channels, 4 * channels, 1), nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.token_mixer(x))
        y = self.mlp.fc2(F.gelu(self.mlp.fc1(y)))
        return y.mul(self.gamma.reshape(1, -1, 1, 1)) + x


class GnConv(nn.Module):
    """Recursive gated convolution: one depthwise convolution, split, and a gate after each widening."""

    def __init__(self, channels: int, order: int = 5) -> None:
        super().__init__()
        self.widths = [channels // 2**i for i in reversed(range(order))]
        self.scale = 1.0
        self.proj_in, self.proj_out = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.dwconv = _depthwise(sum(self.widths), (7, 7))
        self.pws = nn.ModuleList(nn.Conv2d(self.widths[i], self.widths[i + 1], 1) for i in range(len(self.widths) - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(self.proj_in(x), (self.widths[0], sum(self.widths)), dim=1)
        gates = torch.split(self.dwconv(rest) * self.scale, self.widths, dim=1)
        y = first * gates[0]
        for i, widen in enumerate(self.pws):
            y = widen(y) * gates[i + 1]
        return self.proj_out(y)


class _SE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, (1, 1)))))
        return x * torch.sigmoid(gate).view(-1, x.shape[1], 1, 1)


class _ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class _ToFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class _GRN(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)) + 1) * x + self.beta


class UniRepLKNet(nn.Module):
    """UniRepLKNet's block: parallel dilated kernels, and an MLP on channels-last maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.dwconv, self.norm = DilatedReparam(channels), nn.BatchNorm2d(channels)
        self.se = _SE(channels)
        self.pwconv1 = nn.Sequential(_ToLast(), nn.Linear(channels, 4 * channels))
        self.act = nn.Sequential(nn.GELU(), _GRN(4 * channels))
        self.pwconv2 = nn.Sequential(
            nn.Linear(4 * channels, channels, bias=False), _ToFirst(), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.norm(self.dwconv(x)))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        return self.gamma.view(1, -1, 1, 1) * y + x


class ConvFFN(nn.Module):
    """RepLKNet's MLP: a BatchNorm before it, and one after each 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(channels)
        self.pw1, self.pw2 = conv_bn(channels, 4 * channels, 1), conv_bn(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pw2(F.gelu(self.pw1(self.preffn_bn(x))))


class _LSK(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0, self.conv_spatial = _depthwise(channels, (5, 5)), _depthwise(channels, (7, 7), 3)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels, channels // 2, 1)
        self.conv_squeeze, self.conv = nn.Conv2d(2, 2, 7, padding=3), nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        far = self.conv_spatial(near)
        near, far = self.conv1(near), self.conv2(far)
        both = torch.cat([near, far], dim=1)
        highest, _ = torch.max(both, dim=1, keepdim=True)
        gate = self.conv_squeeze(torch.cat([torch.mean(both, dim=1, keepdim=True), highest], dim=1)).sigmoid()
        return x * self.conv(near * gate[:, 0, :, :].unsqueeze(1) + far * gate[:, 1, :, :].unsqueeze(1))


class _LSKA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0h, self.conv0v = _depthwise(channels, (1, 5)), _depthwise(channels, (5, 1))
        self.conv_spatial_h = _depthwise(channels, (1, 7), 3)
        self.conv_spatial_v = _depthwise(channels, (7, 1), 3)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial_v(self.conv_spatial_h(self.conv0v(self.conv0h(x)))))


class LargeKernelAttention(nn.Module):
    """A gate of large kernels, selective or of strips (window 23), between 1x1 convolutions."""

    def __init__(self, channels: int, selective: bool) -> None:
        super().__init__()
        self.proj_1, self.proj_2 = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = _LSK(channels) if selective else _LSKA(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x)))) + x
