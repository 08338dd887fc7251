"""A filter in the frequency domain of a real map, as matrix products with constant tables.

ONNX's DFT enters at opset 17 and is missing from most runtimes, and the TorchScript exporter refuses rfft2. For maps of a
fixed size, the transforms along both axes are matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dft_tables(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of `filter_frequencies` for maps of height x width, in float64.

    Returns:
        Along W to F = width // 2 + 1 frequencies, real parts then imaginary ones: (W, 2 * F). Along H, on real rows above
        imaginary ones: (2 * H, 2 * H), whose transpose goes back. Back along W: (2 * F, W).
    """
    count = width // 2 + 1
    cos, sin = _waves(width, count)
    across = torch.cat([cos, -sin], 1)
    # Each frequency but the first and, of an even width, the last stands for its mirror image too.
    twice = torch.full((count,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    back = torch.cat([cos * twice, -sin * twice], 1).t().contiguous()
    cos, sin = _waves(height, height)
    down = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 0)
    return across, down, back


def filter_frequencies(x: Tensor, weight: Tensor, tables: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """``irfft2(rfft2(x) * weight)``, both transforms orthonormal: (N, C, H, W) -> (N, C, H, W).

    Args:
        x: the map.
        weight: real and imaginary part for each channel and frequency, (2, C, H, W // 2 + 1).
        tables: those of `dft_tables` for H and W.
    """
    across, down, back = tables
    height, count = down.shape[0] // 2, back.shape[0] // 2
    by_column = torch.matmul(x, across)
    stacked = torch.cat([by_column[:, :, :, :count], by_column[:, :, :, count:]], 2)
    spectrum = torch.matmul(down, stacked)
    real, imaginary = spectrum[:, :, :height], spectrum[:, :, height:]
    product = torch.cat([real * weight[0] - imaginary * weight[1], real * weight[1] + imaginary * weight[0]], 2)
    stacked = torch.matmul(down.t(), product)
    return torch.matmul(torch.cat([stacked[:, :, :height], stacked[:, :, height:]], 3), back)


def _waves(length: int, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of ``count`` frequencies at ``length`` positions over sqrt(length): (length, count) each."""
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.arange(count).unsqueeze(0)
    angle = (position * frequency % length).double() * (2.0 * math.pi / length)
    return angle.cos() / math.sqrt(length), angle.sin() / math.sqrt(length)
