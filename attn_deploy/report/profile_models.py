"""Many models at a glance: one line for each, its baseline's time and the speed-up of everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from attn_deploy.bench.overview import Entry, Overview
from attn_deploy.report.profile_conditions import conditions_text
from attn_deploy.report.profile_rows import first_of, flat_rows, grouped, milliseconds, told, used
from attn_deploy.report.terminal import machine

FEW = "too few"  # models for an interval
_EVERY = (
    "machine", "model", "runtime", "precision", "batch", "size", "p50_ms", "p95_ms", "p99_ms", "speedup", "top1",
    "floor_multiple", "host_mib", "max_abs_error", "build_seconds", "load_seconds", "first_run_seconds",
)  # fmt: skip
_TITLES = {"p50_ms": "p50 ms", "p95_ms": "p95 ms", "p99_ms": "p99 ms", "speedup": "speed-up", "top1": "top-1"}
_TITLES |= {"floor_multiple": "times the floor", "host_mib": "MiB added", "max_abs_error": "max error"}
_TITLES |= {"build_seconds": "build s", "load_seconds": "load s", "first_run_seconds": "first run s"}


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


def models_markdown(found: Overview) -> str:
    """The means with their intervals, one line for each model, and every row folded away."""
    several = len(found.machines) > 1
    lines = [f"# Profiles of {len({r.record.name for r in found.runs})} models", ""]
    baselines = ", ".join(dict.fromkeys(r.record.baseline for r in found.runs if r.record.baseline))
    lines += [f"Speed-ups are against {baselines}: above 1 is faster.", ""] if baselines else []
    if found.means:
        names = ["machine"] * several + ["runtime", "precision", "batch"]
        names += ["geometric mean", "95 % interval", "models", "faster", "slower"]
        sizes = len({m.size for m in found.means}) > 1
        names += ["size"] * sizes
        lines += ["## Over all models", "", *_rows([names])[:1], "|" + "---|" * len(names)]
        for mean in found.means:
            cells = [mean.machine] * several + [mean.runtime, mean.precision, str(mean.batch), f"{mean.mean:.2f}x"]
            cells += [f"{mean.interval.low:.2f} - {mean.interval.high:.2f}" if mean.interval else FEW]
            cells += [str(mean.models), str(mean.faster), str(mean.slower)]
            cells += ["x".join(map(str, mean.size or ()))] * sizes
            lines += _rows([cells])
        lines.append("")
    made = model_lines(found)
    for name in found.machines:
        mine = [line for line in made if line.machine == name]
        lines += [f"## Each model{f' on {name}' if several else ''}", "", *_table(mine), ""]
    lines += _reasons(found)
    lines += ["<details><summary>Every row</summary>", "", *_every(found), "", "</details>", ""]
    for name in found.machines:
        run = next(r for r in found.runs if r.machine == name)
        dates = sorted(r.record.created for r in found.runs if r.machine == name)
        clocks = conditions_text(run.record)
        lines += [f"{clocks.removesuffix('.')} (of {run.record.name}).", ""] if clocks else []
        lines += [f"{machine(run.record.environment)}. {dates[0]} to {dates[-1]}", ""]
    return "\n".join(lines)


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


def _timed(entry: Entry) -> bool:
    return entry.row.latency is not None and entry.row.speedup is None


def _table(lines: list[ModelLine]) -> list[str]:
    series, sizes = columns(lines), len({line.size for line in lines}) > 1
    batches = len({s.batch for s in series}) > 1
    heads = ["model"] + ["size"] * sizes
    heads += [f"b{s.batch} " * batches + head(s, lines) for s in series]
    made = [[line.model] + [line.size] * sizes + [cell(line.cells.get(s)) for s in series] for line in lines]
    return [*_rows([heads]), "|" + "---|" * (1 + sizes) + "---:|" * len(series), *_rows(made)]


def _reasons(found: Overview) -> list[str]:
    listed = [f"- {who}: {' '.join(why.split())}" for who, why in reasons(found)]
    noisy = [f"- {found.runs[e.run].record.name}: {e.row.key}: {e.row.noise}" for e in found.entries if e.row.noise]
    lines = ["## Without a number", "", *listed, ""] if listed else []
    if noisy:
        lines += [f"<details><summary>{len(noisy)} doubtful medians</summary>", "", *noisy, "", "</details>", ""]
    return lines


def _every(found: Overview) -> list[str]:
    rows = [r for r in flat_rows(found) if r["status"] == "ok"]
    keys = used(rows, _EVERY)
    keys = [k for k in keys if k != "machine" or len(found.machines) > 1]
    heads = [_TITLES.get(k, k) for k in keys]
    return [*_rows([heads]), "|" + "---|" * len(keys), *_rows([[told(k, r) for k in keys] for r in rows])]


def _rows(cells: Iterable[Iterable[str]]) -> list[str]:
    return ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in cells]
