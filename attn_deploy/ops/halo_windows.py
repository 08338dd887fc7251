"""Overlapping windows: blocks with a halo around them, at symbolic sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def halo_windows(x: Tensor, block_size: int, halo_size: int) -> Tensor:
    """Each block with its halo, zeros outside the map: (N, C, H, W) -> (N, C, H / b, b + 2h, W / b, b + 2h).

    Two gathers, along H and along W; `Tensor.unfold` is refused by the TorchScript exporter, and one convolution with a
    one-hot kernel would have as many channels as a window has places.
    """
    window = block_size + 2 * halo_size
    rows, columns = x.shape[2] // block_size, x.shape[3] // block_size
    padded = F.pad(x, (halo_size,) * 4)
    offsets = torch.arange(window, device=x.device).unsqueeze(0)
    along_h = (torch.arange(rows, device=x.device).unsqueeze(1) * block_size + offsets).flatten()
    along_w = (torch.arange(columns, device=x.device).unsqueeze(1) * block_size + offsets).flatten()
    gathered = padded.index_select(2, along_h).index_select(3, along_w)
    return gathered.reshape(x.shape[0], -1, rows, window, columns, window)
