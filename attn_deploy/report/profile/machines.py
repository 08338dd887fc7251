"""One plan on several machines: each row with its median on every one of them, side by side."""

from __future__ import annotations

from attn_deploy.comparison.overview import Entry, Overview
from attn_deploy.report.profile.rows import milliseconds, times


def side_by_side(report: Overview) -> tuple[list[str], list[list[str]]] | None:
    """The heads and the lines of a table: what ran, then its median in milliseconds on each machine.

    None where no row was measured on two machines.
    """
    rows: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in report.entries:
        run = report.runs[entry.run]
        rows.setdefault((run.record.name, entry.row.key), {})[run.machine] = entry
    common = {key: cells for key, cells in rows.items() if len(cells) > 1}
    if not common:
        return None
    machines = list(dict.fromkeys(m for cells in common.values() for m in cells))
    models = len({model for model, _ in common}) > 1
    heads = ["model"] * models + ["row", *(f"{m}, ms" for m in machines)]
    lines = [
        [model] * models + [key, *(_cell(cells.get(m)) for m in machines)] for (model, key), cells in common.items()
    ]
    return heads, lines


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return ""
    row = entry.row
    if row.latency is None:
        return row.status
    speedup = f" ({times(row.speedup.speedup)}x)" if row.speedup is not None else ""
    return milliseconds(row.latency.p50_ms) + speedup
