"""Softmax over the Gram matrix of a map's channels, without leaving the range of fp16 on the way."""

from __future__ import annotations

from torch import Tensor

_LOWEST = -60.0  # exp(-60) is 9e-27: below it a weight is nothing next to the row's largest, which is 1


def gram_softmax(x: Tensor, *, negate: bool = False) -> Tensor:
    """Softmax over the last axis of ``x @ x^T``, x flattened to channels by positions: (N, C, H, W) -> (N, C, C).

    The entries are sums over all positions and reach 3.7e6 for values of 100 on a 17x22 map. So the map is scaled by
    1 / sqrt(H * W) before the product, the row's extreme is taken off after it, and only then does the scale come back,
    in two steps with a bound between. Equal to the plain form up to rounding.

    Args:
        x: the map.
        negate: softmax of ``-x @ x^T``, which is also the softmax of the row maximum minus the row.
    """
    height, width = x.shape[2], x.shape[3]
    one = x.new_ones(1)
    scaled = (x / ((one * height).sqrt() * (one * width).sqrt())).flatten(2)
    gram = scaled.matmul(scaled.transpose(1, 2))
    below = gram.amin(2, keepdim=True) - gram if negate else gram - gram.amax(2, keepdim=True)
    below = below.clamp(min=_LOWEST) * height
    return (below.clamp(min=_LOWEST) * width).softmax(2)
