"""Numbers from predictions: counts first, so that 'the same accuracy' can mean the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError

Integers = NDArray[np.int64]


def ranks_of_labels(logits: NDArray[np.floating], labels: Integers) -> Integers:
    """For each image, how many classes are scored above its label; of equal scores the lower index comes first."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None] < labels[:, None]
    ranks: Integers = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return ranks


def confusion_matrix(labels: Integers, predictions: Integers, classes: int) -> Integers:
    """``[i, j]``: images of class i that were taken for class j."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predictions), 1)
    return table


@dataclass(frozen=True, slots=True)
class PairedTest:
    """McNemar's exact test of two models on the same images.

    Attributes:
        only_first, only_second: images that one got right and the other did not.
        p_value: two-sided probability of a split at least as uneven if both were equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> PairedTest:
    """The exact (binomial) form, which is right for few disagreements too.

    Raises:
        InvalidRequestError: if the two do not have one entry for each of the same images.
    """
    if first_right.shape != second_right.shape:
        raise InvalidRequestError(
            f"a paired test needs the same images: {first_right.shape[0]} and {second_right.shape[0]} were given."
        )
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    return PairedTest(
        only_first, only_second, binomial_two_sided(min(only_first, only_second), only_first + only_second)
    )


def binomial_two_sided(successes: int, trials: int) -> float:
    """Probability that a fair coin splits ``trials`` at least as unevenly as ``successes`` to the rest."""
    if trials == 0:
        return 1.0
    log_half = trials * math.log(2)
    tail = math.fsum(math.exp(_log_choose(trials, k) - log_half) for k in range(successes + 1))
    return min(1.0, 2 * tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def wilson_interval(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion."""
    share, square = right / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
