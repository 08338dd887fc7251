"""Checks of H and W, made in eager mode only: a traced size is not a number, and a branch on it would be baked."""

from __future__ import annotations

from torch import Tensor

from attn_deploy.ops.checks import is_traced


def sizes_are_known() -> bool:
    """Whether shapes are plain numbers: not while a model is traced, compiled or exported."""
    return not is_traced()


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


def require_exact_size(x: Tensor, height: int, width: int, owner: str) -> None:
    """The map must be height x width, because a parameter has that size.

    Raises:
        ValueError: naming the module, the expected and the given size.
    """
    if sizes_are_known() and (x.shape[2], x.shape[3]) != (height, width):
        raise ValueError(
            f"{owner}: its parameters are made for maps of {height}x{width}, got {x.shape[2]}x{x.shape[3]}: "
            f"construct it with the size of its input."
        )


def require_multiple_size(x: Tensor, multiple: int, owner: str) -> None:
    """H and W must be multiples of ``multiple``.

    Raises:
        ValueError: naming the module, the given size and the next one that fits.
    """
    if sizes_are_known() and (x.shape[2] % multiple or x.shape[3] % multiple):
        height, width = (-(-length // multiple) * multiple for length in x.shape[2:])
        raise ValueError(
            f"{owner}: H and W must be multiples of {multiple}, got {x.shape[2]}x{x.shape[3]}: "
            f"pad the map to {height}x{width}."
        )
