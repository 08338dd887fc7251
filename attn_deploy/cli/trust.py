"""The option ``--trust`` of every command that takes the name of a model."""

from __future__ import annotations

from typing import Annotated

import typer


def _while_it_runs(context: typer.Context, value: bool) -> bool:
    from attn_deploy.resolve.trust import trusting

    if value:
        context.with_resource(trusting())
    return value


Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_while_it_runs,
        help="Load a whole pickled model, such as best.pt, although that runs the code that it names.",
    ),
]
