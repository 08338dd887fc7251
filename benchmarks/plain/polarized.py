"""Polarized and external attention, written as they are commonly written: views to tokens, products, views back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PolarizedOfficial(nn.Module):
    """Polarized self-attention as its authors publish it, in parallel or one half after the other."""

    def __init__(self, channels: int, sequential: bool) -> None:
        super().__init__()
        half, self.sequential = channels // 2, sequential
        self.conv_q_right, self.conv_v_right = _conv(channels, 1), _conv(channels, half)
        if sequential:
            hidden = half // 4
            self.conv_up = nn.Sequential(
                nn.Conv2d(half, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
            )
        else:
            self.conv_up = _conv(half, channels)
        self.conv_q_left, self.conv_v_left = _conv(channels, half), _conv(channels, half)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)

    def _channel(self, x: Tensor) -> Tensor:
        values = self.conv_v_right(x)
        batch, channels, height, width = values.size()
        values = values.view(batch, channels, height * width)
        mask = self.conv_q_right(x).view(batch, 1, height * width).softmax(dim=2)
        context = torch.matmul(values, mask.transpose(1, 2)).unsqueeze(-1)
        return x * torch.sigmoid(self.conv_up(context))

    def _spatial(self, x: Tensor) -> Tensor:
        pooled = self.avg_pool(self.conv_q_left(x))
        batch, channels, _, _ = pooled.size()
        pooled = pooled.view(batch, channels, 1).permute(0, 2, 1)
        theta = self.conv_v_left(x)
        height, width = theta.size()[2:]
        theta = theta.view(batch, channels, height * width)
        if self.sequential:
            context = torch.matmul(pooled, theta.softmax(dim=2))
        else:
            context = torch.matmul(pooled, theta).softmax(dim=2)
        return x * torch.sigmoid(context.view(batch, 1, height, width))

    def forward(self, x: Tensor) -> Tensor:
        return self._spatial(self._channel(x)) if self.sequential else self._spatial(x) + self._channel(x)


def _conv(fan_in: int, fan_out: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, 1, bias=False)


class PolarizedPaper(nn.Module):
    """Polarized self-attention as the paper draws it, and the popular re-implementations have it."""

    def __init__(self, channels: int, sequential: bool) -> None:
        super().__init__()
        self.half, self.sequential = channels // 2, sequential
        self.ch_wv, self.ch_wq = nn.Conv2d(channels, self.half, 1), nn.Conv2d(channels, 1, 1)
        self.ch_wz, self.ln = nn.Conv2d(self.half, channels, 1), nn.LayerNorm(channels)
        self.sp_wv, self.sp_wq = nn.Conv2d(channels, self.half, 1), nn.Conv2d(channels, self.half, 1)
        self.agp = nn.AdaptiveAvgPool2d((1, 1))

    def _channel(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        values = self.ch_wv(x).reshape(batch, self.half, -1)
        query = self.ch_wq(x).reshape(batch, -1, 1).softmax(dim=1)
        context = torch.matmul(values, query).unsqueeze(-1)
        logits = self.ch_wz(context).reshape(batch, channels, 1).permute(0, 2, 1)
        gate = self.ln(logits).sigmoid().permute(0, 2, 1).reshape(batch, channels, 1, 1)
        return gate * x

    def _spatial(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        values = self.sp_wv(x).reshape(batch, self.half, -1)
        query = self.agp(self.sp_wq(x)).permute(0, 2, 3, 1).reshape(batch, 1, self.half).softmax(dim=-1)
        return torch.matmul(query, values).reshape(batch, 1, height, width).sigmoid() * x

    def forward(self, x: Tensor) -> Tensor:
        return self._spatial(self._channel(x)) if self.sequential else self._spatial(x) + self._channel(x)


class ExternalAttention(nn.Module):
    """External attention on maps: a convolution, two memories as 1-D convolutions, a convolution, the input."""

    def __init__(self, channels: int, memory: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.linear_0 = nn.Conv1d(channels, memory, 1, bias=False)
        self.linear_1 = nn.Conv1d(memory, channels, 1, bias=False)
        self.conv2 = nn.Sequential(_conv(channels, channels), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        batch, channels, height, width = y.size()
        attention = self.linear_0(y.view(batch, channels, height * width)).softmax(dim=-1)
        attention = attention / (1e-9 + attention.sum(dim=1, keepdim=True))
        y = self.linear_1(attention).view(batch, channels, height, width)
        return F.relu(self.conv2(y) + x)


class MultiheadExternalAttention(nn.Module):
    """External attention on tokens, with four times as many heads inside."""

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__()
        self.heads, memory, width = num_heads * 4, 256 // 4, dim * 4
        self.trans_dims = nn.Linear(dim, width)
        self.linear_0, self.linear_1 = nn.Linear(width // self.heads, memory), nn.Linear(memory, width // self.heads)
        self.proj = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.trans_dims(x).view(batch, length, self.heads, -1).permute(0, 2, 1, 3)
        attention = self.linear_0(heads).softmax(dim=-2)
        attention = attention / (1e-9 + attention.sum(dim=-1, keepdim=True))
        joined = self.linear_1(attention).permute(0, 2, 1, 3).reshape(batch, length, -1)
        return self.proj(joined)
