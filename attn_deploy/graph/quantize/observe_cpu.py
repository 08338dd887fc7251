"""What calibration data say of a graph that is placed on a CPU: ranges with both ends, and means of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from attn_deploy.graph.quantize.layers import Layer
from attn_deploy.graph.quantize.placement_cpu import CpuPlacement
from attn_deploy.graph.quantize.signed_histogram import SignedHistogram


class CpuObservation:
    """Ranges of all tensors that others take theirs from, and the means of what products read.

    Args:
        model: the prepared graph.
        layers: its products.
        placement: with all of them in 8 bits.
    """

    def __init__(self, model: ir.Model, layers: Sequence[Layer], placement: CpuPlacement) -> None:
        nodes = {n.name: n for n in model.graph}
        self._axes: dict[str, int] = {}
        for layer in layers:
            value = nodes[layer.node].inputs[0]
            if value is not None and value.name:
                self._axes[value.name] = 1 if layer.operator == "Conv" else -1
        roots = dict.fromkeys(placement.pairs.values())
        self._histograms = {name: SignedHistogram() for name in roots}
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._counts = dict.fromkeys(self._axes, 0)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors to look at."""
        return tuple(dict.fromkeys([*self._histograms, *self._axes]))

    def add(self, name: str, values: NDArray[np.floating]) -> None:
        """Take the values of one batch into account."""
        histogram = self._histograms.get(name)
        if histogram is not None:
            histogram.add(values)
        axis = self._axes.get(name)
        if axis is None or values.size == 0:
            return
        others = tuple(a for a in range(values.ndim) if a != axis % values.ndim)
        total = values.sum(axis=others, dtype=np.float64)
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._counts[name] += values.size // total.size

    def not_finite(self) -> Iterable[str]:
        """Tensors that held a NaN or an infinite value."""
        return (n for n, h in self._histograms.items() if not h.finite)

    def ranges(self, method: str) -> dict[str, tuple[float, float]]:
        """The lowest and the highest value of each tensor that others take their range from."""
        return {n: h.range(method) for n, h in self._histograms.items()}

    def means(self) -> Mapping[str, NDArray[np.float64]]:
        """The mean of each channel of what products read."""
        return {n: s / self._counts[n] for n, s in self._sums.items() if np.isfinite(s).all()}
