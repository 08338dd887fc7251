"""Blocks of mobile networks, as their repositories write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .reparameterised import conv_bn
from .tokens import SeparableSelfAttention


class _ConvLayer(nn.Module):
    def __init__(
        self, fan_in: int, fan_out: int, kernel: int = 1, groups: int = 1, norm: bool = True, act: bool = True
    ) -> None:
        super().__init__()
        self.block = nn.Sequential()
        conv = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, groups=groups, bias=not norm)
        self.block.add_module("conv", conv)
        if norm:
            self.block.add_module("norm", nn.BatchNorm2d(fan_out))
        if act:
            self.block.add_module("act", nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _LinearEncoder(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pre_norm_attn = nn.Sequential(nn.GroupNorm(1, dim), SeparableSelfAttention(dim))
        self.pre_norm_ffn = nn.Sequential(
            nn.GroupNorm(1, dim),
            _ConvLayer(dim, hidden, norm=False),
            nn.Identity(),
            _ConvLayer(hidden, dim, norm=False, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_attn(x)
        return x + self.pre_norm_ffn(x)


class MobileViTV2(nn.Module):
    """MobileViTv2's block: patches by unfold and fold."""

    def __init__(self, channels: int, dim: int, depth: int = 2) -> None:
        super().__init__()
        self.local_rep = nn.Sequential(_ConvLayer(channels, channels, 3, channels), nn.Sequential())
        widen = nn.Sequential()
        widen.add_module("conv", nn.Conv2d(channels, dim, 1, bias=False))
        self.local_rep[1].add_module("block", widen)
        self.global_rep = nn.Sequential(*(_LinearEncoder(dim, 2 * dim) for _ in range(depth)), nn.GroupNorm(1, dim))
        self.conv_proj = _ConvLayer(dim, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.local_rep(x)
        batch, channels, height, width = y.shape
        patches = F.unfold(y, kernel_size=(2, 2), stride=(2, 2)).reshape(batch, channels, 4, -1)
        patches = self.global_rep(patches)
        patches = patches.reshape(batch, channels * 4, patches.shape[3])
        return self.conv_proj(F.fold(patches, output_size=(height, width), kernel_size=(2, 2), stride=(2, 2)))


class FasterNet(nn.Module):
    """FasterNet's block with split and cat, as it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widths = [channels // 4, channels - channels // 4]
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 1, bias=False),
        )
        self.spatial_mixing = nn.Module()
        part = self.widths[0]
        self.spatial_mixing.partial_conv3 = nn.Conv2d(part, part, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(x, self.widths, dim=1)
        return x + self.mlp(torch.cat((self.spatial_mixing.partial_conv3(first), rest), 1))


class UIB(nn.Module):
    """MobileNetV4's block with two depthwise convolutions: a ConvNormAct chain and a layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.dw_start, self.pw_exp = conv_bn(channels, channels, 5, channels), conv_bn(channels, wide, 1)
        self.dw_mid, self.pw_proj = conv_bn(wide, wide, 3, wide), conv_bn(wide, channels, 1)
        self.layer_scale = nn.ParameterDict({"gamma": nn.Parameter(torch.full((channels,), 1e-5))})

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.pw_exp(self.dw_start(x)))
        y = self.pw_proj(F.relu(self.dw_mid(y)))
        return y * self.layer_scale["gamma"].view(1, -1, 1, 1) + x


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv_expand(F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class InvertedResidual(nn.Module):
    """timm's inverted residual, a ConvNormAct chain; with ``gated`` EfficientNet's, SiLU and squeeze-excitation."""

    def __init__(self, channels: int, ratio: int, gated: bool) -> None:
        super().__init__()
        wide = ratio * channels
        self.conv_pw, self.bn1 = nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv_dw, self.bn2 = (
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.se = _SqueezeExcite(wide, wide // 4) if gated else nn.Identity()
        self.act = nn.SiLU() if gated else nn.ReLU6()
        self.conv_pwl, self.bn3 = nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.se(self.act(self.bn2(self.conv_dw(y))))
        return self.bn3(self.conv_pwl(y)) + x


class FusedMBConv(nn.Module):
    """timm's edge residual, a ConvNormAct chain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv_exp, self.bn1 = nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)
        self.conv_pwl, self.bn2 = nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pwl(F.silu(self.bn1(self.conv_exp(x))))) + x
