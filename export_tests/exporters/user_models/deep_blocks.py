"""Twelve residual blocks; deep inside, one may mix by a Fourier transform or attend with unscaled logits."""

from __future__ import annotations

import torch
from torch import nn


class FourierMixer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        x = self.proj(x)
        return torch.fft.fft2(x).real * 0.1 + x


class UnscaledAttention(nn.Module):
    """Logits of some 1e5, far apart, as products of large features are without a scale."""

    def __init__(self, dim):
        super().__init__()
        signs = torch.tensor([1.0, -1.0]).repeat(dim // 2)
        self.direction = nn.Parameter(signs.view(1, dim, 1) * 500)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.0, dim).view(1, 1, dim))

    def forward(self, x):
        flat = x.flatten(2)
        key = flat.abs().mean(2, keepdim=True).clamp(0.9, 1.0) * self.direction
        logits = torch.matmul(key, key.transpose(1, 2)) * self.gain
        return torch.matmul(logits.softmax(-1), flat).view_as(x)


class Block(nn.Module):
    def __init__(self, dim, mixer):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = nn.BatchNorm2d(dim)
        self.mixer = mixer

    def forward(self, x):
        return x + self.mixer(self.norm(self.conv(x)).relu())


class DeepBlocks(nn.Module):
    def __init__(self, mixer="conv", dim=8, depth=12, at=7):
        super().__init__()
        torch.manual_seed(0)
        made = {"conv": lambda d: nn.Conv2d(d, d, 1), "fourier": FourierMixer, "attention": UnscaledAttention}
        self.stem = nn.Conv2d(3, dim, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(dim, made[mixer if k == at else "conv"](dim)) for k in range(depth)))
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
