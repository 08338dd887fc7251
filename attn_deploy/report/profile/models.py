"""Many models at a glance: one line for each, its baseline's time and the speed-up of everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from attn_deploy.bench.row import ProfileRow
from attn_deploy.comparison.digest import DigestRow
from attn_deploy.comparison.overview import Overview
from attn_deploy.report.profile.rows import first_of, grouped, milliseconds, times

FEW = "too few"  # models for an interval


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """What is compared over models: one column."""

    batch: int
    runtime: str
    precision: str
    cuda_graph: bool

    @property
    def words(self) -> str:
        """Without the batch."""
        return f"{self.runtime} {self.precision}" + " graph" * self.cuda_graph


@dataclass(frozen=True, slots=True)
class TableCell:
    """What one model gave in one series; ``low`` and ``high`` bound the speed-up."""

    status: str
    p50_ms: float | None
    speedup: float | None = None
    low: float = 0.0
    high: float = 0.0
    verdict: str = ""

    @property
    def value(self) -> float | None:
        """The number that is shown: the speed-up, or the time of what has none to be compared with."""
        return self.speedup if self.speedup is not None else self.p50_ms

    @property
    def text(self) -> str:
        """The value in words, or why there is none."""
        if self.speedup is not None:
            return f"{times(self.speedup)}x"
        return milliseconds(self.p50_ms) if self.p50_ms is not None else self.status


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model at one size on one machine; ``run`` is the number of its record."""

    run: int
    model: str
    machine: str
    size: str
    cells: Mapping[Series, TableCell]


def model_lines(report: Overview) -> list[ModelLine]:
    """The models in order of the runs, each size of one on a line of its own."""
    lines = []
    for index, run in enumerate(report.runs):
        sizes: dict[str, dict[Series, TableCell]] = {}
        for entry in report.of(index):
            row = entry.row
            size = f"{row.size[0]}x{row.size[1]}" if row.size else ""
            sizes.setdefault(size, {})[Series(row.batch, row.runtime, row.precision, row.cuda_graph)] = _cell(row)
        lines += [ModelLine(index, run.record.name, run.machine, s, c) for s, c in sizes.items()]
    return lines


def digest_lines(rows: Iterable[DigestRow]) -> list[ModelLine]:
    """The same of a digest's rows."""
    lines: dict[tuple[str, str, str], dict[Series, TableCell]] = {}
    for row in rows:
        cell = TableCell(row.status, row.p50_ms)
        if row.speedup is not None and row.speedup_low is not None and row.speedup_high is not None:
            cell = TableCell(row.status, row.p50_ms, row.speedup, row.speedup_low, row.speedup_high, row.verdict)
        series = Series(row.batch, row.runtime, row.precision, row.cuda_graph)
        lines.setdefault((row.model, row.machine, row.size), {})[series] = cell
    return [ModelLine(n, *names, cells) for n, (names, cells) in enumerate(lines.items())]


def columns(lines: Iterable[ModelLine]) -> list[Series]:
    """What the models were measured with, by batch, the rest in the order in which it was asked for."""
    seen = dict.fromkeys(s for line in lines for s in line.cells)
    order = {s: n for n, s in enumerate(seen)}
    return sorted(seen, key=lambda s: (s.batch, order[s]))


def head(series: Series, lines: Iterable[ModelLine]) -> str:
    """The name of a column without its batch."""
    cells = [line.cells[series] for line in lines if series in line.cells]
    times = any(c.p50_ms is not None and c.speedup is None for c in cells)
    return f"{series.words} ms" if times else series.words


def reasons(report: Overview) -> list[tuple[str, str]]:
    """Which rows have no number, and why; one of each reason."""
    named = []
    for entry in report.entries:
        name = report.runs[entry.run].record.name
        # Some reasons begin with the model that they are of, and would be one for each.
        named.append(
            (f"{name}: {entry.row.key}", replace(entry.row, reason=entry.row.reason.removeprefix(f"{name}: ")))
        )
    return [(first_of(names), f"{status}: {reason}") for names, status, reason in grouped(named)]


def model_cells(lines: Sequence[ModelLine]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: the model, its size where they differ, then each column of `columns`."""
    series, sizes = columns(lines), len({line.size for line in lines}) > 1
    batches = len({s.batch for s in series}) > 1
    heads = ["model"] + ["size"] * sizes + [f"b{s.batch} " * batches + head(s, lines) for s in series]
    return heads, [
        [line.model] + [line.size] * sizes + [line.cells[s].text if s in line.cells else "" for s in series]
        for line in lines
    ]


def _cell(row: ProfileRow) -> TableCell:
    if row.latency is None:
        return TableCell(row.status, None)
    if row.speedup is None:
        return TableCell(row.status, row.latency.p50_ms)
    bounds = row.speedup.interval
    return TableCell(row.status, row.latency.p50_ms, row.speedup.speedup, bounds.low, bounds.high, row.speedup.verdict)
