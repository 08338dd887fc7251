"""Softmax of large inner products, without leaving the range of fp16 on the way.

Logits that are sums of many products of raw features reach 6e5 and more for features of 100. A softmax needs only
their distance from the row's largest: so the products are scaled down first, the largest is taken off, what lies far
below it is cut, and then the scale comes back. Equal to the plain form up to rounding.
"""

from __future__ import annotations

from torch import Tensor

_LOWEST = -60.0  # exp(-60) is 9e-27: a weight that much below the row's largest adds nothing to a sum
# A sum over positions of products of values up to 100 stays in range for maps of 650 x 650, and so does the constant;
# a power of two rounds nothing, and a constant is taken along by the product for nothing.
_GRAM_SCALE = 256.0


def bounded_softmax(logits: Tensor, *factors: float) -> Tensor:
    """Softmax over the last axis of ``logits`` times all factors, each of which is at least 1."""
    below = logits - logits.amax(-1, keepdim=True)
    for factor in factors:
        below = below.clamp(min=_LOWEST) * factor
    return below.softmax(-1)


def gram_softmax(x: Tensor, *, negate: bool = False) -> Tensor:
    """Softmax over the last axis of ``x @ x^T``, x flattened to channels by positions: (N, C, H, W) -> (N, C, C).

    One side of the product is taken relative to the mean channel, which moves each row by a constant only: what all
    channels share, as after a ReLU, is then not a difference of two large numbers (a third of the error in fp32, and half
    of it in fp16).

    Args:
        x: the map.
        negate: softmax of ``-x @ x^T``, which is also the softmax of the row maximum minus the row.
    """
    rows = x.flatten(2)
    sign = -1.0 if negate else 1.0
    relative = rows - rows.mean(1, keepdim=True)
    gram = (rows * (sign / _GRAM_SCALE)).matmul((relative * (1.0 / _GRAM_SCALE)).transpose(1, 2))
    return bounded_softmax(gram, _GRAM_SCALE, _GRAM_SCALE)
