"""Softmax of large inner products: fast in fp32, and within the range of fp16 where that is asked for.

Logits that are sums of many products of raw features reach 6e5 and more for features of 100. A softmax needs only
their distance from the row's largest: in fp16 the products are scaled down first, the largest is taken off, what lies
far below it is cut, and then the scale comes back. Equal to the plain form up to rounding. Each of these steps passes
over the whole map of weights (a fifth of the time of a Gaussian non-local block), so fp32 does without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_LOWEST = -60.0  # exp(-60) is 9e-27: a weight that much below the row's largest adds nothing to a sum
# A sum over positions of products of values up to 100 stays in range for maps of 650 x 650, and so does the constant;
# a power of two rounds nothing, and a constant is taken along by the product for nothing.
_GRAM_SCALE = 256.0
_FOR_HALF: ContextVar[bool] = ContextVar("for_half", default=False)


@contextmanager
def half_range() -> Iterator[None]:
    """Take the forms that stay within the range of fp16 in fp32 too, as for a graph whose types are changed later."""
    token = _FOR_HALF.set(True)
    try:
        yield
    finally:
        _FOR_HALF.reset(token)


def bounded_product_softmax(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Softmax over the last axis of ``left @ right``.

    Args:
        left: batch of matrices.
        right: batch of matrices.
        scale: how much too large the products may be, such as the number of products in a sum of raw features.
    """
    if not in_half_range(left):
        return left.matmul(right).softmax(-1)
    exact = 2.0 ** math.ceil(math.log2(scale))  # a power of two rounds nothing
    return _softmax((left / exact).matmul(right), exact)


def gram_softmax(x: Tensor, *, negate: bool = False) -> Tensor:
    """Softmax over the last axis of ``x @ x^T``, x flattened to channels by positions: (N, C, H, W) -> (N, C, C).

    One side of the product is taken relative to the mean channel, which moves each row by a constant only: what all
    channels share, as after a ReLU, is then not a difference of two large numbers (a third of the error in fp32, and half
    of it in fp16). The mean is a product: ONNX Runtime reduces over channels twenty times slower.

    Args:
        x: the map.
        negate: softmax of ``-x @ x^T``, which is also the softmax of the row maximum minus the row.
    """
    rows = x.flatten(2)
    sign = -1.0 if negate else 1.0
    channels = x.shape[1]
    # bmm of spelled out items: a product that may broadcast asks torch.export for a batch above 1.
    averaging = rows.new_full((1, 1, channels), 1.0 / channels).expand(x.shape[0], -1, -1)
    relative = rows - torch.bmm(averaging, rows)
    if not in_half_range(x):
        return (sign * rows.matmul(relative.transpose(1, 2))).softmax(-1)
    gram = (rows * (sign / _GRAM_SCALE)).matmul((relative * (1.0 / _GRAM_SCALE)).transpose(1, 2))
    return _softmax(gram, _GRAM_SCALE, _GRAM_SCALE)


def double_normalised(logits: Tensor, *, positions: int, items: int, eps: float = 1e-9) -> Tensor:
    """Softmax over the positions, then each position's weights divided by their sum over the items plus ``eps``.

    In fp16 a weight far from its row's largest is 0, ``eps`` is 0, and a position with such weights alone divides 0 by 0.
    There the division is a softmax over the items of logarithms, in which ``eps`` is one item more.

    Args:
        logits: of any number of axes.
        positions: the axis of the softmax.
        items: the axis of the sum.
        eps: keeps the sum from being 0.
    """
    if not in_half_range(logits):
        weights = logits.softmax(positions)
        return weights / (weights.sum(items, keepdim=True) + eps)
    logarithms = logits.log_softmax(positions)
    least = math.log(eps)
    top = logarithms.amax(items, keepdim=True).clamp_min(least)
    weights = (logarithms - top).exp()
    return weights / (weights.sum(items, keepdim=True) + (least - top).exp())


def in_half_range(x: Tensor) -> bool:
    """Whether a form that stays within the range of fp16 is wanted: for fp16 tensors, and inside `half_range`."""
    return x.dtype == torch.float16 or _FOR_HALF.get()


def _softmax(logits: Tensor, *factors: float) -> Tensor:
    below = logits - logits.amax(-1, keepdim=True)
    for factor in factors:
        below = below.clamp(min=_LOWEST) * factor
    return below.softmax(-1)
