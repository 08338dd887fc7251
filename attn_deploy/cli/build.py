"""``attn-deploy build``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_deploy.cli.completion import complete_device, complete_model
from attn_deploy.cli.streams import echo, output_aside
from attn_deploy.cli.trust import Trust

if TYPE_CHECKING:
    from attn_deploy.engine.progress import Progress


def build(
    model: Annotated[
        str,
        typer.Argument(
            help="An ONNX file, or the name of a model, which is exported first.", autocompletion=complete_model
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="PATH", help="Engine file. Default: the ONNX file's name with .engine."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, bf16, int8 or fp8: the graph is exported, converted or quantized first."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="For int8 and fp8: cifar10, digits, a folder of images or an .npz (see quantize)."),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(help="Fix axes of a file: N=1,H=640,W=640 by symbol, or images[2]=640; repeatable."),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="Rename an input or output of a file, as OLD=NEW; repeatable.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Of a model of your own: 1x3x224x224; of a file, with --precision, to compare at; repeatable.",
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(help="With --precision: real inputs to compare on, FILE.npz or NAME=VALUES; repeatable."),
    ] = None,
    flavor: Annotated[str, typer.Option(help="auto, tensorrt or tensorrt-rtx.")] = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            help="A device, such as rtx4090: sets target, workspace and batch.",
            autocompletion=complete_device,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Compute capabilities (tensorrt-rtx). Default: sm86,sm89,sm120.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Shapes as NAME:MIN,OPT,MAX; an input given again begins another profile."),
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32/--no-tf32", help="Let fp32 products round to TF32.")] = False,
    workspace: Annotated[str | None, typer.Option(help="Scratch memory limit, such as 1GiB.")] = None,
    opt_level: Annotated[int | None, typer.Option(help="0 (fast build) to 5 (fast engine); tensorrt only.")] = None,
    hardware_compat: Annotated[
        str, typer.Option(help="none, ampere-plus or same-capability: other GPUs too, slower; tensorrt only.")
    ] = "none",
    version_compat: Annotated[
        bool,
        typer.Option(
            "--version-compat",
            "--version-compatible",
            help="Later versions and the lean runtime may load it; larger, slower; tensorrt only.",
        ),
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Kernel timings to read and extend, for faster builds; tensorrt only.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the build is ended.")] = 7200.0,
    force: Annotated[bool, typer.Option("--force", help="Build even if the engine is up to date.")] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint for a model by name: .safetensors, .pth or .pt.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Build a TensorRT engine, and a JSON file beside it that says what it is.

    TensorRT-RTX builds without a GPU, for any of its targets. The precision is that of the ONNX graph; --precision
    gives it one first and keeps that file. An engine that is up to date is not built again.

    \b
    Examples:
      attn-deploy build model.onnx
      attn-deploy build model.onnx -o out.engine --target sm86,sm89
      attn-deploy build yolo.onnx --fix N=1,H=640,W=640 --rename output0=boxes
      attn-deploy build model.onnx --profile x:1x3x32x32,8x3x32x32,32x3x32x32
      attn-deploy build model.onnx --device rtx4090 --precision int8 --calibration images/
      attn-deploy build resnet18+se --precision fp16
      attn-deploy build net.py:MyNet --input 1x3x224x224 --weights net.safetensors
      attn-deploy build ghostmodule --json
    """
    from attn_deploy.resolve.wanted import check_model

    check_model(model, files=(".onnx",))
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
        echo(json.dumps(artifact.to_dict(), indent=1))
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
