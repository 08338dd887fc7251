"""``attn-deploy build``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_deploy.cli.completion import complete_device, complete_model
from attn_deploy.cli.panels import GRAPH, TENSORRT
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust

if TYPE_CHECKING:
    from attn_deploy.engine.progress import Progress


def build(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file, or the name of a model, which is exported first.", autocompletion=complete_model
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            help="Engine to write. Default: the name of the .onnx file, with .engine.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8 or fp8: the graph is exported, converted or quantized first. "
            "Default: as it is.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="For int8 and fp8: cifar10, digits, a folder of images, or an .npz with an array for each input.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(
            help="Fix axes of a file: N=1,H=640,W=640 by name, or images[2]=640; repeatable.", rich_help_panel=GRAPH
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="Rename an input or output of a file, as OLD=NEW; repeatable.", rich_help_panel=GRAPH),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="1x3x224x224 of each input of a model of your own; for a file, with --precision, the shape "
            "to compare at; repeatable.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="With --precision, real inputs to compare on: FILE.npz with an array for each input, or "
            "NAME=VALUES, as size=60,90; repeatable.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    flavor: Annotated[
        str, typer.Option(help="Library: auto, tensorrt or tensorrt-rtx.", rich_help_panel=TENSORRT)
    ] = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            help="Device to build for, as rtx4090: sets target, workspace and batch. Names: attn-deploy list "
            "--devices.",
            autocompletion=complete_device,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Compute capabilities to build for; tensorrt-rtx only. Default: sm86,sm89,sm120.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Range of an input's shapes: NAME:MIN,OPT,MAX; the same name again begins another profile. "
            "Default: derived from the graph."
        ),
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32/--no-tf32", help="Let fp32 products round to TF32.", rich_help_panel=TENSORRT)
    ] = False,
    workspace: Annotated[
        str | None, typer.Option(help="Limit of scratch memory, as 1GiB.", rich_help_panel=TENSORRT)
    ] = None,
    opt_level: Annotated[
        int | None,
        typer.Option(
            help="Optimization level, 0 (fast build) to 5 (fast engine); tensorrt only.", rich_help_panel=TENSORRT
        ),
    ] = None,
    hardware_compat: Annotated[
        str,
        typer.Option(
            help="Run on other GPUs too, slower: none, ampere-plus or same-capability; tensorrt only.",
            rich_help_panel=TENSORRT,
        ),
    ] = "none",
    version_compat: Annotated[
        bool,
        typer.Option(
            "--version-compat",
            "--version-compatible",
            help="Let later versions and the lean runtime load the engine; larger, slower; tensorrt only.",
            rich_help_panel=TENSORRT,
        ),
    ] = False,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            help="File of kernel timings to read and extend, for faster builds; tensorrt only.",
            rich_help_panel=TENSORRT,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Time limit of the build, in seconds.")] = 7200.0,
    force: Annotated[bool, typer.Option("--force", help="Build even if the engine is up to date.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Checkpoint of a model by name: .safetensors, .pth or .pt.", rich_help_panel=GRAPH
        ),
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Build a TensorRT engine, and a JSON file beside it that describes it.

    TensorRT-RTX builds without a GPU, for any of its targets. An engine has the precision of its ONNX graph; --precision
    converts the graph first, and keeps that file too. An engine that is up to date is not built again.

    \b
    Examples:
      attn-deploy build model.onnx
      attn-deploy build model.onnx -o out.engine --target sm86,sm89
      attn-deploy build yolo.onnx --fix N=1,H=640,W=640 --rename output0=boxes
      attn-deploy build model.onnx --profile x:1x3x32x32,8x3x32x32,32x3x32x32
      attn-deploy build model.onnx --device rtx4090 --precision int8 \\
          --calibration images/
      attn-deploy build resnet18+se --precision fp16
      attn-deploy build net.py:MyNet --input 1x3x224x224 \\
          --weights net.safetensors
      attn-deploy build ghostmodule --json
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model, files=(".onnx",))
    from attn_deploy.deploy.build import build_model
    from attn_deploy.deploy.prepare import parse_fix, parse_rename
    from attn_deploy.report.engine import engine_text

    with output_aside(), _progress_bar() as (progress, on_progress):
        artifact = build_model(
            model,
            output,
            precision=precision,
            calibration=calibration,
            fix=parse_fix(fix or ()),
            rename=parse_rename(rename or ()),
            inputs=shape or (),
            samples=sample or (),
            weights=weights,
            progress=progress,
            on_progress=on_progress,
            profiles=profile or (),
            flavor=flavor,
            targets=target,
            device=device,
            tf32=tf32,
            workspace=workspace,
            opt_level=opt_level,
            hardware_compat=hardware_compat,
            version_compat=version_compat,
            timing_cache=timing_cache,
            timeout=timeout,
            force=force,
        )
    if as_json:
        echo(json_text(artifact.to_dict()))
    else:
        echo(engine_text(artifact))


@contextlib.contextmanager
def _progress_bar() -> Iterator[tuple[Callable[[str], None], Callable[[Progress], None]]]:
    """A bar on standard error, while there is somebody to see it."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    from attn_deploy.report.console import PlainConsole

    console = PlainConsole(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("reading the graph", total=1.0)
        yield (
            lambda words: bars.update(task, description=words),
            lambda progress: bars.update(task, description=progress.phase, completed=progress.fraction),
        )
