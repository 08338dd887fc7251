"""Records as rich renderables for a terminal. Formatting only: whatever is computed, the record computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.comparison.speed_of_light import SpeedOfLight, row_limits
from attn_deploy.machine.environment import Environment
from attn_deploy.report.profile.conditions import cold_text
from attn_deploy.report.profile.rows import first_of, grouped
from attn_deploy.report.text import file_words

_MARKS = {"ok": "green", "invalid": "red", "failed": "red"}
_STATES = {"ok": "green", "missing": "dim", "warning": "yellow", "broken": "red"}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the profile table; those of higher ``rank`` are left out first where the terminal is narrow."""

    title: str
    cells: list[str]
    rank: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        """Characters, with the padding and the rule."""
        return max(len(line) for text in (self.title, *self.cells) for line in text.split("\n")) + 3


def profile_report(record: ProfileRecord, width: int = 160) -> RenderableType:
    """The table of a profile with its caption; columns that do not fit into ``width`` are left out and named."""
    columns = _columns(record)
    dropped: list[str] = []
    while sum(c.width for c in columns) + 1 > width and any(c.rank for c in columns):
        last = max(columns, key=lambda c: c.rank)
        columns.remove(last)
        dropped.append(last.title.replace("\n", " "))
    table = Table(title=Text(record.name, style="bold"), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="left" if column.left else "right", no_wrap=True)
    for index, row in enumerate(record.rows):
        style = "" if row.status == "ok" else _MARKS[row.status]
        table.add_row(*(c.cells[index] for c in columns), style=style)
    parts: list[RenderableType] = [table]
    parts += [Text(line, style="red") for line in _problems(record.rows)]
    parts += [Text(line, style="yellow") for line in _doubts(record)]
    parts += [Text(line, style="dim") for line in _caption(record, dropped)]
    return Group(*parts)


def _columns(record: ProfileRecord) -> list[_Column]:
    rows, options = record.rows, record.options
    several = len({r.batch for r in rows}) > 1
    precisions, sizes = {r.precision for r in rows}, {r.size for r in rows}
    columns = [
        _Column("runtime", [r.runtime for r in rows], left=True),
        _Column("provider", [_provider(r) for r in rows], rank=3, left=True),
        _Column("precision", [_precision(r) for r in rows], rank=0 if len(precisions) > 1 else 5, left=True),
        _Column("threads", [str(r.info.threads or "") if r.info else "" for r in rows], rank=6),
        _Column("batch", [str(r.batch) for r in rows], rank=0 if several else 7),
        _Column("size", ["x".join(map(str, r.size or ())) for r in rows], rank=0 if len(sizes) > 1 else 9),
        _Column("p50 ms", [_time(r, 50) for r in rows]),
        _Column(f"{options.confidence:.0%} interval", [_median_interval(r, record) for r in rows], rank=2),
        _Column("p90 ms", [_time(r, 90) for r in rows], rank=4),
        _Column("p95 ms", [_time(r, 95) for r in rows], rank=6),
        _Column("p99 ms", [_time(r, 99) for r in rows]),
        _Column("IQR ms", [_ms(r.latency.iqr_ms) if r.latency else "" for r in rows], rank=8),
        _Column("items/s", [_count(r.latency.throughput(r.batch)) if r.latency else "" for r in rows], rank=1),
    ]
    if any(r.speedup for r in rows):
        columns.append(_Column(f"vs {record.baseline}", [_speedup(r, record) for r in rows]))
    if any(r.device_time for r in rows):
        columns.append(_Column("device ms", [_ms(r.device_time.p50_ms) if r.device_time else "" for r in rows], rank=1))
    columns.append(_Column("end to end ms", [_ms(r.end_to_end.p50_ms) if r.end_to_end else "" for r in rows], rank=10))
    if any(r.memory for r in rows):
        columns.append(_Column("peak MiB", [_memory(r) for r in rows], rank=3))
    if any(r.accuracy for r in rows):
        columns.append(_Column("top-1", [f"{r.accuracy.top1:.2%}" if r.accuracy else "" for r in rows]))
        columns.append(_Column("vs reference", [_agreement(r) for r in rows], rank=2))
    limits = row_limits(record)
    if limits:
        columns.append(_Column("x floor", [_floor(limits.get(r.key)) for r in rows], rank=3))
    columns.append(_Column("max error", [_error(r) for r in rows], rank=1))
    columns.append(_Column("verdict", [_verdict(r) for r in rows], left=True))
    return columns


def _precision(row: ProfileRow) -> str:
    """What was found, or what was asked where nothing ran."""
    return row.info.precision if row.info else row.precision


def _memory(row: ProfileRow) -> str:
    if row.memory is None:
        return ""
    device = f" + {row.memory.device / 2**20:,.0f} GPU" if row.memory.device else ""
    return f"{row.memory.host / 2**20:,.0f}{device}"


def _agreement(row: ProfileRow) -> str:
    found = row.accuracy
    if found is None or found.agreement is None or found.p_value is None:
        return ""
    return f"{found.agreement:.2%} same, p {found.p_value:.2g}"


def _provider(row: ProfileRow) -> str:
    return row.info.provider.removesuffix("ExecutionProvider") if row.info else ""


def _time(row: ProfileRow, q: int) -> str:
    if row.latency is None:
        return ""
    return _ms(row.latency.percentile_ms(q)) if row.latency.resolves(q) else "-"


def _median_interval(row: ProfileRow, record: ProfileRecord) -> str:
    if row.latency is None:
        return ""
    found = row.latency.median_interval_ms(record.options.confidence, record.options.seed)
    return f"{_ms(found.low)} - {_ms(found.high)}"


def _speedup(row: ProfileRow, record: ProfileRecord) -> str:
    if row.speedup is None:
        return "1" if row.runtime == record.baseline and row.latency is not None else ""
    found = row.speedup
    return f"{found.speedup:.2f}x ({found.interval.low:.2f} - {found.interval.high:.2f})"


def _floor(limit: SpeedOfLight | None) -> str:
    return f"{limit.multiple:.1f} ({limit.bound})" if limit is not None and limit.floor_ms > 0 else ""


def _error(row: ProfileRow) -> str:
    if row.parity is None:
        return ""
    worst = row.parity.max_abs_error
    return f"{worst:.1e}" if worst < float("inf") else "-"


def _verdict(row: ProfileRow) -> str:
    if row.status != "ok":
        return row.status
    verdict = row.speedup.verdict if row.speedup is not None else "ok"
    return f"{verdict}, noisy" if row.noise else verdict


def _problems(rows: Sequence[ProfileRow]) -> list[str]:
    """One line for each reason, with the first row that has it."""
    return [f"{first_of(keys)}: {status}: {reason}" for keys, status, reason in grouped((r.key, r) for r in rows)]


def _doubts(record: ProfileRecord) -> list[str]:
    lines = [f"{r.key}: noisy: {r.noise}." for r in record.rows if r.noise]
    throttled = dict.fromkeys(why for r in record.rows if r.conditions for why in r.conditions.throttled)
    if throttled:
        lines.append(f"The GPU's clocks were held down ({', '.join(throttled)}): times are longer than they can be.")
    if record.unfinished:
        lines.append(f"The run was stopped: {record.unfinished} of its parts are still to be made.")
    threads, cores = record.options.threads or 0, record.environment.usable_cores
    if threads > cores:
        lines.append(
            f"{threads} threads shared {cores} core{'s' if cores > 1 else ''}: the times are those of waiting for each other."
        )
    if record.environment.busy:
        lines.append(
            f"The machine was busy when this began (load {record.environment.load_average:g} on "
            f"{record.environment.usable_cores} cores): believe the intervals, not the digits."
        )
    return lines


def _caption(record: ProfileRecord, dropped: Sequence[str]) -> list[str]:
    lines = [f"Machine: {machine(record.environment)}."]
    versions = dict.fromkeys(r.info.version for r in record.rows if r.info)
    packages = record.environment.packages
    lines.append(
        f"Software: {', '.join(versions) or 'none ran'}; {record.environment.python}, {record.environment.os}."
    )
    shapes = dict.fromkeys(
        ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in row.shapes.items()) for row in record.rows
    )
    kinds = dict.fromkeys(r.info.precision for r in record.rows if r.info)
    timed = [r.latency for r in record.rows if r.latency]
    counts = f"{min(t.n for t in timed)} to {max(t.n for t in timed)} samples a row, " if timed else ""
    lines.append(
        f"Input: {'; '.join(shapes)}; {', '.join(kinds)}; {_threads(record)}. {counts}"
        f"{record.options.rounds} interleaved rounds, seed {record.options.seed}."
    )
    grouped = max((t.calls_per_sample for t in timed), default=1)
    if grouped > 1:
        lines.append(
            f"Runs are so short that a sample is the mean of up to {grouped} of them; percentiles are of means."
        )
    for file in record.onnx:
        fused = f", fused ({'; '.join(file['fused'])})" if file["fused"] else ""
        lines.append(f"{file_words(file)}, {file['made']}{fused}.")
    if any(r.status == "ok" and r.parity is None and r.runtime != record.baseline for r in record.rows):
        lines.append("Outputs were not compared: there is no eager model to compare with.")
    if any(r.parity for r in record.rows):
        report = next(r.parity for r in record.rows if r.parity)
        lines.append(
            f"Max error is against {report.reference} at these shapes; allowed: rtol {report.rtol:g}, "
            f"atol {report.atol:g} * max(1, max|y|)."
        )
    cold = cold_text(record)
    lines += [cold] if cold else []
    tested = next((r.accuracy for r in record.rows if r.accuracy), None)
    if tested:
        lines.append(
            f"Top-1 on {tested.images} images of {tested.dataset} ({tested.split}, sha256 {tested.sha256[:12]})."
        )
    floors = dict.fromkeys(x.device for x in row_limits(record).values())
    if floors:
        lines.append(
            f"The floor is the least time that {', '.join(floors)} needs for the arithmetic and for moving inputs, outputs and "
            "weights once."
        )
    if dropped:
        lines.append(f"Left out for the width of the terminal: {', '.join(reversed(dropped))}.")
    if "attn-deploy" in packages:
        lines.append(f"attn-deploy {packages['attn-deploy']}, {record.created}.")
    return lines


def _threads(record: ProfileRecord) -> str:
    count = record.options.threads
    return f"{count} thread{'' if count == 1 else 's'}"


def machine(environment: Environment) -> str:
    """The machine in one line."""
    parts = [f"{environment.cpu}, {environment.usable_cores} of {environment.cores} cores"]
    strongest = [f for f in environment.isa if f.startswith(("avx", "amx", "asimd", "sve"))]
    if strongest:
        parts.append(" ".join(strongest))
    if environment.load_average is not None:
        parts.append(f"load {environment.load_average:g}")
    parts += [f"{g.name} (driver {g.driver})" for g in environment.gpus]
    return "; ".join(parts)


def _ms(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
