"""``attn-deploy report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, terminal_width


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders or files of saved profiles, of one machine or several.")
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="File to write: .html, .md, .csv or .json; repeatable."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device whose theoretical peak the rows are compared with, as rtx4090 or my.toml. Default: "
            "that of each record."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON and nothing else.")] = False,
) -> None:
    """Combine saved profiles: a table here, or one page that opens anywhere without a network.

    \b
    Examples:
      attn-deploy report runs/se
      attn-deploy report server/ jetson/ -o report.html
      attn-deploy report runs/ -o report.md -o rows.csv
    """
    from attn_deploy.comparison.collection import read_runs
    from attn_deploy.comparison.overview import overview
    from attn_deploy.machine.devices import load_device
    from attn_deploy.report.profile.files import check_report, write_report
    from attn_deploy.report.profile.tables import profile_json
    from attn_deploy.report.profile.text import known_text

    for path in output or ():
        check_report(path)
    summary = overview(read_runs(folders), load_device(device) if device is not None else None)
    for path in output or ():
        write_report(summary, path)
        echo(f"written: {path}", err=True)
    if as_json:
        echo(profile_json(summary), nl=False)
    elif not output:
        echo(known_text(summary, terminal_width()))
