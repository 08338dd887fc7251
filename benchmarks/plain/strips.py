"""Gates from averages along one axis or over bins, written as they are commonly written.

Strips and bins are adaptive average poolings, rows and columns are joined for one convolution and split again, and maps
are permuted so that every axis can be pooled as if it were channels. The attributes carry the official state-dict keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CoordAttention(nn.Module):
    """Coordinate attention: both strips by adaptive pooling, joined along H + W, one convolution, split."""

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1, self.bn1 = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv_h, self.conv_w = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.size()
        joined = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], dim=2)
        joined = self.bn1(self.conv1(joined))
        joined = joined * (F.relu6(joined + 3) / 6)
        rows, columns = torch.split(joined, [height, width], dim=2)
        gate_h = torch.sigmoid(self.conv_h(rows))
        gate_w = torch.sigmoid(self.conv_w(columns.permute(0, 1, 3, 2)))
        return x * gate_w * gate_h


class EMA(nn.Module):
    """Efficient multi-scale attention: groups in the batch, GroupNorm, two softmaxes of pooled branches."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.groups, width = factor, channels // factor
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1, self.conv3x3 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        grouped = x.reshape(batch * self.groups, -1, height, width)
        joined = self.conv1x1(torch.cat([self.pool_h(grouped), self.pool_w(grouped).permute(0, 1, 3, 2)], dim=2))
        rows, columns = torch.split(joined, [height, width], dim=2)
        first = self.gn(grouped * rows.sigmoid() * columns.permute(0, 1, 3, 2).sigmoid())
        second = self.conv3x3(grouped)
        size = channels // self.groups
        of_first = torch.softmax(self.pool(first).reshape(batch * self.groups, -1, 1).permute(0, 2, 1), dim=-1)
        of_second = torch.softmax(self.pool(second).reshape(batch * self.groups, -1, 1).permute(0, 2, 1), dim=-1)
        logits = torch.matmul(of_first, second.reshape(batch * self.groups, size, -1))
        logits = logits + torch.matmul(of_second, first.reshape(batch * self.groups, size, -1))
        gate = logits.reshape(batch * self.groups, 1, height, width).sigmoid()
        return (grouped * gate).reshape(batch, channels, height, width)


class MLCA(nn.Module):
    """Mixed local channel attention: adaptive pooling to bins, and from bins back to positions."""

    def __init__(self, channels: int, local_size: int = 5) -> None:
        super().__init__()
        self.local_size = local_size
        kernel = int(abs(math.log2(channels) + 1) / 2)
        kernel += 1 - kernel % 2
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.conv_local = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.local_pool = nn.AdaptiveAvgPool2d(local_size)
        self.global_pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n = self.local_size
        local = self.local_pool(x)
        overall = self.global_pool(local)
        batch, channels, _, _ = local.shape
        _, _, height, width = x.shape
        sequence = local.view(batch, channels, -1).transpose(-1, -2).reshape(batch, 1, -1)
        y_local = self.conv_local(sequence).reshape(batch, n * n, channels).transpose(-1, -2)
        y_local = y_local.reshape(batch, channels, n, n).sigmoid()
        y_global = self.conv(overall.view(batch, channels, -1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        spread = F.adaptive_avg_pool2d(y_global.sigmoid(), [n, n])
        gate = F.adaptive_avg_pool2d(spread * 0.5 + y_local * 0.5, [height, width])
        return x * gate


class ELA(nn.Module):
    """Efficient local attention: one 1-D convolution and one GroupNorm for both strips."""

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.gn = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        rows = torch.mean(x, dim=3, keepdim=True).view(batch, channels, height)
        columns = torch.mean(x, dim=2, keepdim=True).view(batch, channels, width)
        gate_h = torch.sigmoid(self.gn(self.conv(rows))).view(batch, channels, height, 1)
        gate_w = torch.sigmoid(self.gn(self.conv(columns))).view(batch, channels, 1, width)
        return x * gate_h * gate_w


class _ConvNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _ConvNorm()

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], dim=1)
        return x * torch.sigmoid(self.conv(pooled))


class TripletAttention(nn.Module):
    """Triplet attention: the whole map is permuted for each of two gates, and permuted back."""

    def __init__(self) -> None:
        super().__init__()
        self.cw, self.hc, self.hw = _Gate(), _Gate(), _Gate()

    def forward(self, x: Tensor) -> Tensor:
        first = self.cw(x.permute(0, 2, 1, 3).contiguous()).permute(0, 2, 1, 3).contiguous()
        second = self.hc(x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        return (self.hw(x) + first + second) * (1 / 3)


class ConvBN(nn.Module):
    """A convolution without bias and its BatchNorm, under the keys c and bn."""

    def __init__(self, fan_in: int, fan_out: int, kernel_size: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(fan_in, fan_out, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(fan_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class _Positions(nn.Module):
    def __init__(self, channels: int, length: int = 16) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, channels, length))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.pos_embed, size=x.shape[2], mode="linear", align_corners=False)


class SeaAttention(nn.Module):
    """Squeeze-enhanced axial attention: strips of queries, keys and values, and positions resized to the map."""

    def __init__(self, channels: int, key_dim: int = 16, num_heads: int = 4) -> None:
        super().__init__()
        self.heads, self.scale = num_heads, key_dim**-0.5
        keys, values = key_dim * num_heads, 2 * key_dim * num_heads
        self.width = values
        self.to_q, self.to_k, self.to_v = ConvBN(channels, keys), ConvBN(channels, keys), ConvBN(channels, values)
        self.proj = nn.Sequential(nn.ReLU6(), ConvBN(values, channels))
        self.proj_encode_row = nn.Sequential(nn.ReLU6(), ConvBN(values, values))
        self.pos_emb_rowq, self.pos_emb_rowk = _Positions(keys), _Positions(keys)
        self.proj_encode_column = nn.Sequential(nn.ReLU6(), ConvBN(values, values))
        self.pos_emb_columnq, self.pos_emb_columnk = _Positions(keys), _Positions(keys)
        self.dwconv = ConvBN(2 * keys + values, 2 * keys + values, 3, 2 * keys + values)
        self.pwconv = ConvBN(2 * keys + values, channels)

    def _axis(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, length = q.shape[0], q.shape[2]
        q = q.reshape(batch, self.heads, -1, length).permute(0, 1, 3, 2)
        k = k.reshape(batch, self.heads, -1, length)
        v = v.reshape(batch, self.heads, -1, length).permute(0, 1, 3, 2)
        attention = (torch.matmul(q, k) * self.scale).softmax(dim=-1)
        return torch.matmul(attention, v).permute(0, 1, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        detail = self.pwconv(F.relu6(self.dwconv(torch.cat([q, k, v], dim=1))))
        row = self._axis(self.pos_emb_rowq(q.mean(-1)), self.pos_emb_rowk(k.mean(-1)), v.mean(-1))
        row = self.proj_encode_row(row.reshape(batch, self.width, height, 1))
        column = self._axis(self.pos_emb_columnq(q.mean(-2)), self.pos_emb_columnk(k.mean(-2)), v.mean(-2))
        column = self.proj_encode_column(column.reshape(batch, self.width, 1, width))
        mixed = self.proj(v + row.add(column))
        return F.hardsigmoid(mixed) * detail
