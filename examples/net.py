"""A small classifier with squeeze-and-excitation, as a user would write it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Weighs channels by what they hold on average."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (N, C, H, W) -> (N, C, H, W)."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled))))


class Net(nn.Module):
    """Images (N, 3, H, W) to logits (N, 10)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.gate = Gate(width)
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, 3, H, W) -> logits (N, 10)."""
        return self.head(self.body(self.gate(self.stem(image))).mean((2, 3)))
