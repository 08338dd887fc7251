"""Test tensors: ramped values at traced and at untraced sizes. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.inputs.expressions import evaluate
from attn_deploy.inputs.tensors import Arrays, TensorInput, fit_size, symbols_of

_LEVEL_REACH = 4  # an axis that is more times as long as its symbol is verified at smaller extents of the symbol
_AT_A_TIME = 1 << 22  # values of a test tensor that are drawn at once


def verification_sizes(inputs: Sequence[TensorInput], symbols: Sequence[str], count: int = 4) -> list[dict[str, int]]:
    """Sizes other than the traced ones, at which every symbol in ``symbols`` moves: batch 1 included, odd, H != W."""
    if not symbols:
        return []
    pattern = {"N": (1, 3, 5, 4), "H": (23, 14, 9, 30), "W": (12, 31, 25, 19)}
    first = inputs[0]
    chosen: list[dict[str, int]] = []
    for k in range(count):
        sizes = {}
        for symbol in symbols:
            traced = first.sizes[symbol]
            base = pattern.get(symbol[0], (6, 11, 7, 13))[k % 4]
            if symbol[0] != "N":  # stay near the traced scale, so that a model traced at 224 is not judged at 9
                reach = max(_reach(symbol, d) for i in inputs for d in i.dims)
                # so for the finest level of a pyramid, not for the coarsest, whose extent the symbol stands for
                base = max(1, round(base * max(1.0, traced / 22) * min(1.0, _LEVEL_REACH / reach)))
            value = fit_size(base, symbol, first)
            if value == traced:
                value = fit_size(value + 1, symbol, first)
            sizes[symbol] = value
        if sizes not in chosen:
            chosen.append(sizes)
    return chosen


def _reach(symbol: str, dim: int | str) -> int:
    """How much an axis grows with a symbol: 4 for H in ``"4*H"``, 1 where it does not depend on it."""
    if symbol not in symbols_of(dim):
        return 1
    one, two = (evaluate(dim, {**dict.fromkeys(symbols_of(dim), 1), symbol: n}) for n in (1, 2))
    return max(1, two - one)


def ramped(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0, bound: int | None = None) -> NDArray[Any]:
    """A test tensor: noise plus an offset for each channel plus ramps along the spatial axes.

    Zero-mean noise hides a baked pooling window, because every window's mean is near zero; with offsets and ramps each
    position and each channel has its own mean.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _AT_A_TIME // max(1, math.prod(shape[1:])))
    if not shape or shape[0] <= rows:
        return _ramped(rng, shape, dtype, bound)
    values = np.empty(
        shape, dtype
    )  # drawn in double precision, which of a whole large tensor takes five times its memory
    for start in range(0, shape[0], rows):
        values[start : start + rows] = _ramped(rng, (min(rows, shape[0] - start), *shape[1:]), dtype, bound)
    return values


def _ramped(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, bound: int | None) -> NDArray[Any]:
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.issubdtype(np.dtype(dtype), np.integer):
        return rng.integers(0, 8 if bound is None else bound, shape).astype(dtype)
    values = rng.standard_normal(shape)
    for axis in range(1, len(shape)):
        extent = shape[axis]
        line = np.linspace(-1.0, 1.0, extent) if extent > 1 else np.full(1, 0.5)
        values = values + (0.7 + 0.2 * axis) * line.reshape([extent if a == axis else 1 for a in range(len(shape))])
    return values.astype(dtype)


def example_arrays(inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None = None, seed: int = 0) -> Arrays:
    """One ramped tensor for each input, at the traced sizes or at others."""
    return {i.name: ramped(i.shape(sizes), i.dtype, seed + k, i.bound) for k, i in enumerate(inputs)}
