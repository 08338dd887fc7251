"""The rows of profiles as flat data, from which tables, files and pages are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attn_deploy.bench.row import ProfileRow
from attn_deploy.comparison.overview import Entry, MeanSpeedup, Overview
from attn_deploy.report.profile.conditions import COLD, row_conditions

# Name and meaning of each column, in order.
COLUMNS = {
    "machine": "what it ran on",
    "model": "name",
    "runtime": "as requested",
    "precision": "as requested",
    "batch": "items in one run",
    "size": "height and width of the first image input",
    "cuda_graph": "replayed from a captured graph",
    "status": "ok, invalid, failed",
    "p50_ms": "median",
    "p50_low_ms": "lower end of its interval",
    "p50_high_ms": "upper end of its interval",
    "p90_ms": "90th percentile",
    "p95_ms": "95th percentile",
    "p99_ms": "99th percentile",
    "iqr_ms": "interquartile range",
    "samples": "number",
    "items_per_second": "throughput",
    "device_p50_ms": "median by events on the device",
    "end_to_end_p50_ms": "median with upload and download",
    "baseline": "what the speed-up is against",
    "speedup": "baseline time over this one's",
    "speedup_low": "lower end of its interval",
    "speedup_high": "upper end of its interval",
    "verdict": "faster, slower, no difference, undecided",
    "max_abs_error": "against eager at this shape",
    "top1": "share of right answers",
    "agreement": "share of images with eager's answer",
    "mcnemar_p": "of the difference in accuracy",
    "images": "that accuracy is over",
    "on_front": "no row is as accurate and faster, or as fast and more accurate",
    "floor_ms": "speed of light",
    "floor_multiple": "median over it",
    "bound": "what limits the work: compute, memory, launch",
    "floor_device": "device profile of the floor",
    "macs": "multiply-accumulates of one run",
    "import_seconds": "importing the library in a fresh process",
    "build_seconds": "export, conversion, engine build or compilation",
    "load_seconds": "making the session",
    "first_run_seconds": "upload and first run",
    "host_mib": "peak memory added by model and runs",
    "device_mib": "peak memory on the GPU",
    "provider": "what executed it",
    "threads": "within an operator",
    "version": "of the runtime",
    "cpu_mhz": "mean clock of the usable cores after the row",
    "load_average": "runnable processes over the last minute, after the row",
    "gpu_mhz": "clock of the first GPU after the row",
    "gpu_celsius": "its temperature",
    "gpu_watts": "its power",
    "throttled": "why its clocks were held down",
    "noise": "why the median is doubtful",
    "reason": "why there is no number, or no top-1",
    "created": "when",
}


def flat_rows(report: Overview, *, intervals: bool = False) -> list[dict[str, Any]]:
    """One dictionary for each row, with the keys of `COLUMNS`; None where there is nothing to say.

    Args:
        report: the runs.
        intervals: those of the medians too; a bootstrap of each row takes half a minute for a thousand.
    """
    return [_flat(report, entry, intervals) for entry in report.entries]


def _flat(report: Overview, entry: Entry, intervals: bool) -> dict[str, Any]:
    run, row = report.runs[entry.run], entry.row
    options = run.record.options
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {
        "machine": run.machine,
        "model": run.record.name,
        "runtime": row.runtime,
        "precision": row.precision,
        "batch": row.batch,
        "size": f"{row.size[0]}x{row.size[1]}" if row.size else "",
        "cuda_graph": row.cuda_graph,
        "status": row.status,
        "reason": row.reason or row.accuracy_missing,
        "noise": row.noise,
        "created": run.record.created,
        "on_front": entry.on_front,
    }
    if row.info is not None:
        values |= {"provider": row.info.provider, "threads": row.info.threads, "version": row.info.version}
    if row.latency is not None:
        if intervals:
            interval = row.latency.median_interval_ms(options.confidence, options.seed)
            values |= {"p50_low_ms": interval.low, "p50_high_ms": interval.high}
        values["samples"] = row.latency.n
        values |= {f"p{q}_ms": row.latency.percentile_ms(q) for q in (50, 90, 95, 99) if row.latency.resolves(q)}
        values |= {"iqr_ms": row.latency.iqr_ms, "items_per_second": row.latency.throughput(row.batch)}
    values["device_p50_ms"] = row.device_time.p50_ms if row.device_time else None
    values["end_to_end_p50_ms"] = row.end_to_end.p50_ms if row.end_to_end else None
    if row.speedup is not None:
        speedup = row.speedup
        values |= {"baseline": run.record.baseline, "speedup": speedup.speedup, "verdict": speedup.verdict}
        values |= {"speedup_low": speedup.interval.low, "speedup_high": speedup.interval.high}
    if row.parity is not None and row.parity.max_abs_error < float("inf"):
        values["max_abs_error"] = row.parity.max_abs_error
    if row.accuracy is not None:
        accuracy = row.accuracy
        values |= {"top1": accuracy.top1, "agreement": accuracy.agreement, "mcnemar_p": accuracy.p_value}
        values["images"] = accuracy.images
    if entry.limit is not None:
        limit = entry.limit
        values |= {"floor_ms": limit.floor_ms, "bound": limit.bound, "floor_device": limit.device}
        values["floor_multiple"] = limit.multiple if limit.floor_ms else None
    if row.graph is not None:
        values["macs"] = row.graph.macs
    if row.cold is not None:
        values |= {key: getattr(row.cold, key) for key in COLD}
    values |= row_conditions(row)
    if row.memory is not None:
        values["host_mib"] = row.memory.host_added / 2**20
        values["device_mib"] = row.memory.device / 2**20 if row.memory.device is not None else None
    return values


def grouped(rows: Iterable[tuple[str, ProfileRow]]) -> list[tuple[list[str], str, str]]:
    """Rows without a number, or without the accuracy that was requested: the names that share a reason, the status, the reason.

    Args:
        rows: what to call each row, and the row.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, row in rows:
        if row.status != "ok":
            reasons.setdefault((row.status, row.reason), []).append(name)
        elif row.accuracy_missing:
            reasons.setdefault(("no top-1", row.accuracy_missing), []).append(name)
    return [(names, status, reason) for (status, reason), names in reasons.items()]


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def mean_text(mean: MeanSpeedup, machine: bool = False) -> str:
    """A geometric mean in one sentence."""
    where = f"{mean.machine}: " if machine else ""
    size = f", {mean.size[0]}x{mean.size[1]}" if mean.size else ""
    interval = (
        f" ({mean.interval.low:.2f} - {mean.interval.high:.2f})" if mean.interval else " (too few for an interval)"
    )
    rest = mean.models - mean.faster - mean.slower
    return (
        f"{where}{mean.runtime} {mean.precision}, batch {mean.batch}{size}: {mean.mean:.2f}x{interval} {mean.baseline} in the "
        f"geometric mean over {mean.models} models; {mean.faster} faster, {mean.slower} slower, {rest} undecided or equal"
    )


def milliseconds(value: float | None) -> str:
    """Three significant digits, without an exponent; empty for None."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def times(value: float) -> str:
    """A ratio with the digits that mean something: 1.53, 12.5, 329."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def cell_text(key: str, values: Mapping[str, Any]) -> str:
    """A cell of a table for people."""
    value = values[key]
    if value is None or value == "":
        return ""
    if key == "speedup":
        return f"{times(value)}x ({times(values['speedup_low'])} - {times(values['speedup_high'])})"
    if key in ("top1", "agreement"):
        return f"{100 * value:.2f} %"
    if key == "provider":
        return str(value).removesuffix("ExecutionProvider")
    if key == "floor_multiple":
        return f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"
    if key in ("items_per_second", "samples", "images", "macs"):
        return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
    if key in ("max_abs_error", "mcnemar_p"):
        return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"
    if key in COLD:
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    if key.endswith("_mib"):
        return f"{value:,.0f}"
    return milliseconds(value) if isinstance(value, float) else str(value)


def used(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Those of the columns in which a row has something."""
    return [k for k in keys if any(r[k] not in (None, "", False) for r in rows)]
