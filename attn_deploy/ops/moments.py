"""The unbiased variance over the positions of a map, at symbolic H and W."""

from __future__ import annotations

from torch import Tensor

from attn_deploy.ops.sizes import sizes_are_known


def unbiased_variance(centred: Tensor) -> Tensor:
    """Variance over H and W with the divisor H * W - 1 of a map whose mean is taken off: (N, C, H, W) -> (N, C, 1, 1).

    A mean of squares and a correction, not a sum of squares: that would leave the range of fp16 on large maps.
    """
    biased = (centred * centred).mean((2, 3), keepdim=True)
    return biased + biased / (centred.shape[2] * centred.shape[3] - 1)


def require_two_positions(x: Tensor, owner: str) -> None:
    """The map must have at least two positions: the unbiased variance of one is undefined.

    Raises:
        ValueError: naming the module and the given size.
    """
    if sizes_are_known() and x.shape[2] * x.shape[3] < 2:
        raise ValueError(
            f"{owner}: needs a map of at least 2 positions, got {x.shape[2]}x{x.shape[3]}: the unbiased variance of a "
            "single position is undefined."
        )
