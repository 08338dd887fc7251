"""Is one way of training better than another, or is it the seed? Student's t over seeds, corrected for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attn_deploy.accuracy.metrics import mean_and_spread


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """The difference of two means over seeds.

    Attributes:
        difference: of the means, as a share (0.01 is one point).
        low, high: its 95 % interval; infinite ones are None, where there are too few seeds.
        p_value: two-sided probability of a difference at least as large if both were equally good; None with too few seeds.
        freedom: degrees of freedom of the spread that it is held against.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    freedom: int


def compare_seeds(values: Sequence[float], baseline: Sequence[float]) -> SeedDifference:
    """The two-sample t test with one spread for both, which a single run can be held against too.

    A side with one value adds nothing to the spread: a row of one seed is judged by how much the baseline's seeds differ.

    Args:
        values: a result for each seed.
        baseline: likewise.
    """
    mean, _ = mean_and_spread(values)
    reference, _ = mean_and_spread(baseline)
    difference = mean - reference
    freedom = len(values) + len(baseline) - 2
    squares = sum((v - mean) ** 2 for v in values) + sum((v - reference) ** 2 for v in baseline)
    if freedom < 1 or squares == 0:  # equal results by chance say nothing of the spread
        return SeedDifference(difference, None, None, None, freedom)
    error = math.sqrt(squares / freedom * (1 / len(values) + 1 / len(baseline)))
    half = error * t_quantile(0.975, freedom)
    return SeedDifference(
        difference, difference - half, difference + half, 2 * t_tail(abs(difference) / error, freedom), freedom
    )


def t_tail(value: float, freedom: int) -> float:
    """Probability that Student's t exceeds a value of at least 0.

    By the closed sums for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4); where the sum cancels to
    nothing, what is left is far below anything that is printed.
    """
    angle = math.atan2(value, math.sqrt(freedom))
    cosine = math.cos(angle)
    if freedom % 2:
        total, term = 0.0, cosine
        for k in range(1, freedom - 1, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        within = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        total, term = 0.0, 1.0
        for k in range(0, freedom, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        within = math.sin(angle) * total
    return max(0.0, (1 - within) / 2)


def t_quantile(share: float, freedom: int) -> float:
    """The value that Student's t stays below with a probability of at least 0.5."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - share else (low, middle)
    return high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: p values such that the chance of any false finding among all of them is the level."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[index] = largest
    return corrected
