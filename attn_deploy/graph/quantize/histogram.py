"""The range of a tensor from what it held: the largest value, a percentile, or the least loss of information."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048
METHODS = ("minmax", "entropy", "percentile")
PERCENTILE = 99.99
_LEVELS = 128  # magnitudes of int8, which the entropy of a range is counted in
_STRIDE = 16
_COUNTED = 1 << 20  # values of one batch, at most twice as many


@dataclass(slots=True)
class Histogram:
    """Magnitudes of a tensor over all batches, in `BINS` equal bins from 0 to ``end``.

    When a value beyond the end comes, the end doubles and neighbouring bins are joined, so that one pass over the data
    is enough.
    """

    end: float = 0.0
    largest: float = 0.0
    finite: bool = True
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the values of one batch."""
        if values.size == 0:
            return
        most = max(abs(float(values.max())), abs(float(values.min())))  # NaN where any element is
        if not math.isfinite(most):
            self.finite = False
            return
        self.largest = max(self.largest, most)
        # The shape of a distribution is known from a million of its values; the largest is taken from all of them.
        step = max(1, values.size // _COUNTED)
        magnitudes = np.abs(values.ravel()[::step].astype(np.float64))
        if most == 0.0:
            self.counts[0] += magnitudes.size
            return
        if self.end == 0.0:
            self.end = most
        while most > self.end:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.end *= 2.0
        places = np.minimum((magnitudes * (BINS / self.end)).astype(np.int64), BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)

    def range(self, method: str) -> float:
        """The largest magnitude with a step of its own; what lies beyond is cut.

        Args:
            method: one of `METHODS`.
        """
        if self.largest == 0.0 or method == "minmax":
            return self.largest
        end = self._percentile() if method == "percentile" else self._entropy()
        return min(end, self.largest)

    def _percentile(self) -> float:
        share = np.cumsum(self.counts) / self.counts.sum()
        return float((np.searchsorted(share, PERCENTILE / 100.0) + 1) * self.end / BINS)

    def _entropy(self) -> float:
        """The end at which the distribution in 128 steps diverges least from the one before (Kullback-Leibler).

        Zeros are left out of the first bin: after a ReLU they are half of all values, exact at any scale.
        """
        counts = self.counts.copy()
        counts[0] = 0.0 if counts[0] > counts[1:].max(initial=0.0) else counts[0]
        used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else BINS
        best, least = used, math.inf
        for stop in range(_LEVELS, used + 1, _STRIDE):
            divergence = _divergence(counts, stop)
            if divergence < least:
                best, least = stop, divergence
        return best * self.end / BINS


def _divergence(counts: NDArray[np.float64], stop: int) -> float:
    kept = counts[:stop]
    clipped = kept.copy()
    clipped[-1] += counts[stop:].sum()
    edges = np.linspace(0, stop, _LEVELS + 1).round().astype(np.int64)[:-1]
    filled = (kept > 0).astype(np.float64)
    totals, spread = np.add.reduceat(kept, edges), np.add.reduceat(filled, edges)
    mean = np.divide(totals, spread, out=np.zeros_like(totals), where=spread > 0)
    level = np.repeat(mean, np.diff(np.append(edges, stop))) * filled
    alive = clipped > 0
    wanted = clipped[alive] / clipped.sum()
    approximation = level[alive]
    if approximation.sum() == 0:
        return math.inf
    approximation = np.maximum(
        approximation / approximation.sum(), 1e-9
    )  # the bin that cut values moved to may be empty
    return float((wanted * np.log(wanted / approximation)).sum())
