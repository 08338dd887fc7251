"""What `attn-deploy doctor` prints."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attn_deploy.machine.doctor import DoctorReport
from attn_deploy.report.profile.caption import machine

_STATES = {"ok": "green", "missing": "dim", "warning": "yellow", "broken": "red"}


def doctor_report(report: DoctorReport, width: int = 160) -> RenderableType:
    """What is installed, and what to do about what is not."""
    table = Table(header_style="bold")
    for title in ("", "state", "found", "detail"):
        table.add_column(title, overflow="fold")
    for check in report.checks:
        table.add_row(check.name, Text(check.state, style=_STATES[check.state]), check.found, check.detail)
    parts: list[RenderableType] = [Text(f"Machine: {machine(report.environment)}.", style="dim"), table]
    for check in report.checks:
        if check.remedy:
            parts.append(Text(f"{check.name}: {check.remedy}", style=_STATES[check.state]))
    broken = [c.name for c in report.checks if c.state == "broken"]
    verdict = f"Broken: {', '.join(broken)}." if broken else "Nothing that is installed is broken."
    parts.append(Text(verdict, style="bold red" if broken else "bold green"))
    return Group(*parts)
