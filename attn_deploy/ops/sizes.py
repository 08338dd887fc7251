"""Checks of H and W, made in eager mode only: a traced size is not a number, and a branch on it would be baked."""

from __future__ import annotations

import torch
from torch import Tensor


def sizes_are_known() -> bool:
    """Whether shapes are plain numbers: not while a model is traced, compiled or exported."""
    return not (torch.jit.is_tracing() or torch.compiler.is_compiling())


def require_least_size(x: Tensor, least: int, owner: str, fix: str) -> None:
    """H and W must be at least ``least``.

    Raises:
        ValueError: naming the module, both sizes and the fix.
    """
    if sizes_are_known() and min(x.shape[2], x.shape[3]) < least:
        raise ValueError(f"{owner}: H and W must be at least {least}, got {x.shape[2]}x{x.shape[3]}: {fix}.")


def require_same_size(owner: str, **maps: Tensor) -> None:
    """Two or more maps must have the same N, H and W.

    Raises:
        ValueError: naming the module and each map's shape.
    """
    if sizes_are_known() and len({(m.shape[0], *m.shape[2:]) for m in maps.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(m.shape)}" for name, m in maps.items())
        raise ValueError(f"{owner}: the inputs must have the same N, H and W, got {shapes}: resize one of them first.")
