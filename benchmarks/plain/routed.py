"""Attention through agents, chosen regions and sampled points, written as it is commonly written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Agent(nn.Module):
    """Agent attention of the pyramid transformer: pooled queries stand between queries and keys."""

    def __init__(self, channels: int, size: int, num_heads: int = 8, agents: int = 49) -> None:
        super().__init__()
        self.size, self.heads, self.agents = size, num_heads, agents
        self.scale = (channels // num_heads) ** -0.5
        self.q, self.kv = nn.Linear(channels, channels, bias=False), nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.dwc = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.an_bias = nn.Parameter(torch.randn(num_heads, agents, 7, 7))
        self.na_bias = nn.Parameter(torch.randn(num_heads, agents, 7, 7))
        self.ah_bias = nn.Parameter(torch.randn(1, num_heads, agents, size, 1))
        self.aw_bias = nn.Parameter(torch.randn(1, num_heads, agents, 1, size))
        self.ha_bias = nn.Parameter(torch.randn(1, num_heads, size, 1, agents))
        self.wa_bias = nn.Parameter(torch.randn(1, num_heads, 1, size, agents))
        self.pool = nn.AdaptiveAvgPool2d(int(agents**0.5))

    def _bias(self, table: Tensor, batch: int) -> Tensor:
        table = F.interpolate(table, size=(self.size, self.size), mode="bilinear")
        return table.reshape(1, self.heads, self.agents, -1).repeat(batch, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens, count = x.flatten(2).transpose(1, 2), height * width
        size = channels // self.heads
        q = self.q(tokens)
        kv = self.kv(tokens).reshape(batch, -1, 2, channels).permute(2, 0, 1, 3)
        k, v = kv[0], kv[1]
        agents = self.pool(q.reshape(batch, height, width, channels).permute(0, 3, 1, 2))
        agents = agents.reshape(batch, channels, -1).permute(0, 2, 1)
        q = q.reshape(batch, count, self.heads, size).permute(0, 2, 1, 3)
        k = k.reshape(batch, count, self.heads, size).permute(0, 2, 1, 3)
        v = v.reshape(batch, count, self.heads, size).permute(0, 2, 1, 3)
        agents = agents.reshape(batch, self.agents, self.heads, size).permute(0, 2, 1, 3)
        place = self._bias(self.an_bias, batch)
        place = place + (self.ah_bias + self.aw_bias).reshape(1, self.heads, self.agents, -1).repeat(batch, 1, 1, 1)
        gathered = ((agents * self.scale) @ k.transpose(-2, -1) + place).softmax(dim=-1) @ v
        back = self._bias(self.na_bias, batch).permute(0, 1, 3, 2)
        back = back + (self.ha_bias + self.wa_bias).reshape(1, self.heads, -1, self.agents).repeat(batch, 1, 1, 1)
        y = ((q * self.scale) @ agents.transpose(-2, -1) + back).softmax(dim=-1) @ gathered
        y = y.transpose(1, 2).reshape(batch, count, channels)
        v = v.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        y = y + self.dwc(v).permute(0, 2, 3, 1).reshape(batch, count, channels)
        return self.proj(y).transpose(1, 2).reshape(batch, channels, height, width)


class BiLevelRouting(nn.Module):
    """BiFormer's attention: the keys of the chosen regions are gathered by an index as large as they are."""

    def __init__(self, channels: int, num_heads: int = 8, n_win: int = 7, topk: int = 4) -> None:
        super().__init__()
        self.heads, self.n_win, self.topk, self.scale = num_heads, n_win, topk, channels**-0.5
        self.lepe = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.qkv_linear, self.output_linear = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def _regions(self, x: Tensor, rows: int, columns: int) -> Tensor:
        batch, channels, height, width = x.size()
        r, c = height // rows, width // columns
        x = x.view(batch, self.heads, channels // self.heads, r, rows, c, columns)
        return x.permute(0, 1, 3, 5, 4, 6, 2).flatten(2, 3).flatten(3, 4).flatten(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        rows, columns = height // self.n_win, width // self.n_win
        q, k, v = self.qkv_linear(x).chunk(3, dim=1)
        q_r = F.avg_pool2d(q, (rows, columns)).permute(0, 2, 3, 1).flatten(1, 2)
        k_r = F.avg_pool2d(k, (rows, columns)).flatten(2, 3)
        index = torch.topk(q_r @ k_r, k=self.topk, dim=-1).indices
        index = index.unsqueeze(1).expand(-1, self.heads, -1, -1)
        qs, ks, vs = (self._regions(t, rows, columns) for t in (q, k, v))
        count, length, size = qs.shape[2:]
        wide = index.view(batch, self.heads, count, self.topk, 1, 1).expand(-1, -1, -1, -1, length, size)
        ks = torch.gather(ks.unsqueeze(2).expand(-1, -1, count, -1, -1, -1), 3, wide).flatten(3, 4)
        vs = torch.gather(vs.unsqueeze(2).expand(-1, -1, count, -1, -1, -1), 3, wide).flatten(3, 4)
        y = ((qs * self.scale) @ ks.transpose(-1, -2)).softmax(dim=-1) @ vs
        y = y.view(batch, self.heads, self.n_win, self.n_win, rows, columns, size)
        y = y.permute(0, 1, 6, 2, 4, 3, 5).reshape(batch, channels, height, width)
        return self.output_linear(y + self.lepe(v))


class DeformableAttention(nn.Module):
    """Deformable DETR's sampled attention on flattened and joined maps, with GridSample."""

    def __init__(self, channels: int, levels: int = 4, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.levels, self.heads, self.points, self.size = levels, heads, points, channels // heads
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj, self.output_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(
        self, query: Tensor, reference: Tensor, value0: Tensor, value1: Tensor, value2: Tensor, value3: Tensor
    ) -> Tensor:
        maps = (value0, value1, value2, value3)
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        flat = self.value_proj(torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1))
        batch, count, _ = query.shape
        flat = flat.view(batch, flat.shape[1], self.heads, self.size)
        offsets = self.sampling_offsets(query).view(batch, count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(batch, count, self.heads, self.levels * self.points).softmax(-1)
        weights = weights.view(batch, count, self.heads, self.levels, self.points)
        scale = query.new_tensor([[w, h] for h, w in shapes])
        places = reference[:, :, None, :, None, :] + offsets / scale[None, None, None, :, None, :]
        grids = 2 * places - 1
        sampled = []
        for level, (part, (height, width)) in enumerate(
            zip(flat.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ):
            values = part.flatten(2).transpose(1, 2).reshape(batch * self.heads, self.size, height, width)
            grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(batch * self.heads, 1, count, self.levels * self.points)
        y = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1)
        return self.output_proj(y.view(batch, self.heads * self.size, count).transpose(1, 2).contiguous())
