"""Attention within windows, along axes and at sampled places, written as it is commonly written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CoT(nn.Module):
    """Contextual transformer: windows by unfold, weights by two convolutions and GroupNorm, or its grouped form."""

    def __init__(self, channels: int, grouped: bool) -> None:
        super().__init__()
        self.grouped, groups = grouped, 2 if grouped else 1
        self.share = channels // 8
        self.key_embed = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=8 if grouped else 4, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.embed = nn.Sequential(
            nn.Conv2d(2 * channels, channels // 2, 1, groups=groups, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, 9 * self.share, 1, groups=groups),
            nn.GroupNorm(self.share, 9 * self.share),
        )
        self.conv1x1 = nn.Sequential(
            nn.Conv2d(channels, channels, 1, groups=groups, bias=False), nn.BatchNorm2d(channels)
        )
        self.bn = nn.BatchNorm2d(channels)
        hidden = max(channels // 2, 32)
        self.se = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 2 * channels, 1)
        )

    @staticmethod
    def _aggregate(values: Tensor, weights: Tensor) -> Tensor:
        batch, channels, height, width = values.shape
        share = weights.shape[1]
        windows = F.unfold(values, 3, padding=1).view(batch, channels // share, share, 9, height, width)
        return (windows * weights.unsqueeze(1)).sum(3).view(batch, channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        k = self.key_embed(x)
        if self.grouped:
            both = torch.cat([x.unsqueeze(2), k.unsqueeze(2)], dim=2).view(batch, -1, height, width)
        else:
            both = torch.cat([x, k], dim=1)
        weights = self.embed(both).view(batch, -1, 9, height, width)
        values = self.conv1x1(x)
        if self.grouped:
            pairs = zip(values.chunk(2, 1), weights.chunk(2, 1), strict=True)
            y = torch.cat([self._aggregate(v, w) for v, w in pairs], 1)
        else:
            y = self._aggregate(values, weights)
        y = F.silu(self.bn(y))
        both = torch.cat([y.view(batch, channels, 1, height, width), k.view(batch, channels, 1, height, width)], 2)
        pooled = both.sum(dim=2).mean((2, 3), keepdim=True)
        gates = self.se(pooled).view(batch, channels, 2).softmax(dim=2)
        return (both * gates.reshape(batch, channels, 2, 1, 1)).sum(dim=2).contiguous()


class Outlook(nn.Module):
    """VOLO's outlook attention: unfold, a product for each window, fold."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.heads, self.scale = num_heads, (channels // num_heads) ** -0.5
        self.v, self.attn = nn.Linear(channels, channels, bias=False), nn.Linear(channels, 81 * num_heads)
        self.proj, self.pool = nn.Linear(channels, channels), nn.AvgPool2d(1, 1, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        batch, height, width, channels = x.shape
        values = F.unfold(self.v(x).permute(0, 3, 1, 2), 3, padding=1)
        values = values.reshape(batch, self.heads, channels // self.heads, 9, height * width).permute(0, 1, 4, 3, 2)
        pooled = self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        weights = self.attn(pooled).reshape(batch, height * width, self.heads, 9, 9).permute(0, 2, 1, 3, 4)
        weights = (weights * self.scale).softmax(dim=-1)
        y = (weights @ values).permute(0, 1, 4, 3, 2).reshape(batch, channels * 9, height * width)
        y = F.fold(y, output_size=(height, width), kernel_size=3, padding=1)
        return self.proj(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Relative(nn.Module):
    def __init__(self, block: int, window: int, dim: int) -> None:
        super().__init__()
        self.block, self.window = block, window
        self.height_rel = nn.Parameter(torch.randn(2 * window - 1, dim))
        self.width_rel = nn.Parameter(torch.randn(2 * window - 1, dim))

    def _along(self, q: Tensor, table: Tensor, mask: tuple[int, ...]) -> Tensor:
        batch, rows, columns, _ = q.shape
        x = (q @ table.transpose(-1, -2)).reshape(-1, columns, 2 * self.window - 1)
        x = F.pad(F.pad(x, [0, 1]).flatten(1), [0, 2 * self.window - 1 - columns])
        x = x.reshape(-1, columns + 1, 2 * self.window - 1)[:, :columns, self.window - 1 :]
        x = x.reshape(batch, rows, 1, columns, self.window).expand(-1, -1, self.window, -1, -1)
        return x.permute(mask)

    def forward(self, q: Tensor) -> Tensor:
        batch, blocks, _, dim = q.shape
        q = q.reshape(-1, self.block, self.block, dim)
        by_width = self._along(q, self.width_rel, (0, 1, 3, 2, 4))
        by_height = self._along(q.transpose(1, 2), self.height_rel, (0, 3, 1, 4, 2))
        return (by_height + by_width).reshape(batch, blocks, self.block * self.block, -1)


class Halo(nn.Module):
    """HaloNet's blocked attention: queries of a block, keys of the block and its halo, taken out by Tensor.unfold."""

    def __init__(self, channels: int, num_heads: int = 8, block: int = 8, halo: int = 3) -> None:
        super().__init__()
        self.heads, self.dim, self.block, self.halo = num_heads, channels // num_heads, block, halo
        self.window, self.scale = block + 2 * halo, (channels // num_heads) ** -0.5
        self.q = nn.Conv2d(channels, channels, 1, bias=False)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.pos_embed = _Relative(block, self.window, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = height // self.block, width // self.block
        blocks = rows * columns
        q = self.q(x).reshape(-1, self.dim, rows, self.block, columns, self.block).permute(0, 1, 3, 5, 2, 4)
        q = q.reshape(batch * self.heads, self.dim, -1, blocks).transpose(1, 3)
        kv = F.pad(self.kv(x), [self.halo] * 4)
        kv = kv.unfold(2, self.window, self.block).unfold(3, self.window, self.block)
        kv = kv.reshape(batch * self.heads, 2 * self.dim, blocks, -1).permute(0, 2, 3, 1)
        k, v = torch.split(kv, [self.dim, self.dim], dim=-1)
        attention = ((q @ k.transpose(-1, -2)) * self.scale + self.pos_embed(q)).softmax(dim=-1)
        y = (attention @ v).transpose(1, 3).reshape(-1, self.block, self.block, rows, columns)
        return y.permute(0, 3, 1, 4, 2).contiguous().view(batch, -1, height, width)


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, dim // heads
        self.to_q, self.to_kv = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        batch, _, dim = q.shape

        def merge(t: Tensor) -> Tensor:
            t = t.reshape(batch, -1, self.heads, self.size).transpose(1, 2)
            return t.reshape(batch * self.heads, -1, self.size)

        q, k, v = map(merge, (q, k, v))
        dots = torch.einsum("bie,bje->bij", q, k) * (self.size**-0.5)
        out = torch.einsum("bij,bje->bie", dots.softmax(dim=-1), v)
        out = out.reshape(batch, self.heads, -1, self.size).transpose(1, 2).reshape(batch, -1, dim)
        return self.to_out(out)


class _Along(nn.Module):
    """Moves one axis last but one, joins the others into the batch, and back."""

    def __init__(self, order: tuple[int, ...], fn: nn.Module) -> None:
        super().__init__()
        self.fn, self.order = fn, order
        self.inverse = tuple(order.index(i) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(*self.order).contiguous()
        shape = x.shape
        y = self.fn(x.reshape(-1, shape[-2], shape[-1])).reshape(*shape)
        return y.permute(*self.inverse).contiguous()


class Axial(nn.Module):
    """Axial attention: self-attention of every column, and of every row."""

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        orders = ((0, 3, 2, 1), (0, 2, 3, 1))
        self.axial_attentions = nn.ModuleList(_Along(o, _SelfAttention(channels, num_heads)) for o in orders)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.axial_attentions
        return first(x) + second(x)


class PositionSensitive(nn.Module):
    """Axial-DeepLab's attention along one axis, whose lines are the batch; einsums, BatchNorms as layers."""

    def __init__(self, fan_in: int, fan_out: int, groups: int, length: int, width: bool) -> None:
        super().__init__()
        self.groups, self.planes, self.length, self.width = groups, fan_out // groups, length, width
        self.fan_out = fan_out
        self.qkv_transform = nn.Conv1d(fan_in, 2 * fan_out, 1, bias=False)
        self.bn_qkv, self.bn_similarity = nn.BatchNorm1d(2 * fan_out), nn.BatchNorm2d(3 * groups)
        self.bn_output = nn.BatchNorm1d(2 * fan_out)
        self.relative = nn.Parameter(torch.randn(2 * self.planes, 2 * length - 1))
        query, key = torch.arange(length).unsqueeze(0), torch.arange(length).unsqueeze(1)
        self.register_buffer("flatten_index", (key - query + length - 1).view(-1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 1, 3) if self.width else x.permute(0, 3, 1, 2)
        batch, lines, channels, length = x.shape
        x = x.contiguous().view(batch * lines, channels, length)
        half = self.planes // 2
        qkv = self.bn_qkv(self.qkv_transform(x)).reshape(batch * lines, self.groups, 2 * self.planes, length)
        q, k, v = torch.split(qkv, [half, half, self.planes], dim=2)
        table = torch.index_select(self.relative, 1, self.flatten_index)
        table = table.view(2 * self.planes, self.length, self.length)
        of_q, of_k, of_v = torch.split(table, [half, half, self.planes], dim=0)
        qr = torch.einsum("bgci,cij->bgij", q, of_q)
        kr = torch.einsum("bgci,cij->bgij", k, of_k).transpose(2, 3)
        qk = torch.einsum("bgci,bgcj->bgij", q, k)
        stacked = self.bn_similarity(torch.cat([qk, qr, kr], dim=1))
        weights = stacked.view(batch * lines, 3, self.groups, length, length).sum(dim=1).softmax(dim=3)
        sv = torch.einsum("bgij,bgcj->bgci", weights, v)
        sve = torch.einsum("bgij,cij->bgci", weights, of_v)
        out = torch.cat([sv, sve], dim=-1).view(batch * lines, 2 * self.fan_out, length)
        out = self.bn_output(out).view(batch, lines, self.fan_out, 2, length).sum(dim=-2)
        return out.permute(0, 2, 1, 3) if self.width else out.permute(0, 2, 3, 1)


class GlobalFilter(nn.Module):
    """GFNet's filter: FFT, a product with a complex weight, inverse FFT, on channels-last tokens."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.complex_weight = nn.Parameter(torch.randn(height, width // 2 + 1, channels, 2) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = x.permute(0, 2, 3, 1)
        spectrum = torch.fft.rfft2(tokens, dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.complex_weight)
        y = torch.fft.irfft2(spectrum, s=(height, width), dim=(1, 2), norm="ortho")
        return y.permute(0, 3, 1, 2)
