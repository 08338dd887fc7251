"""Attention of detectors and transformers, written as it is commonly written: maps flattened to tokens, permuted back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvUnit(nn.Module):
    """Convolution, BatchNorm and perhaps SiLU, under the keys conv and bn."""

    def __init__(
        self, fan_in: int, fan_out: int, kernel_size: int = 1, groups: int = 1, act: bool = True, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(fan_out)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class AIFI(nn.Module):
    """RT-DETR's encoder layer: the published position table is built w-major while the tokens are h-major."""

    def __init__(self, channels: int, ffn_dim: int = 2048, num_heads: int = 8) -> None:
        super().__init__()
        self.ma = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(channels, ffn_dim), nn.Linear(ffn_dim, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)

    @staticmethod
    def _positions(width: int, height: int, dim: int, x: Tensor) -> Tensor:
        along_w = torch.arange(width, dtype=torch.float32)
        along_h = torch.arange(height, dtype=torch.float32)
        along_w, along_h = torch.meshgrid(along_w, along_h, indexing="ij")
        omega = torch.arange(dim // 4, dtype=torch.float32) / (dim // 4)
        omega = 1.0 / (10000.0**omega)
        by_w, by_h = along_w.flatten()[..., None] @ omega[None], along_h.flatten()[..., None] @ omega[None]
        table = torch.cat([torch.sin(by_w), torch.cos(by_w), torch.sin(by_h), torch.cos(by_h)], 1)
        return table[None].to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        place = self._positions(width, height, channels, x)
        tokens = x.flatten(2).permute(0, 2, 1)
        query = tokens + place
        tokens = self.norm1(tokens + self.ma(query, query, value=tokens)[0])
        tokens = self.norm2(tokens + self.fc2(F.gelu(self.fc1(tokens))))
        return tokens.permute(0, 2, 1).view([-1, channels, height, width]).contiguous()


class AreaAttention(nn.Module):
    """YOLOv12's area attention: the areas go into the batch and come back out of it."""

    def __init__(self, channels: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.area, self.heads, self.size = area, num_heads, channels // num_heads
        self.qk, self.v = ConvUnit(channels, 2 * channels, act=False), ConvUnit(channels, channels, act=False)
        self.proj = ConvUnit(channels, channels, act=False)
        self.pe = ConvUnit(channels, channels, 5, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        count = height * width
        qk, v = self.qk(x).flatten(2).transpose(1, 2), self.v(x)
        place = self.pe(v)
        v = v.flatten(2).transpose(1, 2)
        if self.area > 1:
            qk = qk.reshape(batch * self.area, count // self.area, channels * 2)
            v = v.reshape(batch * self.area, count // self.area, channels)
        number, length, _ = qk.shape
        q, k = qk.split([channels, channels], dim=2)
        q = q.transpose(1, 2).view(number, self.heads, self.size, length)
        k = k.transpose(1, 2).view(number, self.heads, self.size, length)
        v = v.transpose(1, 2).view(number, self.heads, self.size, length)
        attention = (q.transpose(-2, -1) @ k) * (self.size**-0.5)
        highest = attention.max(dim=-1, keepdim=True).values
        weights = torch.exp(attention - highest)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        y = (v @ weights.transpose(-2, -1)).permute(0, 3, 1, 2)
        if self.area > 1:
            y = y.reshape(batch, count, channels)
        y = y.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return self.proj(y + place)


class AreaBlock(nn.Module):
    """Area attention and a small MLP, each with its shortcut."""

    def __init__(self, channels: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.attn = AreaAttention(channels, num_heads, area)
        hidden = int(channels * 1.2)
        self.mlp = nn.Sequential(ConvUnit(channels, hidden), ConvUnit(hidden, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class _JointArea(nn.Module):
    """The package's area attention: one projection for queries, keys and values, split within each head."""

    def __init__(self, dim: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.area, self.heads, self.size = area, num_heads, dim // num_heads
        self.qkv, self.proj = ConvUnit(dim, 3 * dim, act=False), ConvUnit(dim, dim, act=False)
        self.pe = ConvUnit(dim, dim, 7, dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        count = height * width
        qkv = self.qkv(x).flatten(2).transpose(1, 2)
        if self.area > 1:
            qkv = qkv.reshape(batch * self.area, count // self.area, channels * 3)
            batch, count, _ = qkv.shape
        qkv = qkv.view(batch, count, self.heads, self.size * 3).permute(0, 2, 3, 1)
        q, k, v = qkv.split([self.size, self.size, self.size], dim=2)
        attention = ((q.transpose(-2, -1) @ k) * (self.size**-0.5)).softmax(dim=-1)
        y = (v @ attention.transpose(-2, -1)).permute(0, 3, 1, 2)
        v = v.permute(0, 3, 1, 2)
        if self.area > 1:
            y = y.reshape(batch // self.area, count * self.area, channels)
            v = v.reshape(batch // self.area, count * self.area, channels)
            batch, count, _ = y.shape
        y = y.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()
        v = v.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()
        return self.proj(y + self.pe(v))


class _JointAreaBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.attn = _JointArea(dim, num_heads, area)
        self.mlp = nn.Sequential(ConvUnit(dim, dim * 2), ConvUnit(dim * 2, dim, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class A2C2f(nn.Module):
    """A C2f-like block whose parts are pairs of area attention blocks."""

    def __init__(self, channels: int, area: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.cv1, self.cv2 = ConvUnit(channels, hidden), ConvUnit(2 * hidden, channels)
        self.m = nn.ModuleList(
            [nn.Sequential(*(_JointAreaBlock(hidden, hidden // 32, area) for _ in range(2))) for _ in range(1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class _YoloAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.heads, self.size = num_heads, dim // num_heads
        self.key = self.size // 2
        self.qkv = ConvUnit(dim, dim + 2 * self.key * num_heads, act=False)
        self.proj, self.pe = ConvUnit(dim, dim, act=False), ConvUnit(dim, dim, 3, dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        count = height * width
        qkv = self.qkv(x).view(batch, self.heads, self.key * 2 + self.size, count)
        q, k, v = qkv.split([self.key, self.key, self.size], dim=2)
        attention = ((q.transpose(-2, -1) @ k) * (self.key**-0.5)).softmax(dim=-1)
        y = (v @ attention.transpose(-2, -1)).view(batch, channels, height, width)
        return self.proj(y + self.pe(v.reshape(batch, channels, height, width)))


class _PSABlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = _YoloAttention(dim, num_heads)
        self.ffn = nn.Sequential(ConvUnit(dim, dim * 2), ConvUnit(dim * 2, dim, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """YOLO11's attention block; with ``single`` YOLOv10's, whose one block is written out."""

    def __init__(self, channels: int, single: bool) -> None:
        super().__init__()
        self.width, self.single = channels // 2, single
        self.cv1, self.cv2 = ConvUnit(channels, 2 * self.width), ConvUnit(2 * self.width, channels)
        block = _PSABlock(self.width, max(self.width // 64, 1))
        if single:
            self.attn, self.ffn = block.attn, block.ffn
        else:
            self.m = nn.Sequential(block)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).split((self.width, self.width), dim=1)
        if self.single:
            b = b + self.attn(b)
            b = b + self.ffn(b)
        else:
            b = self.m(b)
        return self.cv2(torch.cat((a, b), 1))


class _Block(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(fan_in, fan_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class SeparableSelfAttention(nn.Module):
    """MobileViTv2's linear attention over patches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.qkv_proj, self.out_proj = _Block(channels, 1 + 2 * channels), _Block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = torch.split(self.qkv_proj(x), [1, self.channels, self.channels], dim=1)
        context = (key * query.softmax(dim=-1)).sum(dim=-1, keepdim=True)
        return self.out_proj(F.relu(value) * context.expand_as(value))


class FocalModulation(nn.Module):
    """Focal modulation on channels-last maps, permuted around each convolution."""

    def __init__(self, channels: int, window: int = 3, levels: int = 2) -> None:
        super().__init__()
        self.levels, self.channels = levels, channels
        self.f = nn.Linear(channels, 2 * channels + levels + 1)
        self.h, self.proj = nn.Conv2d(channels, channels, 1), nn.Linear(channels, channels)
        kernels = [2 * level + window for level in range(levels)]
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, bias=False), nn.GELU())
            for k in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
        query, context, gates = torch.split(x, (self.channels, self.channels, self.levels + 1), 1)
        total = torch.zeros_like(context)
        for level in range(self.levels):
            context = self.focal_layers[level](context)
            total = total + context * gates[:, level : level + 1]
        overall = F.gelu(context.mean(2, keepdim=True).mean(3, keepdim=True))
        total = total + overall * gates[:, self.levels :]
        out = (query * self.h(total)).permute(0, 2, 3, 1).contiguous()
        return self.proj(out).permute(0, 3, 1, 2)
