"""Records as rich renderables for a terminal. Formatting only: whatever is computed, the record computes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.report.profile.caption import caption
from attn_deploy.report.profile.columns import profile_columns
from attn_deploy.report.profile.rows import first_of, grouped

_MARKS = {"ok": "green", "invalid": "red", "failed": "red"}


def profile_report(record: ProfileRecord, width: int = 160) -> RenderableType:
    """The table of a profile with its caption; columns that do not fit into ``width`` are left out and named."""
    columns = profile_columns(record)
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
    parts += [Text(line, style="dim") for line in caption(record, dropped)]
    return Group(*parts)


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
