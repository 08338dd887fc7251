"""Profile reports as files: the suffix says in which form."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

from attn_deploy.comparison.overview import Overview
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import check_writable, write_atomic
from attn_deploy.report.profile.html import profile_html
from attn_deploy.report.profile.tables import profile_csv, profile_json, profile_markdown

FORMS: Mapping[str, Callable[[Overview], str]] = {
    ".html": profile_html,
    ".md": profile_markdown,
    ".csv": profile_csv,
    ".json": profile_json,
}


def check_report(path: Path) -> None:
    """Refuse an output before anything is read.

    Raises:
        InvalidRequestError: if the suffix stands for no form, or the path cannot be written.
    """
    if path.suffix.lower() not in FORMS:
        raise InvalidRequestError(
            f"{path} ends in {path.suffix or 'nothing'}; a report is written as {', '.join(FORMS)}."
        )
    check_writable(path)


def write_report(report: Overview, path: Path) -> None:
    """Write a report in the form that the path's suffix names, whole or not at all.

    Raises:
        InvalidRequestError: if the suffix stands for no form, or the path cannot be written.
        MissingDependencyError: if the form is HTML and plotly is not installed.
    """
    check_report(path)
    write_atomic(path, FORMS[path.suffix.lower()](report))


def write_fleet_reports(report: Overview, folder: Path) -> list[Path]:
    """Write ``report.md``, and ``report.html`` where plotly is installed, beside the records of a fleet.

    Returns:
        what was written.
    """
    written = [folder / "report.md"]
    write_report(report, written[0])
    if importlib.util.find_spec("plotly") is not None:
        written.append(folder / "report.html")
        write_report(report, written[1])
    return written
