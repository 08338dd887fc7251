"""Padding that depends on the input size, without a symbolic amount of padding in the graph."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel_size: int, *, stride: int = 1, dilation: int = 1, mode: str = "constant") -> Tensor:
    """Pad as TensorFlow's SAME does, so that an unpadded convolution gives ceil(H / stride), ceil(W / stride).

    With zeros, or with ``mode="replicate"`` for a max pool of 3 without dilation: the edge once more changes no maximum.

    With a stride, the padding depends on H % stride. The map is padded by the constant largest amount and the surplus
    rows and columns at the start are cut off: bit-equal, and a slice whose start is computed survives both exporters.
    Surplus at the end is shorter than a stride and changes nothing.

    Raises:
        ValueError: if the dilated kernel is longer than 1 and shorter than the stride (padding would then be clipped).
    """
    reach = dilation * (kernel_size - 1)
    if reach == 0:
        return x
    if reach + 1 < stride:
        raise ValueError(
            f"'same' padding needs a dilated kernel of at least the stride, got {reach + 1} and stride={stride}: "
            f"use a stride of at most {reach + 1}, or give the padding as a number."
        )
    before, after = reach // 2, reach - reach // 2
    padded = F.pad(x, (before, after, before, after), mode=mode)
    if stride == 1:
        return padded
    # A floor division of a negative symbol would be exported as one that truncates: every term here stays >= 0.
    odd = 1 - reach % 2
    rows = ((x.shape[2] + stride - 1) % stride + odd) // 2
    columns = ((x.shape[3] + stride - 1) % stride + odd) // 2
    return padded[:, :, rows:, columns:]
