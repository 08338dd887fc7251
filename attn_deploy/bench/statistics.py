"""What samples of a latency say, and whether two runtimes differ. Pure functions of numbers.

Samples come in *rounds*: short bursts, in which every runtime had its turn. Samples of one burst resemble each other
more than those of another (a neighbour on the machine, a clock that drops), so the resampling here draws whole rounds.
Drawing single samples would call noise a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attn_deploy.errors import InvalidRequestError

Floats = NDArray[np.float64]
Rounds = Sequence[ArrayLike]
Verdict = Literal["faster", "slower", "no difference", "undecided"]

MIN_ROUNDS = 8  # below, whole rounds are too few to resample
RESAMPLES = 1000
_CHUNK = 4_000_000  # elements of one resampling table


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate against a baseline.

    Attributes:
        speedup: baseline time over candidate time, the median over the rounds; above 1 the candidate is faster.
        interval: where that median lies, at the interval's confidence, widened until the ratio of the medians of all
            samples, which tables show beside it, is inside.
        verdict: faster or slower when the whole interval lies beyond ``1 + margin`` or below ``1 / (1 + margin)``; no
            difference when it does not; undecided with fewer than `MIN_ROUNDS` rounds, or where either side is noisy.
        rounds: how many rounds both ran in.
    """

    speedup: float
    interval: Interval
    verdict: Verdict
    rounds: int


def pooled(rounds: Rounds) -> Floats:
    """All samples of all rounds, in order.

    Raises:
        InvalidRequestError: if there is none.
    """
    parts = [np.asarray(r, dtype=np.float64).ravel() for r in rounds]
    values = np.concatenate(parts) if parts else np.empty(0)
    if values.size == 0:
        raise InvalidRequestError("there are no samples to describe; measure at least one run.")
    return values


def percentile(samples: ArrayLike, q: float) -> float:
    """The ``q``-th percentile, 0 to 100, interpolated linearly between neighbours."""
    return float(np.percentile(np.asarray(samples, dtype=np.float64), q))


def interquartile_range(samples: ArrayLike) -> float:
    """Distance between the 25th and the 75th percentile."""
    low, high = np.percentile(np.asarray(samples, dtype=np.float64), [25, 75])
    return float(high - low)


def coefficient_of_variation(samples: ArrayLike) -> float:
    """Standard deviation over mean; 0 for a single sample."""
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 2:
        return 0.0
    return float(values.std(ddof=1) / values.mean())


def throughput(samples_ns: ArrayLike, items: int) -> float:
    """Items per second when runs follow each other: ``items`` over the mean, for the slow runs cost time too."""
    return items * 1e9 / float(np.mean(np.asarray(samples_ns, dtype=np.float64)))


def round_medians(rounds: Rounds) -> Floats:
    """The median of each round that has samples."""
    return np.array([np.median(np.asarray(r, dtype=np.float64)) for r in rounds if np.size(np.asarray(r))])


def drift(rounds: Rounds) -> float:
    """Median of the last third of the rounds over that of the first third, minus 1; 0 with fewer than 3 rounds."""
    medians = round_medians(rounds)
    third = len(medians) // 3
    if third == 0:
        return 0.0
    return float(np.median(medians[-third:]) / np.median(medians[:third]) - 1.0)


def median_interval(rounds: Rounds, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the median of all samples.

    With fewer than `MIN_ROUNDS` rounds single samples are drawn, which makes the interval look narrower than it is when
    neighbouring samples resemble each other.

    Raises:
        InvalidRequestError: if there is no sample, or the confidence is not between 0 and 1.
    """
    _check_confidence(confidence)
    values = pooled(rounds)
    sizes = [np.size(np.asarray(r)) for r in rounds]
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    count = len(sizes)
    if sum(s > 0 for s in sizes) < MIN_ROUNDS:
        blocks, count = np.arange(values.size), values.size
    order = np.argsort(values, kind="stable")
    ordered, blocks = values[order], blocks[order]
    rng = np.random.default_rng(seed)
    medians: list[Floats] = []
    step = max(1, _CHUNK // max(values.size, count))
    for start in range(0, resamples, step):
        draws = rng.multinomial(count, np.full(count, 1.0 / count), size=min(step, resamples - start))
        weights = np.cumsum(draws[:, blocks], axis=1)
        total = weights[:, -1:]
        # A weighted median: the mean of the two middle elements of the drawn samples, as for an unweighted one.
        lower = np.argmax(weights * 2 >= total, axis=1)
        upper = np.argmax(weights * 2 > total, axis=1)
        filled = total[:, 0] > 0  # rounds may be empty, and a draw of empty ones alone has no median
        medians.append(((ordered[lower] + ordered[upper]) / 2)[filled])
    return _interval(np.concatenate(medians), confidence)


def compare_rounds(
    baseline: Rounds,
    candidate: Rounds,
    *,
    confidence: float = 0.95,
    margin: float = 0.01,
    resamples: int = RESAMPLES,
    seed: int = 0,
    noisy: bool = False,
) -> Comparison:
    """Is the candidate faster than the baseline?

    Round ``i`` of both ran one after the other, so what disturbed one disturbed the other too and cancels in the ratio
    of their medians. The answer is the median of those ratios, with a bootstrap over rounds. Where the ratio of the
    medians of all samples disagrees, as on a machine with two speeds, the interval reaches that far too, and less is
    decided.

    Args:
        baseline: samples of the baseline by round.
        candidate: samples of the candidate by round; the interval leaves out rounds beyond the shorter of both.
        confidence: of the interval.
        margin: differences up to this fraction count as none; two sessions of one model differ by memory layout.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        noisy: the median of either side is doubtful, so that nothing is decided.

    Raises:
        InvalidRequestError: if no round is common to both, or the confidence is not between 0 and 1.
    """
    _check_confidence(confidence)
    pairs = [
        (float(np.median(np.asarray(b))), float(np.median(np.asarray(c))))
        for b, c in zip(baseline, candidate, strict=False)
        if np.size(np.asarray(b)) and np.size(np.asarray(c))
    ]
    if not pairs:
        raise InvalidRequestError("the baseline and the candidate have no round in common; time them together.")
    logs = np.array([math.log(b / c) for b, c in pairs])
    rng = np.random.default_rng(seed)
    drawn = np.median(logs[rng.integers(0, len(logs), (resamples, len(logs)))], axis=1)
    bounds = _interval(drawn, confidence)  # of the logarithms, so that swapping the sides inverts it exactly
    whole = math.log(percentile(pooled(baseline), 50) / percentile(pooled(candidate), 50))
    interval = Interval(math.exp(min(bounds.low, whole)), math.exp(max(bounds.high, whole)), confidence)
    verdict: Verdict = "no difference"
    if len(pairs) < MIN_ROUNDS or noisy:
        verdict = "undecided"
    elif interval.low > 1 + margin:
        verdict = "faster"
    elif interval.high < 1 / (1 + margin):
        verdict = "slower"
    return Comparison(float(np.exp(np.median(logs))), interval, verdict, len(pairs))


def _interval(draws: Floats, confidence: float) -> Interval:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(float(low), float(high), confidence)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidRequestError(f"the confidence is {confidence}, and must lie between 0 and 1, such as 0.95.")
