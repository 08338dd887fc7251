"""What the clock found: samples, and what happened once before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_deploy.bench import statistics
from attn_deploy.bench.statistics import Floats, Interval
from attn_deploy.reading import field_error, typed

_LONGEST = 3.2e16  # nanoseconds of a year


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What happens once, apart from the steady latency.

    Attributes:
        load_seconds: making the session, or copying the module; neither import nor build are in it.
        first_run_seconds: upload and first run, where runtimes allocate and tune; a compilation is in ``build_seconds``.
        import_seconds: importing the library in a fresh process; None where the process had it already.
        build_seconds: what turned the model into what runs: export, conversion, engine build, compilation; None where
            nothing was built.
    """

    load_seconds: float
    first_run_seconds: float
    import_seconds: float | None = None
    build_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """Samples of one runtime at one shape.

    Attributes:
        rounds: nanoseconds of each sample, by round; round i of all rows of one shape was taken at the same time.
        calls_per_sample: runs within one sample. 1, unless the clock would be a large part of a single run: then a
            sample is the mean of so many runs, and percentiles are those of means.
        clock_overhead_ns: what one reading of the clock and two empty calls add to each sample; not subtracted.
        warmup_runs, warmup_seconds: untimed runs before; ``steady`` says whether their median had become stable.
    """

    rounds: tuple[tuple[float, ...], ...]
    calls_per_sample: int
    clock_overhead_ns: float
    warmup_runs: int
    warmup_seconds: float
    steady: bool

    @property
    def samples(self) -> Floats:
        """All samples in nanoseconds, in order."""
        return statistics.pooled(self.rounds)

    @property
    def n(self) -> int:
        """Number of samples."""
        return sum(len(r) for r in self.rounds)

    @property
    def p50_ms(self) -> float:
        """Median in milliseconds."""
        return self.percentile_ms(50)

    @property
    def mean_ms(self) -> float:
        """Mean in milliseconds."""
        return float(np.mean(self.samples)) / 1e6

    @property
    def iqr_ms(self) -> float:
        """Interquartile range in milliseconds."""
        return statistics.interquartile_range(self.samples) / 1e6

    @property
    def coefficient_of_variation(self) -> float:
        """Standard deviation of all samples over their mean."""
        return statistics.coefficient_of_variation(self.samples)

    @property
    def round_variation(self) -> float:
        """Standard deviation of the rounds' medians over their mean: how well the median repeats."""
        return statistics.coefficient_of_variation(statistics.round_medians(self.rounds))

    @property
    def drift(self) -> float:
        """Change of the median from the first third of the rounds to the last."""
        return statistics.drift(self.rounds)

    def percentile_ms(self, q: float) -> float:
        """The ``q``-th percentile in milliseconds."""
        return statistics.percentile(self.samples, q) / 1e6

    def resolves(self, q: float) -> bool:
        """Whether at least one sample lies beyond the ``q``-th percentile, so that it is more than the maximum."""
        return self.n * (100 - q) >= 100

    def median_interval_ms(self, confidence: float = 0.95, seed: int = 0) -> Interval:
        """Confidence interval of the median in milliseconds."""
        interval = statistics.median_interval(self.rounds, confidence=confidence, seed=seed)
        return Interval(interval.low / 1e6, interval.high / 1e6, confidence)

    def throughput(self, items: int) -> float:
        """Items per second when runs follow each other; ``items`` are those of one run."""
        return statistics.throughput(self.samples, items)

    def noise(self, limit: float) -> str:
        """Why the median cannot be trusted to within ``limit``, or an empty string."""
        if self.round_variation > limit:
            return f"the rounds' medians spread by {self.round_variation:.0%}"
        if abs(self.drift) > limit:
            return f"the median drifted by {self.drift:+.0%} while it was measured"
        if not self.steady:
            return f"the median was not stable after {self.warmup_runs} warm-up runs"
        return ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyResult:
        """The inverse of ``dataclasses.asdict``.

        Raises:
            InvalidRequestError: if a field is missing or of another type, or there is no sample; the message names it.
        """
        result = typed(data, cls)
        result.check()
        return result

    def check(self, where: str = "") -> None:
        """Check that there are samples, and that each took time; ``where`` the result stands in a record.

        Raises:
            InvalidRequestError: if not; the message names the field.
        """
        inside = f"{where}." if where else ""
        if self.calls_per_sample < 1:
            raise field_error(f"{inside}calls_per_sample", self.calls_per_sample, "at least 1")
        if not any(self.rounds):
            raise field_error(f"{inside}rounds", self.rounds, "lists of samples, of which there are none")
        for number, samples in enumerate(self.rounds):
            for index, value in enumerate(samples):
                if not 0 < value < _LONGEST:
                    raise field_error(
                        f"{inside}rounds[{number}][{index}]", value, "nanoseconds, above 0 and below a year"
                    )
