"""Norms, coordinates and changes of size, as their repositories write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """ConvNeXt's channels-first LayerNorm: mean, power and root over the second axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class AddCoords(nn.Module):
    """Coordinates by ranges repeated along the other axis, then for the batch."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        columns = torch.arange(width).repeat(1, height, 1).to(x.dtype) / (width - 1) * 2 - 1
        rows = torch.arange(height).repeat(1, width, 1).transpose(1, 2).to(x.dtype) / (height - 1) * 2 - 1
        columns, rows = columns.repeat(batch, 1, 1, 1), rows.repeat(batch, 1, 1, 1)
        return torch.cat([x, columns, rows], dim=1)


class CoordConv(nn.Module):
    """A convolution of the map with its coordinates as two more channels."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.addcoords, self.conv = AddCoords(), nn.Conv2d(fan_in + 2, fan_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.addcoords(x))


class PixelUnshuffleBlock(nn.Module):
    """The positions of each square as channels, then a convolution at a quarter of the positions."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.unshuffle, self.conv = nn.PixelUnshuffle(2), nn.Conv2d(4 * fan_in, fan_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.unshuffle(x))


class BlurPool(nn.Module):
    """A reflecting padding layer, then a strided convolution with the stored filter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = row[:, None] * row[None, :]
        self.register_buffer("filt", (kernel / kernel.sum())[None, None].repeat(channels, 1, 1, 1))
        self.pad = nn.ReflectionPad2d([1, 2, 1, 2])

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.pad(x), self.get_buffer("filt"), stride=2, groups=x.shape[1])
