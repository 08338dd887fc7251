"""Criss-cross attention with rows and columns merged into the batch, and CCNet's head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrissCrossAttention(nn.Module):
    """Permute, make contiguous, view, bmm: for the columns, then for the rows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    @staticmethod
    def columns(x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N * W, C, H)."""
        batch, _, height, width = x.size()
        return x.permute(0, 3, 1, 2).contiguous().view(batch * width, -1, height)

    @staticmethod
    def rows(x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N * H, C, W)."""
        batch, _, height, width = x.size()
        return x.permute(0, 2, 1, 3).contiguous().view(batch * height, -1, width)

    @staticmethod
    def masked_diagonal(batch: int, height: int, width: int) -> Tensor:
        """Minus infinity on the diagonal, repeated for every column (by eye: the exporter refuses torch.diag)."""
        diagonal = torch.zeros(height, height).masked_fill(torch.eye(height) > 0, float("-inf"))
        return diagonal.unsqueeze(0).repeat(batch * width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        energy_h = torch.bmm(self.columns(query).permute(0, 2, 1), self.columns(key))
        energy_h = energy_h + self.masked_diagonal(batch, height, width).to(x)
        energy_h = energy_h.view(batch, width, height, height).permute(0, 2, 1, 3)
        energy_w = torch.bmm(self.rows(query).permute(0, 2, 1), self.rows(key)).view(batch, height, width, width)
        weights = F.softmax(torch.cat([energy_h, energy_w], 3), dim=3)
        of_h = weights[:, :, :, 0:height].permute(0, 2, 1, 3).contiguous().view(batch * width, height, height)
        of_w = weights[:, :, :, height : height + width].contiguous().view(batch * height, width, width)
        out_h = torch.bmm(self.columns(value), of_h.permute(0, 2, 1)).view(batch, width, -1, height)
        out_w = torch.bmm(self.rows(value), of_w.permute(0, 2, 1)).view(batch, height, -1, width)
        return self.gamma * (out_h.permute(0, 2, 3, 1) + out_w.permute(0, 2, 1, 3)) + x


class RCCA(nn.Module):
    """The same attention twice."""

    def __init__(self, channels: int, recurrence: int = 2) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = self.cca(x)
        return x


class ActivatedBatchNorm(nn.BatchNorm2d):
    """In-Place ABN as two layers: BatchNorm with the scale |weight| + eps, LeakyReLU."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.abs(self.weight) + self.eps
        y = F.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, False, 0.1, self.eps)
        return F.leaky_relu(y, 0.01)


class RCCAHead(nn.Module):
    """CCNet's head around it."""

    def __init__(self, channels: int, out_channels: int, classes: int) -> None:
        super().__init__()
        inner = channels // 4

        def conv(width: int, out: int) -> list[nn.Module]:
            return [nn.Conv2d(width, out, 3, padding=1, bias=False), ActivatedBatchNorm(out)]

        self.conva = nn.Sequential(*conv(channels, inner))
        self.cca = CrissCrossAttention(inner)
        self.convb = nn.Sequential(*conv(inner, inner))
        self.bottleneck = nn.Sequential(
            *conv(channels + inner, out_channels), nn.Dropout2d(0.1), nn.Conv2d(out_channels, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conva(x)
        for _ in range(2):
            y = self.cca(y)
        return self.bottleneck(torch.cat([x, self.convb(y)], 1))
