"""Test tensors: ramped values at traced and at untraced sizes, masks and indices with structure. No torch here."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.inputs.structures import Draw, structures, usual
from attn_deploy.inputs.tensors import Arrays, TensorInput, fit_size, symbols_of

_LEVEL_REACH = 4  # an axis that is more times as long as its symbol is verified at smaller extents of the symbol
PIXELS = 256  # the bound of a test tensor that is an image of 0 to 255
_AT_A_TIME = 1 << 22  # values of a test tensor that are drawn at once
_KEPT = 1 << 18  # values of a test tensor that is kept for the next one that asks for it, as all blocks of a zoo do
_LENGTHS = (6, 11, 7, 13)  # of axes that are neither the batch nor a side of a map
_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TestBatch:
    """Inputs of one comparison.

    Attributes:
        sizes: the extents of the symbols that differ from the traced ones.
        arrays: by input name.
        extra: one more draw at a size that another batch has: a mask or an index with structure. It proves nothing where
            the model itself gives NaN for it or refuses it, as many do for a mask that leaves nothing.
    """

    __test__ = False  # pytest takes the name for a test

    sizes: Mapping[str, int]
    arrays: Arrays
    extra: bool = False


def verification_sizes(inputs: Sequence[TensorInput], symbols: Sequence[str], count: int = 4) -> list[dict[str, int]]:
    """Sizes other than the traced ones, at which every symbol in ``symbols`` moves: batch 1 included, odd, H != W."""
    if not symbols:
        return []
    # The largest maps stand beside the smallest batches: no comparison is more work than two images at the traced size.
    pattern = {"N": (1, 3, 5, 4), "H": (30, 23, 14, 9), "W": (31, 12, 13, 25)}
    first = inputs[0]
    chosen: list[dict[str, int]] = []
    # Two lengths must differ: a file that holds for equal ones alone would pass.
    others = [s for s in symbols if s[0] not in pattern]
    for k in range(count):
        sizes = {}
        for symbol in symbols:
            traced = first.sizes[symbol]
            base = pattern[symbol[0]][k % 4] if symbol[0] in pattern else _LENGTHS[(k + others.index(symbol)) % 4]
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
    one, two = (evaluate_expression(dim, {**dict.fromkeys(symbols_of(dim), 1), symbol: n}) for n in (1, 2))
    return max(1, two - one)


def verification_seed(number: int, seed: int = 0) -> int:
    """The seed of a batch of the comparison; number 0 has the traced sizes."""
    return seed + 17 * number


def verification_batches(
    inputs: Sequence[TensorInput], symbols: Sequence[str], count: int = 4, seed: int = 0
) -> list[TestBatch]:
    """What a file and its model are compared on: the traced sizes, others, and for masks and indices each structure.

    Where nothing moves, the traced sizes twice with different values.
    """
    other = verification_sizes(inputs, symbols, count) or [{}]
    every: list[dict[str, int]] = [{}, *other]
    batches = [TestBatch(s, example_arrays(inputs, s, verification_seed(k, seed))) for k, s in enumerate(every)]
    for k in range(1, draws_of(inputs)):
        sizes = every[k % len(every)]
        arrays = example_arrays(inputs, sizes, verification_seed(len(every) + k, seed), draw=k)
        batches.append(TestBatch(sizes, arrays, True))
    return [*batches, *_users_own(inputs, seed)]


def _users_own(inputs: Sequence[TensorInput], seed: int) -> list[TestBatch]:
    """The samples of the user exactly as they are, those inputs that have none at fitting sizes."""
    batches = []
    for k in range(max((len(i.values) for i in inputs), default=0)):
        sizes: dict[str, int] = {}
        for i in (i for i in inputs if k < len(i.values)):
            sizes |= {d: n for d, n in zip(i.dims, i.values[k].shape, strict=True) if isinstance(d, str)}
        sizes = {s: n for s, n in sizes.items() if s in inputs[0].sizes}
        arrays = example_arrays(inputs, sizes, seed, draw=k)
        if all(k >= len(i.values) or i.values[k].shape == arrays[i.name].shape for i in inputs):
            batches.append(TestBatch(sizes, arrays))
    return batches


def example_arrays(
    inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None = None, seed: int = 0, *, draw: int = 0
) -> Arrays:
    """One test tensor for each input, at the traced sizes or at others.

    Args:
        inputs: the inputs.
        sizes: extents of symbols, over the traced ones.
        seed: of the values.
        draw: which structure masks and indices have, and which of the user's values are taken; 0 is a random one.
    """
    arrays: Arrays = {}
    for k, i in enumerate(inputs):
        shape, number, own = i.shape(sizes), draw + k * (draw > 0), seed + k
        if i.values or math.prod(shape) > _KEPT:
            arrays[i.name] = _drawn(_draws(i), number, own, shape)
        else:
            arrays[i.name] = _kept(i.name, i.dtype, i.bound, number, own, shape).copy()
    return arrays


def _drawn(draws: Sequence[Draw], number: int, seed: int, shape: _Shape) -> NDArray[Any]:
    return draws[number % len(draws)](np.random.default_rng(seed), shape)


@functools.lru_cache(maxsize=24)
def _kept(name: str, dtype: str, bound: int | None, number: int, seed: int, shape: _Shape) -> NDArray[Any]:
    """A test tensor that is not the user's; the caller copies it."""
    return _drawn(_structured(name, dtype, bound), number, seed, shape)


def ramped(shape: _Shape, dtype: str = "float32", seed: int = 0, bound: int | None = None) -> NDArray[Any]:
    """A test tensor: noise plus an offset for each channel plus ramps along the spatial axes.

    Zero-mean noise hides a baked pooling window, because every window's mean is near zero; with offsets and ramps each
    position and each channel has its own mean.
    """
    return _ramps(np.random.default_rng(seed), shape, dtype, bound)


def _ramps(rng: np.random.Generator, shape: _Shape, dtype: str, bound: int | None = None) -> NDArray[Any]:
    rows = max(1, _AT_A_TIME // max(1, math.prod(shape[1:])))
    if not shape or shape[0] <= rows:
        return _ramped(rng, shape, dtype, bound)
    # Drawn in double precision, which of a whole large tensor takes five times its memory.
    values = np.empty(shape, dtype)
    for start in range(0, shape[0], rows):
        values[start : start + rows] = _ramped(rng, (min(rows, shape[0] - start), *shape[1:]), dtype, bound)
    return values


def _ramped(rng: np.random.Generator, shape: _Shape, dtype: str, bound: int | None) -> NDArray[Any]:
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if bound == PIXELS:  # an image: its mean differs from place to place and from channel to channel
        image: NDArray[Any] = np.rint(128 + 32 * _ramped(rng, shape, "float64", None)).clip(0, PIXELS - 1)
        return image.astype(dtype)
    if np.issubdtype(np.dtype(dtype), np.integer):
        return rng.integers(0, 8 if bound is None else bound, shape).astype(dtype)
    values = rng.standard_normal(shape)
    for axis in range(1, len(shape)):
        extent = shape[axis]
        line = np.linspace(-1.0, 1.0, extent) if extent > 1 else np.full(1, 0.5)
        values = values + (0.7 + 0.2 * axis) * line.reshape([extent if a == axis else 1 for a in range(len(shape))])
    return values.astype(dtype)


def _draws(tensor: TensorInput) -> tuple[Draw, ...]:
    """How the tensors of an input are drawn, the ordinary way first."""
    if tensor.values:
        return tuple(lambda _rng, shape, v=v: _tiled(v, shape) for v in tensor.values)
    return _structured(tensor.name, tensor.dtype, tensor.bound)


def _structured(name: str, dtype: str, bound: int | None) -> tuple[Draw, ...]:
    def ordinary(rng: np.random.Generator, shape: _Shape) -> NDArray[Any]:
        return _ramps(rng, shape, dtype, bound)

    first = usual(name, dtype, bound)
    rest = (ordinary, *structures(name, dtype, bound))
    return rest if first is None else (first, *rest)


def draws_of(inputs: Sequence[TensorInput]) -> int:
    """How many structures the values of inputs have, the ordinary one among them."""
    return max((len(_draws(i)) for i in inputs), default=1)


def _tiled(values: NDArray[Any], shape: _Shape) -> NDArray[Any]:
    """The user's values at another shape: repeated or cut along each axis."""
    for axis, extent in enumerate(shape):
        values = np.take(values, np.arange(extent) % values.shape[axis], axis)
    return np.asarray(values, order="C")
