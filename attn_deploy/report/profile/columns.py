"""The columns of a profile's table as data: title, cell, rank, and when a column is there at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.comparison.speed_of_light import SpeedOfLight, row_limits
from attn_deploy.report.profile.rows import milliseconds, times


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the profile table; those of higher ``rank`` are left out first where the terminal is narrow."""

    title: str
    cells: list[str]
    rank: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        """Characters, with the padding and the rule."""
        return max(len(line) for text in (self.title, *self.cells) for line in text.split("\n")) + 3


@dataclass(frozen=True, slots=True)
class _Table:
    """What the cells of a table depend on beside their row."""

    record: ProfileRecord
    limits: Mapping[str, SpeedOfLight]

    def varies(self, attribute: str) -> bool:
        """Whether the rows differ in an attribute: it then has to be shown."""
        return len({getattr(r, attribute) for r in self.record.rows}) > 1

    def has(self, attribute: str) -> bool:
        """Whether any row has it."""
        return any(getattr(r, attribute) for r in self.record.rows)


Cell = Callable[[ProfileRow, _Table], str]


@dataclass(frozen=True, slots=True)
class _Layout:
    """One column: a title that may hold ``{confidence}`` or ``{baseline}``, what stands in a cell, and its rank.

    Attributes:
        varying: the attribute that raises the column to rank 0 where rows differ in it.
        needs: the attribute that some row must have; empty where the column is always there.
    """

    title: str
    cell: Cell
    rank: int = 0
    left: bool = False
    varying: str = ""
    needs: str = ""


def profile_columns(record: ProfileRecord) -> list[Column]:
    """The columns that a record fills, in order."""
    table = _Table(record, row_limits(record))
    words = {"confidence": f"{record.options.confidence:.0%}", "baseline": record.baseline}
    columns = []
    for layout in _COLUMNS:
        present = not layout.needs or (bool(table.limits) if layout.needs == "limits" else table.has(layout.needs))
        if present:
            rank = 0 if layout.varying and table.varies(layout.varying) else layout.rank
            cells = [layout.cell(row, table) for row in record.rows]
            columns.append(Column(layout.title.format(**words), cells, rank, layout.left))
    return columns


def _precision(row: ProfileRow, _: _Table) -> str:
    """What ran, or what was asked for where nothing ran."""
    return row.info.precision if row.info else row.precision


def _runtime(row: ProfileRow, table: _Table) -> str:
    """The runtime; a captured graph is told apart where both kinds are in the table."""
    return f"{row.runtime} graph" if row.cuda_graph and table.varies("cuda_graph") else row.runtime


def _memory(row: ProfileRow, _: _Table) -> str:
    if row.memory is None:
        return ""
    device = f" + {row.memory.device / 2**20:,.0f} GPU" if row.memory.device else ""
    return f"{row.memory.host / 2**20:,.0f}{device}"


def _agreement(row: ProfileRow, _: _Table) -> str:
    accuracy = row.accuracy
    if accuracy is None or accuracy.agreement is None or accuracy.p_value is None:
        return ""
    return f"{accuracy.agreement:.2%} same, p {accuracy.p_value:.2g}"


def _provider(row: ProfileRow, _: _Table) -> str:
    return row.info.provider.removesuffix("ExecutionProvider") if row.info else ""


def _percentile(q: int) -> Cell:
    def cell(row: ProfileRow, _: _Table) -> str:
        if row.latency is None:
            return ""
        return milliseconds(row.latency.percentile_ms(q)) if row.latency.resolves(q) else "-"

    return cell


def _median_interval(row: ProfileRow, table: _Table) -> str:
    if row.latency is None:
        return ""
    interval = row.latency.median_interval_ms(table.record.options.confidence, table.record.options.seed)
    return f"{milliseconds(interval.low)} - {milliseconds(interval.high)}"


def _iqr(row: ProfileRow, _: _Table) -> str:
    return milliseconds(row.latency.iqr_ms) if row.latency else ""


def _throughput(row: ProfileRow, _: _Table) -> str:
    if row.latency is None:
        return ""
    value = row.latency.throughput(row.batch)
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _speedup(row: ProfileRow, table: _Table) -> str:
    if row.speedup is None:
        return "1" if row.runtime == table.record.baseline and row.latency is not None else ""
    interval = row.speedup.interval
    return f"{times(row.speedup.speedup)}x ({times(interval.low)} - {times(interval.high)})"


def _floor(row: ProfileRow, table: _Table) -> str:
    limit = table.limits.get(row.key)
    return f"{limit.multiple:.1f} ({limit.bound})" if limit is not None and limit.floor_ms > 0 else ""


def _error(row: ProfileRow, _: _Table) -> str:
    if row.parity is None:
        return ""
    worst = row.parity.max_abs_error
    return f"{worst:.1e}" if worst < float("inf") else "-"


def _verdict(row: ProfileRow, _: _Table) -> str:
    if row.status != "ok":
        return row.status
    verdict = row.speedup.verdict if row.speedup is not None else "ok"
    return f"{verdict}, noisy" if row.noise else verdict


_COLUMNS = (
    _Layout("runtime", _runtime, left=True),
    _Layout("provider", _provider, rank=3, left=True),
    _Layout("precision", _precision, rank=5, left=True, varying="precision"),
    _Layout("threads", lambda r, _: str(r.info.threads or "") if r.info else "", rank=6),
    _Layout("batch", lambda r, _: str(r.batch), rank=7, varying="batch"),
    _Layout("size", lambda r, _: "x".join(map(str, r.size or ())), rank=9, varying="size"),
    _Layout("p50 ms", _percentile(50)),
    _Layout("{confidence} interval", _median_interval, rank=2),
    _Layout("p90 ms", _percentile(90), rank=4),
    _Layout("p95 ms", _percentile(95), rank=6),
    _Layout("p99 ms", _percentile(99)),
    _Layout("IQR ms", _iqr, rank=8),
    _Layout("items/s", _throughput, rank=1),
    _Layout("vs {baseline}", _speedup, needs="speedup"),
    _Layout(
        "device ms",
        lambda r, _: milliseconds(r.device_time.p50_ms) if r.device_time else "",
        rank=1,
        needs="device_time",
    ),
    _Layout("end to end ms", lambda r, _: milliseconds(r.end_to_end.p50_ms) if r.end_to_end else "", rank=10),
    _Layout("peak MiB", _memory, rank=3, needs="memory"),
    _Layout("top-1", lambda r, _: f"{r.accuracy.top1:.2%}" if r.accuracy else "", needs="accuracy"),
    _Layout("vs reference", _agreement, rank=2, needs="accuracy"),
    _Layout("x floor", _floor, rank=3, needs="limits"),
    _Layout("max error", _error, rank=1),
    _Layout("verdict", _verdict, left=True),
)
