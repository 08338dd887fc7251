"""Neighbourhood mixing with unfold, and fold to put the patches back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn


class FoldAttention(nn.Module):
    def __init__(self, channels=3, dim=8, kernel_size=3):
        super().__init__()
        self.kernel_size = kernel_size
        self.embed = nn.Conv2d(channels, dim, 1)
        self.attn = nn.Linear(dim, kernel_size**4)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        x = self.embed(x)
        B, C, H, W = x.shape
        k = self.kernel_size
        v = F.unfold(x, k, padding=k // 2).reshape(B, C, k * k, H * W)
        attn = self.attn(x.permute(0, 2, 3, 1)).reshape(B, H * W, k * k, k * k).softmax(dim=-1)
        v = attn @ v.permute(0, 3, 2, 1)
        v = v.permute(0, 3, 2, 1).reshape(B, C * k * k, H * W)
        return self.proj(F.fold(v, output_size=(H, W), kernel_size=k, padding=k // 2))
