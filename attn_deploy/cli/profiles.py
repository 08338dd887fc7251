"""``attn-deploy profiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from attn_deploy.cli.streams import echo, terminal_width


def profiles(
    device: Annotated[str | None, typer.Option(help="Device that was measured, as h100. Default: all.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model; * stands for any part. Default: all.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write a report instead, to this file: .html, .md, .csv or .json."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON and nothing else.")] = False,
) -> None:
    """Print the measured profiles that come with this version; nothing is run.

    \b
    Examples:
      attn-deploy profiles --model ghostmodule
      attn-deploy profiles --device h100 --model 'resnet18+*'
      attn-deploy profiles -o zoo.html
    """
    from attn_deploy.comparison.library import in_checkout

    if in_checkout():
        _of_checkout(device, model, output, as_json)
    else:
        _of_package(device, model, output, as_json)


def _of_checkout(device: str | None, model: str | None, output: Path | None, as_json: bool) -> None:
    """The records themselves, samples and all."""
    from attn_deploy.comparison.library import known_runs
    from attn_deploy.comparison.overview import overview
    from attn_deploy.report.profile.tables import profile_json
    from attn_deploy.report.profile.text import known_text

    runs = known_runs(device=device, model=model)
    if not runs:
        if as_json:
            echo(profile_json(overview(())), nl=False)
        _nothing()
    report = overview(runs)
    if output is not None:
        from attn_deploy.report.profile.files import write_report

        write_report(report, output)
        echo(f"written: {output}", err=True)
    elif as_json:
        echo(profile_json(report), nl=False)
    else:
        echo(known_text(report, terminal_width()))


def _of_package(device: str | None, model: str | None, output: Path | None, as_json: bool) -> None:
    """The digest that an installed package has of them."""
    from attn_deploy.comparison.digest import read_digest
    from attn_deploy.errors import InvalidRequestError
    from attn_deploy.report.profile.text import digest_json, digest_text

    if output is not None:
        raise InvalidRequestError(
            "a report needs the whole records, which are in the repository and not in the installed package: clone it and "
            "run attn-deploy profiles there, or leave out -o."
        )
    digest = read_digest().chosen(device=device, model=model)
    if not digest.rows:
        if as_json:
            echo(digest_json(digest), nl=False)
        _nothing()
    echo(digest_json(digest), nl=False) if as_json else echo(digest_text(digest, terminal_width()))


def _nothing() -> NoReturn:
    echo("no measured profiles come with this version; make your own with attn-deploy profile.", err=True)
    raise typer.Exit(1)
