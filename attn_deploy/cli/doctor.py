"""``attn-deploy doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, json_text
from attn_deploy.errors import InvalidRequestError


def doctor(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the highest speed of this processor, for speed-of-light figures.")
    ] = False,
    threads: Annotated[
        str | None, typer.Option(help="With --measure: numbers of threads, as 1,4. Default: one, and all.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="With --measure: file to write. Default: in the user's settings."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Show what is installed and works, and the pip line for what is missing.

    Exit code 1 if something that is installed is broken. With --measure: measures the highest arithmetic and memory
    bandwidth that short loads reach here; later profiles on this machine are compared with them.

    \b
    Examples:
      attn-deploy doctor
      attn-deploy doctor --json
      attn-deploy doctor --measure
      attn-deploy doctor --measure --threads 1 -o my-server.toml
    """
    if measure:
        _measure(threads, output, as_json)
        return
    if threads is not None or output is not None:
        raise InvalidRequestError("--threads and --output belong to --measure; add it, or leave them out.")
    from attn_deploy.machine.doctor import examine_machine
    from attn_deploy.report.console import print_result, status
    from attn_deploy.report.doctor import doctor_report

    with status() as progress:
        report = examine_machine(progress)
    if as_json:
        echo(json_text(report.to_dict()))
    else:
        print_result(lambda width: doctor_report(report, width))
    raise typer.Exit(0 if report.healthy else 1)


def _measure(threads: str | None, output: Path | None, as_json: bool) -> None:
    from attn_deploy.bench.capability import measure_cpu, write_profile
    from attn_deploy.cli.parse import parse_integers
    from attn_deploy.comparison.speed_of_light import measured_profile
    from attn_deploy.report.capability import capability_text
    from attn_deploy.report.console import status

    path = output or measured_profile()
    with status() as progress:
        device = measure_cpu(
            name=path.stem, threads=parse_integers(threads, "--threads") if threads else None, progress=progress
        )
    write_profile(device, path, make_folder=output is None)
    echo(json_text(device.to_dict()) if as_json else capability_text(device))
    echo(f"written: {path}", err=True)
