"""Overlapping windows: blocks with a halo around them, at symbolic sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def halo_tokens(x: Tensor, groups: int, block_size: int, halo_size: int) -> Tensor:
    """The places of each block with its halo, zeros outside the map.

    (N, C, H, W) -> (N, groups, H / b * W / b, (b + 2h) ** 2, C / groups), blocks and places row by row.

    One gather of whole places, once the channels of a group are last: what is copied many times over is copied in its final
    order. `Tensor.unfold` is refused by the TorchScript exporter, and a convolution with a one-hot kernel would have as
    many channels as a window has places.
    """
    window = block_size + 2 * halo_size
    padded = F.pad(x, (halo_size,) * 4)
    places = padded.reshape(x.shape[0], groups, x.shape[1] // groups, -1).transpose(2, 3)
    offsets = torch.arange(window, device=x.device)
    down, across = (
        (torch.arange(x.shape[axis] // block_size, device=x.device) * block_size).unsqueeze(1) + offsets
        for axis in (2, 3)
    )
    index = down.unsqueeze(1).unsqueeze(3) * padded.shape[3] + across.unsqueeze(0).unsqueeze(2)
    gathered = places.index_select(2, index.flatten())
    return gathered.reshape(x.shape[0], groups, -1, window * window, x.shape[1] // groups)
