"""How a measurement is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.data.seeds import require_seed
from attn_deploy.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Settings of one measurement, the same for every runtime in it.

    Attributes:
        min_samples: timed runs of each runtime, at least; ``max_samples`` at most, so that records stay small.
        min_seconds: timed seconds of each runtime, at least.
        warmup_seconds: untimed seconds before, at least; up to four times that until the median is stable.
        max_seconds: wall seconds of each runtime, after which the rest of its samples is given up.
        rounds: bursts that the samples are spread over; every runtime has its turn in every round, in random order.
        settle_seconds: untimed seconds at the start of a turn, in which caches refill and the other runtime's threads
            stop spinning; runs that are longer than this need none.
        seed: of inputs, order and bootstrap.
        threads: threads within an operator, for every runtime; None takes the usable cores.
        confidence: of the intervals.
        noise_limit: spread of the round medians (standard deviation over mean), and drift from the first third of the
            rounds to the last, above which a row is marked noisy.
    """

    min_samples: int = 200
    max_samples: int = 20_000
    min_seconds: float = 1.0
    warmup_seconds: float = 0.3
    max_seconds: float = 20.0
    rounds: int = 20
    settle_seconds: float = 0.01
    seed: int = 0
    threads: int | None = None
    confidence: float = 0.95
    noise_limit: float = 0.1

    def __post_init__(self) -> None:
        for name in ("min_samples", "max_samples", "rounds", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequestError(f"{name} is {value}; it must be at least 1.")
        for name in ("min_seconds", "max_seconds", "warmup_seconds", "settle_seconds", "noise_limit"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:  # refuses NaN too
                raise InvalidRequestError(f"{name} is {value}; it must be a finite number, and cannot be negative.")
        if self.max_samples < self.min_samples:
            raise InvalidRequestError(
                f"max_samples is {self.max_samples}, below min_samples {self.min_samples}; raise max_samples."
            )
        if self.max_seconds < self.min_seconds:
            raise InvalidRequestError(
                f"max_seconds is {self.max_seconds:g}, below min_seconds {self.min_seconds:g}; raise max_seconds."
            )
        require_seed(self.seed)
        if not 0 < self.confidence < 1:
            raise InvalidRequestError(
                f"the confidence is {self.confidence}, and must lie between 0 and 1, such as 0.95."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)
