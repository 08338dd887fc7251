"""A map cut into p x p patches, at symbolic sizes: reshapes and permutations, no unfold and no fold.

Channels go last, and back, as a step of its own: whole pixels are moved then, several times as fast as their channels one by one.
With channels first, two transposes of neighbouring axes are four to six times as fast in ONNX Runtime as one that reorders all.
"""

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
    if channels_first:
        rows = x.reshape(batch, channels, height // side, side, width).transpose(2, 3)
        cells = rows.reshape(batch, channels, side, -1, side).transpose(3, 4)
        return cells.reshape(batch, channels, side * side, -1)
    pixels = x.flatten(2).transpose(1, 2).reshape(batch, height // side, side, width // side, side, channels)
    return pixels.permute(0, 2, 4, 1, 3, 5).reshape(batch, side * side, -1, channels)


def merge_patches(pixels: Tensor, side: int, size: Sequence[int], *, channels_first: bool = False) -> Tensor:
    """The map of which `split_patches` made these pixels; ``size`` is its H and W."""
    height, width = size
    if channels_first:
        batch, channels = pixels.shape[:2]
        rows = pixels.reshape(batch, channels, side, side, -1).transpose(3, 4)
        return (
            rows.reshape(batch, channels, side, height // side, width)
            .transpose(2, 3)
            .reshape(batch, channels, height, width)
        )
    batch, channels = pixels.shape[0], pixels.shape[3]
    cells = pixels.reshape(batch, side, side, height // side, width // side, channels).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(batch, -1, channels).transpose(1, 2).reshape(batch, channels, height, width)
