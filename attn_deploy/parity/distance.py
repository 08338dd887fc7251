"""How far one output is from the right one: numbers by parts with scales of their own, choices by agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_deploy.parity.channels import WHOLE, Channels, channel_parts
from attn_deploy.parity.tolerance import Tolerance

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PartDistance:
    """The error of one part of an output.

    Attributes:
        output, part: where.
        max_abs_error: the largest difference.
        ratio: the largest difference in units of what the tolerance allows.
        relative: root mean square of the difference over that of the right values.
        elements: how many were compared.
    """

    output: str
    part: Channels
    max_abs_error: float
    ratio: float
    relative: float
    elements: int

    def __str__(self) -> str:
        return f"output {self.output!r}" + (f", {self.part}" if self.part.axis is not None else "")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many choices of an output are the same.

    Attributes:
        output: its name.
        elements: how many there are.
        same: how many are equal.
        ties: how many of the others chose between scores that the tolerance does not tell apart.
    """

    output: str
    elements: int
    same: int
    ties: int = 0

    @property
    def share(self) -> float:
        """The share of choices that are right: the same, or a near tie."""
        return (self.same + self.ties) / self.elements if self.elements else 1.0

    def __str__(self) -> str:
        ties = f", {self.ties} near ties" if self.ties else ""
        return f"output {self.output!r}: {self.same} of {self.elements} choices are the same{ties}"


def number_distances(
    name: str,
    right: Sequence[NDArray[np.generic]],
    got: Sequence[NDArray[np.generic]],
    tolerance: Tolerance,
    joined: tuple[int, tuple[int, ...]] | None = None,
) -> list[PartDistance]:
    """The error of each part of an output, over all runs.

    Args:
        name: of the output.
        right: the right values, one array a run.
        got: the values to judge, of the same shapes.
        tolerance: what counts as equal.
        joined: the parts that the graph joins the output from, see `attn_deploy.graph.heads.Output`.
    """
    exact = [np.asarray(a, np.float64) for a in right if a.size]
    ours = [np.asarray(a, np.float64) for a in got if a.size]
    if not exact:
        return [PartDistance(name, WHOLE, 0.0, 0.0, 0.0, 0)]
    return [_distance(name, part, exact, ours, tolerance) for part in channel_parts(exact, joined)]


def _distance(
    name: str, part: Channels, right: Sequence[Array], got: Sequence[Array], tolerance: Tolerance
) -> PartDistance:
    pairs = [(part.of(a), part.of(b)) for a, b in zip(right, got, strict=True)]
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    worst = ratio = squares = size = 0.0
    count = 0
    for exact, ours in pairs:
        error = np.abs(ours - exact)
        allowed = tolerance.atol * max(tolerance.floor, largest) + tolerance.rtol * np.abs(exact)
        worst = max(worst, float(error.max()))
        ratio = max(ratio, float((error / allowed).max()))
        squares += float(np.square(error).sum())
        size += float(np.square(exact).sum())
        count += exact.size
    relative = float(np.sqrt(squares / size)) if size else (0.0 if squares == 0 else float("inf"))
    if part.axis is not None and tolerance.share is not None and size:
        ratio = max(ratio, relative / tolerance.share)
    return PartDistance(name, part, worst, ratio, relative, count)


def agreement(
    name: str,
    right: Sequence[NDArray[np.generic]],
    got: Sequence[NDArray[np.generic]],
    *,
    rows: bool = False,
    scores: Sequence[NDArray[np.generic]] | None = None,
    axis: int = -1,
    tolerance: Tolerance | None = None,
) -> Agreement:
    """How far choices agree, over all runs.

    Args:
        name: of the output.
        right: the right choices, one array a run.
        got: the choices to judge.
        rows: compare as sets of rows, whose number may differ.
        scores: the floating-point values that were chosen by, where known.
        axis: of the scores along which was chosen.
        tolerance: scores within it of each other are a tie.
    """
    elements = same = ties = 0
    for index, (a, b) in enumerate(zip(right, got, strict=True)):
        if rows:
            one, two = _rows(a), _rows(b)
            elements += max(len(one), len(two))
            same += len(one & two)
            continue
        equal = a == b if a.shape == b.shape else np.zeros(a.shape, bool)
        elements += a.size
        same += int(equal.sum())
        if scores is not None and tolerance is not None and a.shape == b.shape and not equal.all():
            ties += _ties(np.asarray(a), np.asarray(b), np.asarray(scores[index], np.float64), axis, tolerance)
    return Agreement(name, elements, same, ties)


def _rows(array: NDArray[np.generic]) -> set[tuple[object, ...]]:
    return {tuple(r) for r in np.asarray(array).reshape(len(array), -1).tolist()} if array.size else set()


def _ties(a: NDArray[np.generic], b: NDArray[np.generic], scores: Array, axis: int, tolerance: Tolerance) -> int:
    """How many different choices have scores that are as good as equal."""
    axis %= scores.ndim
    if a.ndim == scores.ndim - 1:  # ArgMax without keepdims
        a, b = np.expand_dims(a, axis), np.expand_dims(b, axis)
    extent = scores.shape[axis]
    if a.ndim != scores.ndim or a.dtype.kind not in "iu" or not extent:
        return 0
    if any(a.shape[k] != scores.shape[k] for k in range(scores.ndim) if k != axis):
        return 0
    one, two = a.astype(np.int64), b.astype(np.int64)
    if min(one.min(), two.min()) < 0 or max(one.max(), two.max()) >= extent:
        return 0
    first, second = np.take_along_axis(scores, one, axis), np.take_along_axis(scores, two, axis)
    allowed = tolerance.atol * max(tolerance.floor, float(np.abs(scores).max())) + tolerance.rtol * np.abs(first)
    # Either score may be off by the tolerance.
    return int(((one != two) & (np.abs(first - second) <= 2 * allowed)).sum())
