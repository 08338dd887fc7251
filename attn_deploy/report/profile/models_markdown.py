"""Many models as Markdown: the means, a line for each model, and every row folded away."""

from __future__ import annotations

from collections.abc import Iterable

from attn_deploy.comparison.overview import Overview
from attn_deploy.report.markdown import inline, row
from attn_deploy.report.profile.caption import machine
from attn_deploy.report.profile.conditions import conditions_text
from attn_deploy.report.profile.models import FEW, ModelLine, model_cells, model_lines, reasons
from attn_deploy.report.profile.rows import cell_text, flat_rows, used

_EVERY = (
    "machine", "model", "runtime", "precision", "batch", "size", "p50_ms", "p95_ms", "p99_ms", "speedup", "top1",
    "floor_multiple", "host_mib", "max_abs_error", "build_seconds", "load_seconds", "first_run_seconds",
)  # fmt: skip
_TITLES = {"p50_ms": "p50 ms", "p95_ms": "p95 ms", "p99_ms": "p99 ms", "speedup": "speed-up", "top1": "top-1"}
_TITLES |= {"floor_multiple": "times the floor", "host_mib": "MiB added", "max_abs_error": "max error"}
_TITLES |= {"build_seconds": "build s", "load_seconds": "load s", "first_run_seconds": "first run s"}


def models_markdown(report: Overview) -> str:
    """The means with their intervals, one line for each model, and every row folded away."""
    several = len(report.machines) > 1
    lines = [f"# Profiles of {len({r.record.name for r in report.runs})} models", ""]
    baselines = ", ".join(dict.fromkeys(r.record.baseline for r in report.runs if r.record.baseline))
    lines += [f"Speed-ups are against {inline(baselines)}: above 1 is faster.", ""] if baselines else []
    if report.means:
        names = ["machine"] * several + ["runtime", "precision", "batch"]
        names += ["geometric mean", "95 % interval", "models", "faster", "slower"]
        sizes = len({m.size for m in report.means}) > 1
        names += ["size"] * sizes
        lines += ["## Over all models", "", *_rows([names])[:1], "|" + "---|" * len(names)]
        for mean in report.means:
            cells = [mean.machine] * several + [mean.runtime, mean.precision, str(mean.batch), f"{mean.mean:.2f}x"]
            cells += [f"{mean.interval.low:.2f} - {mean.interval.high:.2f}" if mean.interval else FEW]
            cells += [str(mean.models), str(mean.faster), str(mean.slower)]
            cells += ["x".join(map(str, mean.size or ()))] * sizes
            lines += _rows([cells])
        lines.append("")
    made = model_lines(report)
    for name in report.machines:
        mine = [line for line in made if line.machine == name]
        lines += [f"## Each model{f' on {inline(name)}' if several else ''}", "", *_table(mine), ""]
    lines += _reasons(report)
    lines += ["<details><summary>Every row</summary>", "", *_every(report), "", "</details>", ""]
    for name in report.machines:
        records = [r.record for r in report.runs if r.machine == name]
        dates = sorted(r.created for r in records)
        clocks = conditions_text(*records)
        lines += [inline(clocks), ""] if clocks else []
        lines += [inline(f"{machine(records[0].environment)}. {dates[0]} to {dates[-1]}"), ""]
    return "\n".join(lines)


def _table(lines: list[ModelLine]) -> list[str]:
    heads, cells = model_cells(lines)
    words = heads.index(next(h for h in heads if h not in ("model", "size")))
    return [*_rows([heads]), "|" + "---|" * words + "---:|" * (len(heads) - words), *_rows(cells)]


def _reasons(report: Overview) -> list[str]:
    listed = [f"- {inline(f'{who}: {why}')}" for who, why in reasons(report)]
    noisy = [
        f"- {inline(f'{report.runs[e.run].record.name}: {e.row.key}: {e.row.noise}')}"
        for e in report.entries
        if e.row.noise
    ]
    lines = ["## Without a number", "", *listed, ""] if listed else []
    if noisy:
        lines += [f"<details><summary>{len(noisy)} doubtful medians</summary>", "", *noisy, "", "</details>", ""]
    return lines


def _every(report: Overview) -> list[str]:
    rows = [r for r in flat_rows(report) if r["status"] == "ok"]
    keys = used(rows, _EVERY)
    keys = [k for k in keys if k != "machine" or len(report.machines) > 1]
    heads = [_TITLES.get(k, k) for k in keys]
    return [*_rows([heads]), "|" + "---|" * len(keys), *_rows([[cell_text(k, r) for k in keys] for r in rows])]


def _rows(cells: Iterable[Iterable[str]]) -> list[str]:
    return [row(line) for line in cells]
