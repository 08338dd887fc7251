"""``attn-deploy lint``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.streams import echo, output_aside
from attn_deploy.cli.trust import Trust


def lint(
    model: Annotated[
        str, typer.Argument(help="A model: path/net.py:MyNet, timm:resnet50 ...", autocompletion=complete_model)
    ],
    opset: Annotated[int, typer.Option(help="Opset of the exported file, 13 to 25.")] = 20,
    target: Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")] = "onnxruntime",
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="[name:]1x3x224x224[:dtype] of each input; with it, forward is traced too."),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample", help="Your own inputs, which forward is run on: FILE.npz, or NAME=VALUES, as size=60,90."
        ),
    ] = None,
    dynamic: Annotated[
        str | None, typer.Option(help="Axes that move, as N,H,W, or none. Default: all that the model allows.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Say before exporting what will break: module, line, rule and remedy. Exit code 1 if something will.

    \b
    Examples:
      attn-deploy lint net.py:MyNet --opset 17 --target tensorrt-rtx
      attn-deploy lint net.py:MyNet --input 1x3x224x224 --json
    """
    from attn_deploy.resolve.wanted import check_model

    check_model(model)
    from attn_deploy.diagnosis.lint_request import check_lint

    check_lint(opset, target)
    from attn_deploy.diagnosis.lint import lint as lint_model
    from attn_deploy.inputs.grammar import parse_axes, parse_inputs
    from attn_deploy.report.lint import lint_text

    with output_aside():
        report = lint_model(
            model,
            opset=opset,
            target=target,
            inputs=parse_inputs(shape) if shape else None,
            samples=sample,
            dynamic=parse_axes(dynamic),
        )
    echo(json.dumps(report.to_dict(), indent=1) if as_json else lint_text(report))
    if not report.passed:
        raise typer.Exit(1)
