"""Many models at a glance: one line for each, its baseline's time and the speed-up of everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from attn_deploy.comparison.overview import Entry, Overview
from attn_deploy.report.profile.rows import first_of, grouped, milliseconds

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
class ModelLine:
    """One model at one size on one machine; ``run`` is the number of its record."""

    run: int
    model: str
    machine: str
    size: str
    baseline: str
    cells: Mapping[Series, Entry]


def model_lines(found: Overview) -> list[ModelLine]:
    """The models in order of the runs, each size of one on a line of its own."""
    lines = []
    for index, run in enumerate(found.runs):
        sizes: dict[str, dict[Series, Entry]] = {}
        for entry in found.of(index):
            row = entry.row
            size = f"{row.size[0]}x{row.size[1]}" if row.size else ""
            sizes.setdefault(size, {})[Series(row.batch, row.runtime, row.precision, row.cuda_graph)] = entry
        baseline = run.record.baseline or ""
        lines += [ModelLine(index, run.record.name, run.machine, s, baseline, c) for s, c in sizes.items()]
    return lines


def columns(lines: Iterable[ModelLine]) -> list[Series]:
    """What the models were measured with, by batch, the rest in the order in which it was asked for."""
    seen = dict.fromkeys(s for line in lines for s in line.cells)
    order = {s: n for n, s in enumerate(seen)}
    return sorted(seen, key=lambda s: (s.batch, order[s]))


def head(series: Series, lines: Iterable[ModelLine]) -> str:
    """The name of a column without its batch."""
    times = any(_timed(line.cells[series]) for line in lines if series in line.cells)
    return f"{series.words} ms" if times else series.words


def cell(entry: Entry | None, *, interval: bool = False) -> str:
    """Speed-up, or the time of what has none to be compared with, or why there is neither."""
    if entry is None:
        return ""
    row = entry.row
    if row.latency is None:
        return row.status
    if row.speedup is None:
        return milliseconds(row.latency.p50_ms)
    found = row.speedup
    return f"{found.speedup:.2f}x" + (f" ({found.interval.low:.2f} - {found.interval.high:.2f})" if interval else "")


def value(entry: Entry | None) -> float | None:
    """What `cell` shows as a number."""
    if entry is None or entry.row.latency is None:
        return None
    return entry.row.speedup.speedup if entry.row.speedup is not None else entry.row.latency.p50_ms


def reasons(found: Overview) -> list[tuple[str, str]]:
    """Which rows have no number, and why; one of each reason."""
    named = []
    for entry in found.entries:
        name = found.runs[entry.run].record.name
        # Some reasons begin with the model that they are of, and would be one for each.
        named.append(
            (f"{name}: {entry.row.key}", replace(entry.row, reason=entry.row.reason.removeprefix(f"{name}: ")))
        )
    return [(first_of(names), f"{status}: {reason}") for names, status, reason in grouped(named)]


def table(lines: Sequence[ModelLine]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: the model, its size where they differ, then each column of `columns`."""
    series, sizes = columns(lines), len({line.size for line in lines}) > 1
    batches = len({s.batch for s in series}) > 1
    heads = ["model"] + ["size"] * sizes + [f"b{s.batch} " * batches + head(s, lines) for s in series]
    return heads, [[line.model] + [line.size] * sizes + [cell(line.cells.get(s)) for s in series] for line in lines]


def _timed(entry: Entry) -> bool:
    return entry.row.latency is not None and entry.row.speedup is None
