"""A BiFPN layer whose sizes are numbers that were given when it was built."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _FixedResize(nn.Module):
    """To the size of a level: pooled or enlarged to numbers that were computed when the network was built."""

    def __init__(self, size: tuple[int, int], down: bool) -> None:
        super().__init__()
        self.size, self.down = size, down

    def forward(self, x: Tensor) -> Tensor:
        if not self.down:
            return F.interpolate(x, size=self.size, mode="nearest")
        return F.max_pool2d(F.pad(x, [0, 1, 0, 1], value=-float("inf")), 3, 2)


class _Node(nn.Module):
    def __init__(self, channels: int, sources: tuple[int, ...], resizes: dict[int, _FixedResize]) -> None:
        super().__init__()
        self.sources = sources
        self.combine = nn.Module()
        self.combine.edge_weights = nn.Parameter(torch.ones(len(sources)))
        self.resize = nn.ModuleDict({str(k): v for k, v in resizes.items()})
        separable = nn.Sequential()
        separable.add_module("conv_dw", nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
        separable.add_module("conv_pw", nn.Conv2d(channels, channels, 1))
        separable.add_module("bn", nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01))
        self.after_combine = nn.Sequential()
        self.after_combine.add_module("conv", separable)

    def forward(self, maps: list[Tensor]) -> Tensor:
        parts = [self.resize[str(s)](maps[s]) if str(s) in self.resize else maps[s] for s in self.sources]
        weights = F.relu(self.combine.edge_weights)
        total = torch.sum(weights) + 0.0001
        stacked = torch.stack([p * weights[i] / total for i, p in enumerate(parts)], dim=-1)
        return self.after_combine(F.silu(torch.sum(stacked, dim=-1)))


class BiFPN(nn.Module):
    """One BiFPN layer of five levels, which gets the size of each when it is built."""

    def __init__(self, channels: int, height: int, width: int, levels: int = 5) -> None:
        super().__init__()
        self.levels = levels
        sizes = [(height // 2**i, width // 2**i) for i in range(levels)]
        nodes, last = [], {levels - 1: levels - 1}
        for level in reversed(range(levels - 1)):  # down the pyramid
            above = last[level + 1]
            nodes.append(_Node(channels, (level, above), {above: _FixedResize(sizes[level], False)}))
            last[level] = levels + len(nodes) - 1
        for level in range(1, levels):  # and up again
            below = last[level - 1]
            own = (level, last[level]) if level < levels - 1 else (level,)
            nodes.append(_Node(channels, (*own, below), {below: _FixedResize(sizes[level], True)}))
            last[level] = levels + len(nodes) - 1
        self.fnode = nn.ModuleList(nodes)

    def forward(self, x0: Tensor, x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor) -> list[Tensor]:
        maps = [x0, x1, x2, x3, x4]
        for node in self.fnode:
            maps.append(node(maps))
        return maps[-self.levels :]
