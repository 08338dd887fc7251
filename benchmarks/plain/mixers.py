"""Blocks of whole networks, written as their repositories write them: tokens, permutations, parts one after the other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .reparameterised import conv_bn
from .tokens import ConvUnit


class ACmix(nn.Module):
    """ACmix: positions from linspace, windows by unfold of keys, values and positions each."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 7, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.kernel, self.size, self.pad = heads, kernel, fan_out // heads, (kernel - 1) // 2
        self.rate1, self.rate2 = nn.Parameter(torch.full((1,), 0.5)), nn.Parameter(torch.full((1,), 0.5))
        self.conv1, self.conv2 = nn.Conv2d(fan_in, fan_out, 1), nn.Conv2d(fan_in, fan_out, 1)
        self.conv3, self.conv_p = nn.Conv2d(fan_in, fan_out, 1), nn.Conv2d(2, self.size, 1)
        self.fc = nn.Conv2d(3 * heads, 9, 1, bias=False)
        self.dep_conv = nn.Conv2d(9 * self.size, fan_out, 3, padding=1, groups=self.size, bias=False)

    @staticmethod
    def _positions(height: int, width: int, x: Tensor) -> Tensor:
        along_w = torch.linspace(-1.0, 1.0, width, dtype=x.dtype).unsqueeze(0).repeat(height, 1)
        along_h = torch.linspace(-1.0, 1.0, height, dtype=x.dtype).unsqueeze(1).repeat(1, width)
        return torch.cat([along_w.unsqueeze(0), along_h.unsqueeze(0)], 0).unsqueeze(0)

    def _windows(self, x: Tensor) -> Tensor:
        number, channels, height, width = x.shape
        return F.unfold(F.pad(x, [self.pad] * 4, mode="reflect"), self.kernel).view(
            number, channels, self.kernel**2, height, width
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        batch, _, height, width = q.shape
        place = self.conv_p(self._positions(height, width, x))
        split = (batch * self.heads, self.size, height, width)
        queries = (q.view(split) * self.size**-0.5).unsqueeze(2)
        keys, places = self._windows(k.view(split)), self._windows(place)
        weights = (queries * (keys + place.unsqueeze(2) - places)).sum(1).softmax(1)
        y = (weights.unsqueeze(1) * self._windows(v.view(split))).sum(2).view(batch, -1, height, width)
        flat = (batch, self.heads, self.size, height * width)
        mixed = self.fc(torch.cat([q.view(flat), k.view(flat), v.view(flat)], 1))
        mixed = mixed.permute(0, 2, 1, 3).reshape(batch, -1, height, width)
        return self.rate1 * y + self.rate2 * self.dep_conv(mixed)


class _Block(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, kernel: int, norm: bool) -> None:
        super().__init__()
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=False))
        if norm:
            self.block.add_module("norm", nn.BatchNorm2d(fan_out))
            self.block.add_module("act", nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, dim // heads
        self.qkv_proj, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv_proj(x).reshape(batch, length, 3, self.heads, -1).transpose(1, 3).contiguous()
        q, k, v = qkv[:, :, 0] * self.size**-0.5, qkv[:, :, 1], qkv[:, :, 2]
        y = torch.matmul(torch.matmul(q, k.transpose(-1, -2)).softmax(-1), v)
        return self.out_proj(y.transpose(1, 2).reshape(batch, length, -1))


class _Encoder(nn.Module):
    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(dim), _SelfAttention(dim, heads))
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.SiLU(), nn.Identity(), nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_mha(x)
        return x + self.pre_norm_ffn(x)


class MobileViT(nn.Module):
    """MobileViT's block: the padded size is a Python number, as in the published code."""

    def __init__(self, channels: int, dim: int, hidden: int, head_dim: int, depth: int = 2) -> None:
        super().__init__()
        self.local_rep = nn.Sequential()
        self.local_rep.add_module("conv_3x3", _Block(channels, channels, 3, True))
        self.local_rep.add_module("conv_1x1", _Block(channels, dim, 1, False))
        layers = [_Encoder(dim, hidden, dim // head_dim) for _ in range(depth)]
        self.global_rep = nn.Sequential(*layers, nn.LayerNorm(dim))
        self.conv_proj = _Block(dim, channels, 1, True)
        self.fusion = _Block(2 * channels, channels, 3, True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.local_rep(x)
        batch, channels, height, width = y.shape
        rows, columns = int(math.ceil(height / 2) * 2), int(math.ceil(width / 2) * 2)
        resized = rows != height or columns != width
        if resized:
            y = F.interpolate(y, size=(rows, columns), mode="bilinear", align_corners=False)
        high, wide = rows // 2, columns // 2
        y = y.reshape(batch * channels * high, 2, wide, 2).transpose(1, 2)
        y = y.reshape(batch, channels, high * wide, 4).transpose(1, 3).reshape(batch * 4, high * wide, -1)
        y = self.global_rep(y).contiguous().view(batch, 4, high * wide, -1).transpose(1, 3)
        y = y.reshape(batch * channels * high, wide, 2, 2).transpose(1, 2).reshape(batch, channels, rows, columns)
        if resized:
            y = F.interpolate(y, size=(height, width), mode="bilinear", align_corners=False)
        return self.fusion(torch.cat((x, self.conv_proj(y)), dim=1))


class ConvNeXt(nn.Module):
    """ConvNeXt's block on channels-last tokens; version 2 has global response normalisation."""

    def __init__(self, channels: int, version: int = 1) -> None:
        super().__init__()
        self.version = version
        if version == 1:
            self.gamma = nn.Parameter(torch.ones(channels))
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        if version == 2:
            self.grn = nn.ParameterDict(
                {k: nn.Parameter(torch.zeros(1, 1, 1, 4 * channels)) for k in ("gamma", "beta")}
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        if self.version == 2:
            norm = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
            y = self.grn["gamma"] * (y * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + self.grn["beta"] + y
        y = self.pwconv2(y)
        if self.version == 1:
            y = self.gamma * y
        return x + y.permute(0, 3, 1, 2)


def _conv_norm(fan_in: int, fan_out: int, kernel: int = 1, groups: int = 1, norm: bool = True) -> nn.Sequential:
    unit = nn.Sequential()
    unit.add_module("conv", nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, groups=groups))
    if norm:
        unit.add_module("bn", nn.BatchNorm2d(fan_out))
    return unit


class Star(nn.Module):
    """StarNet's block: two wide projections of one map, multiplied."""

    def __init__(self, channels: int, ratio: int = 3) -> None:
        super().__init__()
        self.dwconv = _conv_norm(channels, channels, 7, channels)
        self.f1, self.f2 = (_conv_norm(channels, ratio * channels, norm=False) for _ in range(2))
        self.g = _conv_norm(ratio * channels, channels)
        self.dwconv2 = _conv_norm(channels, channels, 7, channels, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        return x + self.dwconv2(self.g(F.relu6(self.f1(y)) * self.f2(y)))


class CSRA(nn.Module):
    """Class-specific residual attention: the scores are divided by the norms of the classifier's rows."""

    def __init__(self, channels: int, classes: int, temperature: int) -> None:
        super().__init__()
        self.temperature, self.head = temperature, nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        score = self.head(x) / torch.norm(self.head.weight, dim=1, keepdim=True).transpose(0, 1)
        score = score.flatten(2)
        base = torch.mean(score, dim=2)
        if self.temperature == 99:
            return base + 0.1 * torch.max(score, dim=2)[0]
        return base + 0.1 * torch.sum(score * (score * self.temperature).softmax(dim=2), dim=2)


class MultiHeadCSRA(nn.Module):
    """Four class-specific residual attention heads, each with a classifier of its own."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.multi_head = nn.ModuleList(CSRA(channels, classes, t) for t in (1, 2, 4, 99))

    def forward(self, x: Tensor) -> Tensor:
        total = self.multi_head[0](x)
        for head in list(self.multi_head)[1:]:
            total = total + head(x)
        return total


class SPPCSPC(nn.Module):
    """YOLOv7's pyramid pooling: pools of 5, 9 and 13 of one map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for number, (fan_in, kernel) in enumerate(((1, 1), (1, 1), (1, 3), (1, 1), (4, 1), (1, 3), (2, 1)), 1):
            setattr(self, f"cv{number}", ConvUnit(fan_in * channels, channels, kernel))
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        first = self.cv4(self.cv3(self.cv1(x)))
        first = self.cv6(self.cv5(torch.cat([first] + [m(first) for m in self.m], 1)))
        return self.cv7(torch.cat((first, self.cv2(x)), dim=1))


class RepViT(nn.Module):
    """RepViT's block: two depthwise branches and the input, normalised together; an MLP with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        mixer = nn.Module()
        mixer.conv = nn.Sequential()
        mixer.conv.add_module("c", nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
        mixer.conv.add_module("bn", nn.BatchNorm2d(channels))
        mixer.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        mixer.bn = nn.BatchNorm2d(channels)
        self.token_mixer = nn.ModuleList([mixer])
        self.channel_mixer = nn.Module()
        self.channel_mixer.m = nn.Sequential(
            _renamed(conv_bn(channels, 2 * channels, 1)), nn.GELU(), _renamed(conv_bn(2 * channels, channels, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        mixer = self.token_mixer[0]
        y = mixer.bn(mixer.conv(x) + mixer.conv1(x) + x)
        return y + self.channel_mixer.m(y)


def _renamed(unit: nn.Sequential) -> nn.Sequential:
    renamed = nn.Sequential()
    renamed.add_module("c", unit.conv)
    renamed.add_module("bn", unit.bn)
    return renamed
