"""The range of a tensor with both its ends: for types with a zero point."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attn_deploy.graph.quantize.histogram import BINS, PERCENTILE, Histogram


@dataclass(slots=True)
class SignedHistogram:
    """Values of a tensor over all batches, in `BINS` equal bins from ``-end`` to 0 and as many from 0 to ``end``.

    As `Histogram`, the end doubles when a value beyond it comes.
    """

    end: float = 0.0
    low: float = 0.0
    high: float = 0.0
    finite: bool = True
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2 * BINS))

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the values of one batch."""
        if values.size == 0:
            return
        flat = values.astype(np.float32, copy=False).ravel()
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        most = max(-low, high)
        if most == 0.0:
            self.counts[BINS] += flat.size
            return
        if self.end == 0.0:
            self.end = most
        while most > self.end:
            empty = np.zeros(BINS // 2)
            self.counts = np.concatenate([empty, self.counts.reshape(-1, 2).sum(1), empty])
            self.end *= 2.0
        # Counted from the lower end, where no value is negative and dropping the fraction is rounding down.
        places = flat * np.float32(BINS / self.end)
        places += np.float32(BINS)
        counts = np.bincount(places.astype(np.intp), minlength=2 * BINS + 1)
        self.counts += counts[:-1]
        self.counts[-1] += counts[-1]  # the upper end itself

    def range(self, method: str) -> tuple[float, float]:
        """The lowest and the highest value with a step of its own, zero between them; what lies beyond is cut.

        Args:
            method: one of `attn_deploy.graph.quantize.histogram.METHODS`.
        """
        if method == "minmax" or self.end == 0.0:
            return self.low, self.high
        if method == "percentile":
            return self._percentile()
        low, high = (
            Histogram(self.end, largest, counts=counts).range(method) if largest > 0 else 0.0
            for largest, counts in ((-self.low, self.counts[:BINS][::-1].copy()), (self.high, self.counts[BINS:]))
        )
        return -low, high

    def _percentile(self) -> tuple[float, float]:
        beyond = self.counts.sum() * (1.0 - PERCENTILE / 100.0)
        step = self.end / BINS
        below, above = np.cumsum(self.counts), np.cumsum(self.counts[::-1])
        low = (int(np.searchsorted(below, beyond, side="right")) - BINS) * step
        high = (BINS - int(np.searchsorted(above, beyond, side="right"))) * step
        return max(self.low, min(low, 0.0)), min(self.high, max(high, 0.0))
