"""What many records say together: each row's limit, the best trades of accuracy for time, and means over models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_deploy.bench.row import ProfileRow
from attn_deploy.bench.statistics import Interval
from attn_deploy.comparison.collection import Run
from attn_deploy.comparison.speed_of_light import SpeedOfLight, row_limits
from attn_deploy.machine.devices import DeviceProfile

RESAMPLES = 2000
MANY = 16  # runs up to which a report shows each of them at full length


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of one run, with what can only be said beside the others.

    Attributes:
        run: number of the run.
        row: as recorded.
        limit: its speed of light, where graph and device are known.
        on_front: no other row of the same machine and data set is as accurate and faster, or as fast and more accurate.
    """

    run: int
    row: ProfileRow
    limit: SpeedOfLight | None
    on_front: bool = False


@dataclass(frozen=True, slots=True)
class MeanSpeedup:
    """The geometric mean of a runtime's speed-up over models.

    Attributes:
        machine, runtime, precision, batch, size: of the rows that it is over; ``baseline`` what they are compared with.
            The size is None where each model was measured at one of its own.
        models: how many; ``faster`` and ``slower`` those of which that is beyond doubt.
        mean: the geometric mean; above 1 the runtime is faster.
        interval: by drawing models with replacement; None with fewer than three.
    """

    machine: str
    runtime: str
    precision: str
    batch: int
    size: tuple[int, int] | None
    baseline: str
    models: int
    faster: int
    slower: int
    mean: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Runs with what they say together."""

    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]
    means: tuple[MeanSpeedup, ...]

    @property
    def many(self) -> bool:
        """Whether there are so many runs that a report is an overview of models, with their details on request."""
        return len(self.runs) > MANY

    @property
    def machines(self) -> tuple[str, ...]:
        """What was measured on, each once."""
        return tuple(dict.fromkeys(r.machine for r in self.runs))

    def of(self, run: int) -> tuple[Entry, ...]:
        """The entries of one run."""
        return tuple(e for e in self.entries if e.run == run)


def overview(runs: Sequence[Run], device: DeviceProfile | None = None) -> Overview:
    """Look at runs together.

    Args:
        runs: in the order in which they are shown.
        device: whose limits the rows are put against; by default the one that each record names, or that fits its
            environment.
    """
    limits = [row_limits(r.record, device) for r in runs]
    rows = [(i, row) for i, run in enumerate(runs) for row in run.record.rows]
    front = _front(runs, rows)
    entries = tuple(Entry(i, row, limits[i].get(row.key), n in front) for n, (i, row) in enumerate(rows))
    return Overview(tuple(runs), entries, _means(runs))


def _front(runs: Sequence[Run], rows: Sequence[tuple[int, ProfileRow]]) -> set[int]:
    """Numbers of the rows on the front of accuracy and time per image, for each machine and data set."""
    groups: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for n, (i, row) in enumerate(rows):
        if row.latency is not None and row.accuracy is not None:
            key = (runs[i].machine, row.accuracy.sha256)
            groups.setdefault(key, []).append((n, row.latency.p50_ms / row.batch, row.accuracy.top1))
    return {
        n
        for group in groups.values()
        for n, time, top1 in group
        if not any((t <= time and a >= top1) and (t < time or a > top1) for _, t, a in group)
    }


def _means(runs: Sequence[Run]) -> tuple[MeanSpeedup, ...]:
    groups: dict[tuple[str, str, str, int, tuple[int, int] | None, str], list[ProfileRow]] = {}
    # A model that takes no other size than its own counts beside the others; of one with several each size is a mean's.
    sizes = [{row.size for row in run.record.rows} for run in runs]
    apart = any(len(s) > 1 for s in sizes) or len(set().union(*sizes)) == 1
    for run in runs:
        for row in run.record.rows:
            if row.speedup is not None and run.record.baseline:
                size = row.size if apart else None
                key = (run.machine, row.runtime, row.precision, row.batch, size, run.record.baseline)
                groups.setdefault(key, []).append(row)
    return tuple(_mean(key, rows) for key, rows in sorted(groups.items(), key=_order) if len(rows) > 1)


def _order(group: tuple[tuple[str, str, str, int, tuple[int, int] | None, str], Any]) -> tuple[Any, ...]:
    machine, runtime, precision, batch, size, baseline = group[0]
    return machine, runtime, precision, size or (0, 0), batch, baseline


def _mean(key: tuple[str, str, str, int, tuple[int, int] | None, str], rows: Sequence[ProfileRow]) -> MeanSpeedup:
    speedups = [r.speedup for r in rows if r.speedup is not None]
    logs = np.array([math.log(s.speedup) for s in speedups])
    interval = None
    if len(speedups) > 2:
        drawn = logs[np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))].mean(axis=1)
        low, high = np.exp(np.percentile(drawn, [2.5, 97.5]))
        interval = Interval(float(low), float(high), 0.95)
    machine, runtime, precision, batch, size, baseline = key
    return MeanSpeedup(
        machine=machine,
        runtime=runtime,
        precision=precision,
        batch=batch,
        size=size,
        baseline=baseline,
        models=len(speedups),
        faster=sum(s.verdict == "faster" for s in speedups),
        slower=sum(s.verdict == "slower" for s in speedups),
        mean=float(np.exp(logs.mean())),
        interval=interval,
    )


def scaling(entries: Sequence[Entry]) -> Mapping[tuple[str, str, str], Sequence[tuple[int, float]]]:
    """Milliseconds per item by batch, for each runtime, precision and size that has several batches."""
    points: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for entry in entries:
        row = entry.row
        if row.latency is not None and not row.cuda_graph:
            size = f"{row.size[0]}x{row.size[1]}" if row.size else ""
            points.setdefault((row.runtime, row.precision, size), []).append(
                (row.batch, row.latency.p50_ms / row.batch)
            )
    return {k: sorted(v) for k, v in points.items() if len({b for b, _ in v}) > 1}
