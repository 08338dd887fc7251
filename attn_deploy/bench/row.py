"""One runtime at one shape and precision: a number with its evidence, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from attn_deploy.bench.evidence import AccuracyRow, Conditions, GraphCost, MemoryPeak, Placement
from attn_deploy.bench.latency import ColdStart, LatencyResult
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import Comparison
from attn_deploy.errors import AttnDeployError
from attn_deploy.parity.report import ParityReport
from attn_deploy.reading import field_error, require_share, typed
from attn_deploy.runtimes.base import RuntimeInfo

Status = Literal["ok", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One runtime at one shape and precision.

    Attributes:
        runtime: as asked.
        batch: items in one run.
        shapes: input shapes by name.
        status: ``ok``; ``invalid``: it ran, and the result must not be used; ``failed``: it did not run.
        reason: why, unless ok.
        info: what ran, as found; ``info.precision`` is the precision found.
        cold: load and first run.
        latency: samples by the host clock around ``enqueue`` and ``synchronize``, inputs resident; None unless ok.
        parity: comparison with eager at exactly these shapes; None where there is no eager model, or it is that.
        speedup: against the baseline row of the same shape, when both are ok.
        noise: why the median is doubtful, or an empty string.
        precision: as asked: fp32, fp16, bf16 or int8.
        size: height and width of the first image input; None where there is none.
        cuda_graph: whether the runs were asked to be replays of a captured CUDA graph.
        device_time: the same runs by events on the device; None where there is none.
        end_to_end: upload, run and download by the host clock; None where it was not timed.
        placement: nodes by provider, where the runtime tells.
        memory: peaks; None where rows were not given processes of their own.
        accuracy: on the data set asked for; None where none was.
        accuracy_missing: why a row with a number has no accuracy, where one was asked for; else empty.
        conditions: clocks, load and temperature before and after.
        graph: the ONNX graph behind the row, and what it must do at these shapes; None where a module ran.
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
    precision: str = "fp32"
    size: tuple[int, int] | None = None
    cuda_graph: bool = False
    device_time: LatencyResult | None = None
    end_to_end: LatencyResult | None = None
    placement: Placement | None = None
    memory: MemoryPeak | None = None
    accuracy: AccuracyRow | None = None
    conditions: Conditions | None = None
    graph: GraphCost | None = None
    accuracy_missing: str = ""

    @property
    def key(self) -> str:
        """What tells the row from the others of a record, such as ``ort-cpu fp32 b8 32x32``."""
        words = [self.runtime, self.precision, f"b{self.batch}"]
        words += [f"{self.size[0]}x{self.size[1]}"] if self.size else []
        return " ".join(words + ["cuda-graph"] * self.cuda_graph)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfileRow:
        """The inverse of ``dataclasses.asdict``; what a record of an earlier version lacks has its default.

        Raises:
            InvalidRequestError: if a field is missing, of another type, or beyond what it can be; the message names it.
        """
        row = typed(data, cls, signed=("temperature", "settings"))
        row.check()
        return row

    def check(self, where: str = "row") -> None:
        """Check what the types do not say: a number needs samples, and ratios are above zero.

        Raises:
            InvalidRequestError: if something is beyond what it can be; the message names it.
        """
        if self.batch < 1:
            raise field_error(f"{where}.batch", self.batch, "at least 1")
        if self.status == "ok" and self.latency is None:
            raise field_error(f"{where}.latency", None, "the samples of a row whose status is ok")
        for name in ("latency", "device_time", "end_to_end"):
            result: LatencyResult | None = getattr(self, name)
            if result is not None:
                result.check(f"{where}.{name}")
        if self.speedup is not None:
            interval = self.speedup.interval
            ratios = {"speedup": self.speedup.speedup, "interval.low": interval.low, "interval.high": interval.high}
            for name, value in ratios.items():
                if value <= 0:
                    raise field_error(f"{where}.speedup.{name}", value, "above 0")
        accuracy = self.accuracy
        if accuracy is not None and not 0 <= accuracy.correct <= accuracy.images > 0:
            raise field_error(
                f"{where}.accuracy.images", accuracy.images, "at least 1, and at least those that are correct"
            )
        if accuracy is not None:
            for name in ("same", "only_reference", "only_this"):
                count = getattr(accuracy, name)
                if count is not None and count > accuracy.images:
                    raise field_error(f"{where}.accuracy.{name}", count, f"at most the {accuracy.images} images")
            require_share(f"{where}.accuracy.p_value", accuracy.p_value)


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
        "device_p50_ms": row.device_time.p50_ms if row.device_time else None,
        "end_to_end_p50_ms": row.end_to_end.p50_ms if row.end_to_end else None,
    }


def line_of_error(error: Exception) -> str:
    """An error in one line, for a row."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, AttnDeployError) else f"{type(error).__name__}: {text[:400]}"
