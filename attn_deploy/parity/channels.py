"""Parts of an output that have scales of their own: a detector's boxes in pixels beside its scores below 1.

One error over the whole would measure the scores by the boxes. So the channels of an output are parted where their scale
jumps, and each part is compared by its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JUMP = 3.0  # in powers of two: a factor of eight between the medians of two parts
_CLEAN = 0.9  # the share of a part's channels that lies on its side of the middle
_LEAST = 4  # channels of a part of sixteen and more, a quarter of fewer: one quiet class is not a part
_MOST = 8  # parts
_MOST_CHANNELS = 4096
_SMALLEST = 2.0**-40
_TRIED = 16  # places for a cut


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels ``start`` to ``stop`` - 1 along an axis; all of an output where ``axis`` is None."""

    axis: int | None = None
    start: int = 0
    stop: int = 0

    def of(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """These channels of an array."""
        return array if self.axis is None else np.take(array, range(self.start, self.stop), axis=self.axis)

    def __str__(self) -> str:
        if self.axis is None:
            return ""
        last = self.stop - 1
        return f"channels {self.start} to {last}" if last > self.start else f"channel {self.start}"


WHOLE = Channels()


def channel_parts(
    arrays: Sequence[NDArray[np.float64]], joined: tuple[int, tuple[int, ...]] | None = None
) -> tuple[Channels, ...]:
    """The parts of one output with scales of their own, over all runs; the whole where there is one scale.

    Args:
        arrays: the right values of the output, one array a run; at least one.
        joined: the axis along which the graph joins the output from parts, and their extents, where it does.
    """
    if joined is not None and all(a.ndim > joined[0] and a.shape[joined[0]] == sum(joined[1]) for a in arrays):
        edges = [0, *np.cumsum(joined[1]).tolist()]
        return tuple(Channels(joined[0], a, b) for a, b in itertools.pairwise(edges) if b > a)
    rank = arrays[0].ndim
    if rank < 3 or any(a.ndim != rank or a.size == 0 for a in arrays):
        return (WHOLE,)
    best: tuple[float, tuple[Channels, ...]] = (0.0, (WHOLE,))
    axes = (
        [1] if rank > 3 and arrays[0].shape[-1] == arrays[0].shape[-2] else [1, rank - 1]
    )  # a map, square as most are
    if any(_is_share(arrays, axis) for axis in axes):
        return (WHOLE,)
    for axis in axes:
        extents = {a.shape[axis] for a in arrays}
        if len(extents) > 1 or not 2 <= arrays[0].shape[axis] <= _MOST_CHANNELS:
            continue
        scales = _scales(arrays, axis)
        cuts = _cuts(scales, 0, len(scales))
        if not cuts or len(cuts) >= _MOST:
            continue
        edges = [0, *cuts, len(scales)]
        spread = float(np.ptp([np.median(scales[a:b]) for a, b in itertools.pairwise(edges)]))
        if spread > best[0]:
            best = (spread, tuple(Channels(axis, a, b) for a, b in itertools.pairwise(edges)))
    return best[1]


def _is_share(arrays: Sequence[NDArray[np.float64]], axis: int) -> bool:
    """Whether the values along an axis sum to 1: a softmax, whose small shares are no scale of their own."""
    sums = np.concatenate([a.sum(axis=axis).ravel() for a in arrays])
    return bool(np.allclose(sums, 1.0, atol=0.02))


def _scales(arrays: Sequence[NDArray[np.float64]], axis: int) -> NDArray[np.float64]:
    """The root mean square of each channel, as a power of two."""
    total = np.zeros(arrays[0].shape[axis])
    count = 0
    for array in arrays:
        others = tuple(k for k in range(array.ndim) if k != axis)
        total += np.square(array).sum(axis=others)
        count += array.size // array.shape[axis]
    return np.asarray(np.log2(np.sqrt(total / max(count, 1)) + _SMALLEST), dtype=np.float64)


def _cuts(scales: NDArray[np.float64], start: int, stop: int) -> list[int]:
    """Where to cut a run of channels, and its parts again."""
    count = stop - start
    least = max(1, min(_LEAST, (count + 1) // 4))
    run = scales[start:stop]
    if count < 2 or float(np.ptp(run)) < JUMP:
        return []
    for place in _candidates(run, least):
        low, high = sorted((run[:place], run[place:]), key=lambda side: float(np.median(side)))
        middle = (float(np.median(low)) + float(np.median(high))) / 2
        clean = float((low < middle).mean()) >= _CLEAN and float((high > middle).mean()) >= _CLEAN
        if clean and float(np.median(high) - np.median(low)) >= JUMP:
            break
    else:
        return []
    return [*_cuts(scales, start, start + place), start + place, *_cuts(scales, start + place, stop)]


def _candidates(run: NDArray[np.float64], least: int) -> list[int]:
    """Places to cut at, the one that leaves the least variance within both sides first."""
    count = len(run)
    places = np.arange(least, count - least + 1)
    places = places[(places > 0) & (places < count)]
    sums = np.concatenate([[0.0], np.cumsum(run)])
    left, right = sums[places] / places, (sums[-1] - sums[places]) / (count - places)
    between = places * (count - places) * np.square(left - right)
    steps = np.abs(run[places] - run[places - 1])
    chosen = {*places[np.argsort(-between)[:_TRIED]].tolist(), *places[np.argsort(-steps)[:_TRIED]].tolist()}
    order = {int(p): float(b) for p, b in zip(places, between, strict=True)}
    return sorted(chosen, key=lambda place: -order[place])
