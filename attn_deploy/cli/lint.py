"""``attn-deploy lint``."""

from __future__ import annotations

from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust


def lint(
    model: Annotated[
        str,
        typer.Argument(
            help="A model: ghostmodule, resnet18+se, net.py:MyNet, timm:resnet50 ...", autocompletion=complete_model
        ),
    ],
    opset: Annotated[int, typer.Option(help="Opset of the file to export, 13 to 25.")] = 20,
    target: Annotated[
        str, typer.Option(help="Target that should accept the file: onnxruntime, tensorrt or tensorrt-rtx.")
    ] = "onnxruntime",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="[name:]1x3x224x224[:dtype] of each input; with it, forward is traced too; repeatable."
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample",
            help="Real inputs to run forward on: FILE.npz with an array for each input, or NAME=VALUES, as "
            "size=60,90; repeatable.",
        ),
    ] = None,
    dynamic: Annotated[
        str | None, typer.Option(help="Dynamic axes, as N,H,W, or none. Default: as many as the model allows.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Predict what an export will break, with module, line, rule and remedy. Exit code 1 if something will break.

    \b
    Examples:
      attn-deploy lint net.py:MyNet --opset 17 --target tensorrt-rtx
      attn-deploy lint net.py:MyNet --input 1x3x224x224 --json
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model)
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
    echo(json_text(report.to_dict()) if as_json else lint_text(report))
    if not report.passed:
        raise typer.Exit(1)
