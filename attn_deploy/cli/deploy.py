"""``attn-deploy deploy``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main

from attn_deploy.cli.build import build
from attn_deploy.cli.evaluate import evaluate
from attn_deploy.cli.export import export
from attn_deploy.cli.package import package
from attn_deploy.cli.profile import profile
from attn_deploy.cli.quantize import quantize
from attn_deploy.cli.streams import echo, json_text
from attn_deploy.cli.train import train

if TYPE_CHECKING:
    from attn_deploy.pipeline.commands import Commands, Option

_DRIVEN: dict[str, Callable[..., None]] = {
    "train": train,
    "export": export,
    "quantize": quantize,
    "build": build,
    "profile": profile,
    "evaluate": evaluate,
    "package": package,
}


def deploy(
    file: Annotated[Path, typer.Argument(help="File of a pipeline, such as deploy.toml.")],
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run, and run nothing.")] = False,
    init: Annotated[str | None, typer.Option(help="Write a first FILE for this model, and run nothing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Run a pipeline from one file: train, export, quantize, build, profile, evaluate, gates, package.

    Steps whose inputs did not change are not run again, and a stop keeps what is finished. Exit code 1 if a gate fails;
    then nothing is packaged.

    \b
    Examples:
      attn-deploy deploy deploy.toml --init resnet18+se
      attn-deploy deploy deploy.toml --plan
      attn-deploy deploy deploy.toml
    """
    from attn_deploy.errors import InvalidRequestError
    from attn_deploy.files import check_writable, write_atomic
    from attn_deploy.pipeline.settings import read_settings
    from attn_deploy.pipeline.template import template

    if init is not None:
        if file.exists():
            raise InvalidRequestError(f"{file} is there already; remove it, or name another file.")
        check_writable(file)
        write_atomic(file, template(init))
        echo(f"wrote {file}; attn-deploy deploy {file} --plan shows its steps")
        return
    commands = driven_commands()
    settings = read_settings(file, commands)  # a mistyped key is answered before what runs steps is loaded
    from attn_deploy.pipeline.run import plan_of, run_pipeline
    from attn_deploy.report.pipeline import pipeline_text, plan_text

    if plan:
        steps = plan_of(settings, commands)
        rows = [{"step": s.name, "cached": s.cached, "argv": list(s.argv)} for s in steps.steps]
        echo(json_text(rows) if as_json else plan_text(steps, settings.gates))
        return
    result = run_pipeline(settings, commands, progress=lambda words: echo(words, err=True))
    echo(json_text(result.to_dict()) if as_json else pipeline_text(result))
    if not result.passed:
        raise typer.Exit(1)


def driven_commands() -> Commands:
    """The options of the commands that a pipeline drives, read from the commands themselves."""
    app = typer.Typer()
    for name, function in _DRIVEN.items():
        app.command(name)(function)
    group: Any = typer.main.get_command(app)
    return {name: {o.name: o for p in group.commands[name].params if (o := _option(p)) is not None} for name in _DRIVEN}


def _option(parameter: Any) -> Option | None:
    from attn_deploy.pipeline.commands import Option

    flags = [o for o in parameter.opts if o.startswith("--")]
    if parameter.param_type_name != "option" or not flags or flags[0] == "--help":
        return None
    kinds = {"integer": "integer", "int": "integer", "float": "number", "boolean": "boolean", "bool": "boolean"}
    kind = "boolean" if parameter.is_flag else kinds.get(parameter.type.name, "string")
    negative = next((o for o in parameter.secondary_opts if o.startswith("--")), "")
    name = flags[0].removeprefix("--").replace("-", "_")
    return Option(name, flags[0], kind, bool(parameter.multiple), negative, parameter.help or "")
