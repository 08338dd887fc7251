"""Checks of the levels of a feature pyramid, the finest first."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attn_deploy.ops.checks import check_channels, require_positive
from attn_deploy.ops.sizes import sizes_are_known


def require_levels(name: str, channels: Sequence[int], least: int) -> None:
    """Channel counts of at least ``least`` levels, each at least 1.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(channels, int) or len(channels) < least:
        example = tuple(64 * 2**i for i in range(least))
        raise ValueError(
            f"{name} must hold the channels of at least {least} levels, the finest first, got {channels!r}: use {example}."
        )
    require_positive(**{f"{name}[{i}]": c for i, c in enumerate(channels)})


def check_levels(levels: Sequence[Tensor], channels: Sequence[int], owner: str, rule: str = "any") -> None:
    """Maps of these channels, and of these sizes: "any", "half" the finer level's, rounded up, or "exact" halves.

    Raises:
        ValueError: naming the module and what differs.
    """
    if len(levels) != len(channels):
        raise ValueError(
            f"{owner}: expected {len(channels)} maps, got {len(levels)}: give its channel argument one entry for each."
        )
    for level, width in zip(levels, channels, strict=True):
        check_channels(level, width, owner)
    if rule == "any" or not sizes_are_known():
        return
    for index in range(1, len(levels)):
        fine, coarse = levels[index - 1].shape[2:], levels[index].shape[2:]
        halves = tuple((n + 1) // 2 for n in fine)
        if halves != tuple(coarse) or (rule == "exact" and any(n % 2 for n in fine)):
            rounded = ", rounded up" if rule == "half" else ""
            raise ValueError(
                f"{owner}: each map must be half as large as the one before it{rounded}; after {tuple(fine)} comes "
                f"{tuple(coarse)}: pad the image to a multiple of the coarsest level's stride."
            )
