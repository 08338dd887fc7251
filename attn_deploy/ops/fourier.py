"""A filter in the frequency domain of a real map, as matrix products with tables of cosines and sines.

ONNX's DFT enters at opset 17 and is missing from most runtimes, and the TorchScript exporter refuses rfft2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dft_tables(
    height: int, width: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of `filter_frequencies` for maps of height x width, which may be symbolic.

    Args:
        height: H.
        width: W.
        dtype: in which they are computed.
        device: where.

    Returns:
        Along W to F = width // 2 + 1 frequencies, real parts then imaginary ones: (W, 2 * F). Along H, on real rows above
        imaginary ones: (2 * H, 2 * H), whose transpose goes back. Back along W: (2 * F, W).
    """
    frequency = torch.arange(width // 2 + 1, device=device)
    cos, sin = _waves(width, frequency, dtype)
    across = torch.cat([cos, -sin], 1)
    # Each frequency but the first and, of an even width, the last stands for its mirror image too.
    twice = 2 - (frequency == 0).to(dtype) - (frequency * 2 == torch.ones_like(frequency) * width).to(dtype)
    back = torch.cat([cos * twice, -sin * twice], 1).transpose(0, 1)
    cos, sin = _waves(height, torch.arange(height, device=device), dtype)
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
    height, count = x.shape[2], x.shape[3] // 2 + 1
    by_column = torch.matmul(x, across)
    stacked = torch.cat([by_column[:, :, :, :count], by_column[:, :, :, count:]], 2)
    spectrum = torch.matmul(down, stacked)
    real, imaginary = spectrum[:, :, :height], spectrum[:, :, height:]
    product = torch.cat([real * weight[0] - imaginary * weight[1], real * weight[1] + imaginary * weight[0]], 2)
    stacked = torch.matmul(down.transpose(0, 1), product)
    return torch.matmul(torch.cat([stacked[:, :, :height], stacked[:, :, height:]], 3), back)


def _waves(length: int, frequency: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of these frequencies at ``length`` positions over sqrt(length): (length, frequencies) each."""
    position = torch.arange(length, device=frequency.device).unsqueeze(1)
    # Whole turns are taken off as integers: nothing is left for the cosine to lose.
    steps = position * frequency
    angle = (steps - steps // length * length).to(dtype) * (2.0 * math.pi) / length
    root = (torch.ones(1, dtype=dtype, device=frequency.device) * length).sqrt()
    return angle.cos() / root, angle.sin() / root
