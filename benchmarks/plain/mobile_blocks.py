"""Blocks of mobile networks, as their repositories write them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

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
