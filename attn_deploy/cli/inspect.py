"""``attn-deploy inspect``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, json_text


def inspect(
    files: Annotated[list[Path], typer.Argument(help="An .onnx or .engine file; two .onnx files with --diff.")],
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what differs between two graphs. Exit code 1 if anything does.")
    ] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="[name:]1x64x32x32 of each input, for counting MACs; repeatable. Default: batch 1, 32x32."
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Count MACs at the shapes of real inputs: FILE.npz with an array for each input; repeatable."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 if the graph was changed after its evidence was written.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Show what a file holds: a graph's operators, types, shapes, parameters and MACs; an engine's description.

    On a GPU that can load the engine, its layers after fusion are listed with the types of their outputs.

    \b
    Examples:
      attn-deploy inspect model.onnx --input x:1x64x32x32
      attn-deploy inspect model.onnx --check
      attn-deploy inspect model.engine
      attn-deploy inspect --diff model.onnx model-fp16.onnx
    """
    from attn_deploy.diagnosis.contents import diff_graphs
    from attn_deploy.diagnosis.contents import inspect as inspect_file
    from attn_deploy.engine.artifact import EngineArtifact
    from attn_deploy.engine.kernels import read_kernels
    from attn_deploy.errors import InvalidRequestError
    from attn_deploy.report.engine import engine_text
    from attn_deploy.report.inspection import graph_text, graphs_diff_text

    if len(files) != 1 + diff:
        raise InvalidRequestError(
            f"{len(files)} file{'s were' if len(files) > 1 else ' was'} given: name one, or two with --diff."
        )
    if diff:
        differences = diff_graphs(files[0], files[1])
        echo(json_text([dataclasses.asdict(d) for d in differences]) if as_json else graphs_diff_text(differences))
        raise typer.Exit(1 if differences else 0)
    report = inspect_file(files[0], shapes=shape or (), samples=sample or ())
    if isinstance(report, EngineArtifact):
        kernels = read_kernels(report)
        data = {**report.to_dict(), "layers": kernels.to_dict()}
        echo(json_text(data) if as_json else engine_text(report, kernels))
    else:
        echo(json_text(report.to_dict()) if as_json else graph_text(report))
        if check:
            report.artifact.check_seal()
