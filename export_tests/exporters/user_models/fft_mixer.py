"""Global filtering in the frequency domain."""

from __future__ import annotations

import torch
from torch import nn


class GlobalFilter(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 3, padding=1)
        self.gain = nn.Parameter(torch.randn(dim, 1, 1) * 0.5)

    def forward(self, x):
        x = self.embed(x)
        H, W = x.shape[-2:]
        spectrum = torch.fft.rfft2(x, norm="ortho")
        spectrum = spectrum * self.gain
        return torch.fft.irfft2(spectrum, s=(H, W), norm="ortho")
