"""The matrix in a terminal: a progress bar while it runs, and a summary that fits a screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attn_deploy.matrix.cell import FAILED, Cell, CellId
from attn_deploy.matrix.record import MatrixRecord
from attn_deploy.matrix.summary import Tally, cell_groups, exporters_of, opsets_of, tally, unmade_checks
from attn_deploy.report.console import PlainConsole

MOST_FINDINGS = 40


def matrix_summary(record: MatrixRecord) -> RenderableType:
    """Counts by exporter and opset, then every reason for a red or grey cell."""
    parts: list[RenderableType] = [_grid(record), Text(headline(record), style="bold")]
    for title, cells, style in (("Red", record.failures, "red"), ("Grey", record.skipped, "bright_black")):
        groups = cell_groups(cells)
        for finding in groups[:MOST_FINDINGS]:
            check = f"[{finding.check}] " if finding.check else ""
            rule = f" (rule {finding.rule})" if finding.rule else ""
            line = Text(f"{title}: {finding.model}, {finding.where}: ", style=style)
            parts.append(line.append(f"{check}{finding.reason}{rule}", style="default"))
        if len(groups) > MOST_FINDINGS:
            parts.append(Text(f"... and {len(groups) - MOST_FINDINGS} more; the report files have all.", style=style))
    for (check, reason), count in unmade_checks(record).items():
        parts.append(Text(f"Not checked in {count} cells: {check}: {reason}", style="yellow"))
    return Group(*parts)


def headline(record: MatrixRecord) -> str:
    """One line with the counts and the time."""
    counts, total = record.counts, len(record.cells)
    text = f"{total} cells: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} not applicable"
    fresh = total - record.reused - counts["skipped"]
    text += f"; {fresh} made in {_duration(record.seconds)} by {record.jobs} " + ("job" if record.jobs == 1 else "jobs")
    if record.reused:
        text += f", {record.reused} taken over"
    if record.shard[1] > 1:
        text += f"; shard {record.shard[0]}/{record.shard[1]}"
    if record.lacks:
        text += f"; not whole, without {'; '.join(record.lacks)}"
    return text + ("; interrupted." if record.interrupted else ".")


def _grid(record: MatrixRecord) -> Table:
    table = Table(title="Compatibility matrix", title_justify="left", header_style="bold")
    table.add_column("opset", justify="right")
    exporters = exporters_of(record)
    for exporter in exporters:
        table.add_column(exporter, justify="right")
    for opset in opsets_of(record):
        row = [
            _shares(tally(c for c in record.cells if c.id.opset == opset and c.id.exporter == exporter))
            for exporter in exporters
        ]
        table.add_row(str(opset), *row)
    return table


def _shares(counted: Tally) -> Text:
    text = Text(f"{counted.passed} of {counted.total}", style="red" if counted.failed else "green")
    if counted.failed:
        text.append(f", {counted.failed} failed")
    if counted.skipped:
        text.append(f", {counted.skipped} n/a", style="bright_black")
    return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class Watch:
    """What the run tells while it goes on."""

    on_plan: Callable[[int, int], None]
    on_cell: Callable[[Cell], None]
    on_start: Callable[[CellId], None]


@contextlib.contextmanager
def watch_matrix() -> Iterator[Watch]:
    """A live bar on standard error, with red cells above it; red cells alone where there is no terminal."""
    console = PlainConsole(stderr=True, highlight=False)
    live = console.is_terminal
    progress = Progress(
        TextColumn("matrix"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[red]}", style="red"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}", style="bright_black"),
        console=console,
        disable=not live,
        transient=True,
    )
    bar = progress.add_task("matrix", total=None, red="", now="")
    red = 0

    def on_plan(total: int, done: int) -> None:
        progress.update(bar, total=total, completed=done)

    def on_cell(cell: Cell) -> None:
        nonlocal red
        if cell.status == FAILED:
            red += 1
            progress.console.print(Text(f"failed  {cell.id}: [{cell.failed_check}] {cell.reason}", style="red"))
        progress.update(bar, advance=1, red=f"{red} red" if red else "")

    def on_start(cell: CellId) -> None:
        progress.update(bar, now=f"{cell.model} {cell.exporter} {cell.opset}")

    with progress:
        yield Watch(on_plan, on_cell, on_start)
