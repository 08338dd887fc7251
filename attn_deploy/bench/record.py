"""What a profile leaves behind: every sample, every setting, and why a row has no number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attn_deploy.bench import statistics
from attn_deploy.bench.environment import Environment
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import Comparison, Floats, Interval
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.parity.report import ParityCase, ParityReport
from attn_deploy.runtimes.base import RuntimeInfo

SCHEMA_VERSION = 1

Status = Literal["ok", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What happens once, apart from the steady latency.

    Attributes:
        load_seconds: making the session, or copying the module; the import of the library is not in it.
        first_run_seconds: upload and first run, where runtimes allocate, tune and compile.
    """

    load_seconds: float
    first_run_seconds: float


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """Samples of one runtime at one shape, by the host clock around ``enqueue`` and ``synchronize``.

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
        found = statistics.median_interval(self.rounds, confidence=confidence, seed=seed)
        return Interval(found.low / 1e6, found.high / 1e6, confidence)

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


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One runtime at one shape.

    Attributes:
        runtime: as asked.
        batch: items in one run.
        shapes: input shapes by name.
        status: ``ok``; ``invalid``: it ran, and the result must not be used; ``failed``: it did not run.
        reason: why, unless ok.
        info: what ran, as found.
        cold: load and first run.
        latency: samples; None unless ok.
        parity: comparison with eager at exactly these shapes; None where there is no eager model, or it is that.
        speedup: against the eager row of the same shape, when both are ok.
        noise: why the median is doubtful, or an empty string.
    """

    runtime: str
    batch: int
    shapes: Mapping[str, tuple[int, ...]]
    status: Status
    reason: str = ""
    info: RuntimeInfo | None = None
    cold: ColdStart | None = None
    latency: LatencyResult | None = None
    parity: ParityReport | None = None
    speedup: Comparison | None = None
    noise: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfileRow:
        """The inverse of `ProfileRecord.to_dict` for one row."""
        latency = data["latency"]
        return cls(
            runtime=data["runtime"],
            batch=data["batch"],
            shapes=_shapes(data["shapes"]),
            status=data["status"],
            reason=data["reason"],
            info=RuntimeInfo(**data["info"]) if data["info"] else None,
            cold=ColdStart(**data["cold"]) if data["cold"] else None,
            latency=LatencyResult(**{**latency, "rounds": tuple(map(tuple, latency["rounds"]))}) if latency else None,
            parity=_parity(data["parity"]) if data["parity"] else None,
            speedup=statistics.comparison_from_dict(data["speedup"]) if data["speedup"] else None,
            noise=data["noise"],
        )


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """One profile of one model.

    Attributes:
        name: of the model.
        environment: at the start; ``load_after`` is the load average at the end.
        options: settings, with the threads that were used.
        rows: in order of batch, then runtime as asked.
        baseline: the runtime that speed-ups refer to, None where it was not timed.
        onnx: of each ONNX file that was timed: its path if the user gave it, hash, opset, axes, and how it was made.
        argv: the command line.
        created: UTC, ISO 8601.
    """

    name: str
    environment: Environment
    options: BenchOptions
    rows: tuple[ProfileRow, ...]
    baseline: str | None
    onnx: tuple[Mapping[str, Any], ...] = ()
    load_after: float | None = None
    argv: tuple[str, ...] = ()
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def passed(self) -> bool:
        """Whether every row that was asked for has a number."""
        return bool(self.rows) and all(r.status == "ok" for r in self.rows)

    def row(self, runtime: str, batch: int | None = None) -> ProfileRow:
        """The row of a runtime, at one batch size or the first.

        Raises:
            InvalidRequestError: if there is none.
        """
        for row in self.rows:
            if row.runtime == runtime and batch in (None, row.batch):
                return row
        known = ", ".join(f"{r.runtime} at batch {r.batch}" for r in self.rows)
        raise InvalidRequestError(f"the record has no row {runtime!r} at batch {batch}; it has {known or 'none'}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; rows carry a ``summary`` of their samples for readers without this package."""
        data = asdict(self)
        for row, made in zip(self.rows, data["rows"], strict=True):
            made["summary"] = summary(row, self.options)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfileRecord:
        """The inverse of `to_dict`.

        Raises:
            InvalidRequestError: if the data are of another schema version, or not a profile.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InvalidRequestError(
                f"the profile record has schema version {version}, this version of attn-deploy reads {SCHEMA_VERSION}; "
                "measure again, or read it with the version that wrote it."
            )
        try:
            return cls(
                name=data["name"],
                environment=Environment.from_dict(data["environment"]),
                options=BenchOptions(**data["options"]),
                rows=tuple(ProfileRow.from_dict(r) for r in data["rows"]),
                baseline=data["baseline"],
                onnx=tuple(data["onnx"]),
                load_after=data["load_after"],
                argv=tuple(data["argv"]),
                created=data["created"],
            )
        except (KeyError, TypeError) as error:
            raise InvalidRequestError(f"the data are not a profile record: {error} is missing or malformed.") from error

    def to_json(self) -> str:
        """The record as JSON text."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        # A line for each of thousands of samples helps nobody: lists of numbers stand on one line.
        return re.sub(r"\[[\s\d.,eE+-]+\]", lambda found: " ".join(found[0].split()), text) + "\n"

    def write(self, path: Path | str) -> None:
        """Write the record as JSON, whole or not at all.

        Raises:
            InvalidRequestError: if the path cannot be written.
        """
        write_atomic(Path(path), self.to_json())

    @classmethod
    def read(cls, path: Path | str) -> ProfileRecord:
        """Read a record that `write` wrote.

        Raises:
            InvalidRequestError: if there is no such file, or it is not a profile record.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise InvalidRequestError(f"{path} is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise InvalidRequestError(f"{path} is not a profile record: it holds a {type(data).__name__}.")
        return cls.from_dict(data)


def summary(row: ProfileRow, options: BenchOptions) -> dict[str, Any] | None:
    """The numbers of a row; None when it has none. Times in milliseconds."""
    latency = row.latency
    if latency is None:
        return None
    return {
        "n": latency.n,
        "mean_ms": latency.mean_ms,
        **{f"p{q}_ms": latency.percentile_ms(q) for q in (50, 90, 95, 99)},
        "iqr_ms": latency.iqr_ms,
        "median_interval_ms": asdict(latency.median_interval_ms(options.confidence, options.seed)),
        "coefficient_of_variation": latency.coefficient_of_variation,
        "round_variation": latency.round_variation,
        "drift": latency.drift,
        "items_per_second": latency.throughput(row.batch),
    }


def _shapes(data: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {n: tuple(s) for n, s in data.items()}


def _parity(data: Mapping[str, Any]) -> ParityReport:
    cases = tuple(ParityCase(**{**c, "shapes": _shapes(c["shapes"])}) for c in data["cases"])
    return ParityReport(data["reference"], data["candidate"], data["rtol"], data["atol"], cases)
