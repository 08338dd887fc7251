"""Checks of H and W for the modules whose maths binds them; like `check_channels`, in eager mode only."""

from __future__ import annotations

import torch
from torch import Tensor


def check_map_size(x: Tensor, height: int, width: int, owner: str) -> None:
    """The map must be height x width, because a parameter has that size.

    Raises:
        ValueError: naming the module, the expected and the given size.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    if (x.shape[2], x.shape[3]) != (height, width):
        raise ValueError(
            f"{owner}: its parameters are made for maps of {height}x{width}, got {x.shape[2]}x{x.shape[3]}: "
            f"construct it with the size of its input."
        )


def check_map_multiple(x: Tensor, multiple: int, owner: str) -> None:
    """H and W must be multiples of ``multiple``.

    Raises:
        ValueError: naming the module, the given size and the next one that fits.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    height, width = x.shape[2], x.shape[3]
    if height % multiple or width % multiple:
        fits = [-(-length // multiple) * multiple for length in (height, width)]
        raise ValueError(
            f"{owner}: H and W must be multiples of {multiple}, got {height}x{width}: "
            f"pad the map to {fits[0]}x{fits[1]}."
        )
