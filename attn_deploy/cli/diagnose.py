"""``attn-deploy diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.panels import DATA, MODEL
from attn_deploy.cli.parse import check_page, write_page
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust


def diagnose(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file, or the name of a model: net.py:MyNet, resnet18+se ...", autocompletion=complete_model
        ),
    ],
    precision: Annotated[
        str | None, typer.Option(help="Examine the conversion to fp16, bf16, int8 or fp8. Default: the graph as it is.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Target that should accept the graph: tensorrt-rtx, tensorrt-rtx:sm75,sm86, tensorrt or onnxruntime."
        ),
    ] = "tensorrt-rtx",
    against: Annotated[
        str | None,
        typer.Option(help="What is right: eager, onnxruntime (the fp32 graph), FILE.onnx, or the name of a model."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="<path>", help="File for the smallest failing part. Default: NAME-failing.onnx."
        ),
    ] = None,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Look for what the target refuses.")] = True,
    numbers: Annotated[bool, typer.Option("--numbers/--no-numbers", help="Look for where numbers go wrong.")] = True,
    by_range: Annotated[
        bool,
        typer.Option(
            "--by-range/--no-by-range", help="Keep in fp32 what exceeds the half type's range, as export does."
        ),
    ] = True,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Data to measure and compare on: cifar10, digits, or an .npz with an array for each input; "
            "for int8 and fp8 also a folder of images.",
            rich_help_panel=DATA,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[name:]1x3x224x224[:dtype] of each input of a model of your own; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample",
            help="Real inputs, which join the comparison: FILE.npz with an array for each input, or "
            "NAME=VALUES, as size=60,90; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            help="Dynamic axes, as N,H,W, or none. Default: as many as the model allows.", rich_help_panel=MODEL
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to load: .safetensors, .pth or .pt.", rich_help_panel=MODEL),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(help="Opset of the exported file, 13 to 25. Default: 20, or 22 for bf16.", rich_help_panel=MODEL),
    ] = None,
    exporter: Annotated[str, typer.Option(help="auto, dynamo or torchscript.", rich_help_panel=MODEL)] = "auto",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Range of an input's shapes to build at: NAME:MIN,OPT,MAX; the same name again begins "
            "another profile. Default: derived from the graph."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Time limit of each trial of the target, in seconds.")] = 120.0,
    page: Annotated[Path | None, typer.Option(help="Also write the result as a page, as diagnosis.html.")] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Find the module that breaks the build, and the first one that gives wrong numbers. Exit code 1 if there is one.

    The smallest part that fails is written as an ONNX file, with an .npz of its inputs if its numbers are wrong.

    \b
    Examples:
      attn-deploy diagnose net.py:MyNet --input 1x3x224x224
      attn-deploy diagnose net.py:MyNet --input 1x3x224x224 --precision fp16
      attn-deploy diagnose net.py:MyNet --input 1x3x224x224 --precision fp16 \\
          --page diagnosis.html
      attn-deploy diagnose model.onnx --no-numbers
      attn-deploy diagnose model-int8.onnx --against model.onnx
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model, files=(".onnx",))
    check_page(page)
    from attn_deploy.diagnosis.diagnose import diagnose as find
    from attn_deploy.inputs.grammar import parse_axes, parse_inputs
    from attn_deploy.report.diagnose import diagnosis_text
    from attn_deploy.report.diagnosis_page import diagnosis_html

    with output_aside():
        diagnosis = find(
            model,
            precision=precision,
            target=target,
            against=against,
            output=output,
            build=build,
            numbers=numbers,
            by_range=by_range,
            calibration=calibration,
            inputs=parse_inputs(shape) if shape else None,
            samples=sample,
            dynamic=parse_axes(dynamic),
            weights=weights,
            opset=opset,
            exporter=exporter,
            profile=profile or (),
            timeout=timeout,
            progress=lambda words: echo(words, err=True),
        )
    write_page(page, lambda: diagnosis_html(diagnosis))
    echo(json_text(diagnosis.to_dict()) if as_json else diagnosis_text(diagnosis))
    if not diagnosis.passed:
        raise typer.Exit(1)
