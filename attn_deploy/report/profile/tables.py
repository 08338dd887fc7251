"""Profiles as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

from attn_deploy.comparison.overview import Overview
from attn_deploy.report.markdown import inline, row
from attn_deploy.report.profile.caption import machine
from attn_deploy.report.profile.conditions import cold_text, conditions_text
from attn_deploy.report.profile.machines import side_by_side
from attn_deploy.report.profile.models_markdown import models_markdown
from attn_deploy.report.profile.rows import COLUMNS, cell_text, first_of, flat_rows, grouped, mean_text, used

SCHEMA_VERSION = 1
TABLE = (
    "runtime", "precision", "batch", "size", "p50_ms", "p95_ms", "p99_ms", "items_per_second", "speedup", "top1",
    "floor_multiple", "bound", "host_mib", "max_abs_error",
)  # fmt: skip
TITLES = {
    "runtime": "runtime",
    "precision": "precision",
    "batch": "batch",
    "size": "size",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "items_per_second": "items/s",
    "speedup": "speed-up",
    "top1": "top-1",
    "floor_multiple": "times the floor",
    "bound": "bound by",
    "host_mib": "MiB added",
    "max_abs_error": "max error",
}


def profile_csv(report: Overview) -> str:
    """One line for each row, every column of `COLUMNS`; numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    for values in flat_rows(report, intervals=True):
        writer.writerow({k: "" if v is None else v for k, v in values.items()})
    return text.getvalue()


def profile_json(report: Overview) -> str:
    """The rows without their samples, the means over models, and the machines."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "kind": "profile report",
        "columns": COLUMNS,
        "rows": flat_rows(report, intervals=True),
        "means": [asdict(m) for m in report.means],
        "environments": {r.label: r.record.environment.to_dict() for r in report.runs},
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def profile_markdown(report: Overview) -> str:
    """A table for each run, the means over models, and what has no number; of many runs a line for each model."""
    if report.many:
        return models_markdown(report)
    several = len({r.machine for r in report.runs}) > 1
    lines = ["# Profiles", ""]
    if report.means:
        lines += [*(f"- {inline(mean_text(m, several))}." for m in report.means), ""]
    beside = side_by_side(report)
    if beside is not None:
        heads, cells = beside
        lines += [
            "## Side by side",
            "",
            "Medians, and in brackets how many times as fast as the machine's own baseline.",
            "",
        ]
        lines += [row(heads), "|" + "---|" * len(heads), *map(row, cells), ""]
    rows = flat_rows(report)
    for index, run in enumerate(report.runs):
        mine = [r for r, e in zip(rows, report.entries, strict=True) if e.run == index]
        lines += [f"## {inline(run.label)}", ""]
        timed = [r for r in mine if r["status"] == "ok"]
        columns = used(timed, TABLE)
        if timed:
            heads = [
                f"against {run.record.baseline}" if c == "speedup" and run.record.baseline else TITLES[c]
                for c in columns
            ]
            lines += [row(heads), "|" + "---|" * len(columns)]
            lines += [row(cell_text(c, r) for c in columns) for r in timed]
            lines.append("")
        without = grouped((e.row.key, e.row) for e in report.of(index))
        lines += [f"- {inline(f'{first_of(names)}: {status}: {reason}')}" for names, status, reason in without]
        lines += [f"- {inline(f'{e.row.key}: noisy: {e.row.noise}')}" for e in report.of(index) if e.row.noise]
        if lines[-1]:
            lines.append("")
        for told_once in (cold_text(run.record), conditions_text(run.record)):
            lines += [inline(told_once), ""] if told_once else []
        lines += [inline(f"{machine(run.record.environment)}. {run.record.created}"), ""]
    return "\n".join(lines)
