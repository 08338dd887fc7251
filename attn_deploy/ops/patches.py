"""A map cut into p x p patches, at symbolic sizes: one reshape of six axes and one permutation, no unfold and no fold."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def split_patches(x: Tensor, side: int, *, channels_first: bool = False) -> Tensor:
    """The pixels of every patch, by their place in it: (N, C, H, W) -> (N, side * side, L, C).

    Places and patches are in row-major order, L is their number. H and W are multiples of ``side``.

    Args:
        x: the map.
        side: of a patch.
        channels_first: give (N, C, side * side, L) instead.
    """
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // side, side, width // side, side)
    if channels_first:
        return cells.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels, side * side, -1)
    return cells.permute(0, 3, 5, 2, 4, 1).reshape(batch, side * side, -1, channels)


def merge_patches(pixels: Tensor, side: int, size: Sequence[int], *, channels_first: bool = False) -> Tensor:
    """The map of which `split_patches` made these pixels; ``size`` is its H and W."""
    height, width = size
    if channels_first:
        batch, channels = pixels.shape[:2]
        cells = pixels.reshape(batch, channels, side, side, height // side, width // side).permute(0, 1, 4, 2, 5, 3)
    else:
        batch, channels = pixels.shape[0], pixels.shape[3]
        cells = pixels.reshape(batch, side, side, height // side, width // side, channels).permute(0, 5, 3, 1, 4, 2)
    return cells.reshape(batch, channels, height, width)
