"""``attn-deploy profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="A model (ghostmodule, resnet18+se, net.py:MyNet ...) or an .onnx file.", autocompletion=complete_model
        ),
    ],
    runtimes: Annotated[
        str | None, typer.Option(help="Runtimes, separated by commas; all that apply by default.")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes, separated by commas; 1 by default.")] = None,
    size: Annotated[str | None, typer.Option(help="Height and width, as 224x224; 32x32 by default.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="Shape of an input, as 1x3x224x224; once for each input."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads in every runtime; the usable cores by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Timed seconds of each row, at least.")] = 1.0,
    opset: Annotated[int | None, typer.Option(help="Opset of the exported file.")] = None,
    dynamic: Annotated[str | None, typer.Option(help="Dynamic axes of the exported file, as N,H,W.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Time this file, already made from the model.")] = None,
    seed: Annotated[int, typer.Option(help="Of inputs, order and intervals.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the record, all samples in it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record on standard output.")] = False,
) -> None:
    """Time a model in several runtimes with one clock, and check that they compute the same.

    Exits with 1 when a row has no valid number; the table says why.

    \b
    Examples:
      attn-deploy profile ghostmodule --batch 1,8
      attn-deploy profile resnet18+se --size 224x224 --threads 4 --save se.json
      attn-deploy profile net.py:MyNet --input 1x3x224x224 --runtimes eager,ort-cpu
      attn-deploy profile model.onnx --input 1x3x224x224 --json
    """
    import attn_deploy
    from attn_deploy.bench.options import BenchOptions
    from attn_deploy.bench.parse import parse_dynamic, parse_integers, parse_size, parse_words
    from attn_deploy.files import check_writable
    from attn_deploy.inputs import parse_inputs
    from attn_deploy.report.console import print_result, status

    if save is not None:
        check_writable(save)
    options = BenchOptions(min_seconds=seconds, max_seconds=max(20.0, 5 * seconds), threads=threads, seed=seed)
    with status() as tell:
        record = attn_deploy.profile(
            model,
            runtimes=parse_words(runtimes, "--runtimes") if runtimes is not None else None,
            batch=parse_integers(batch, "--batch") if batch is not None else None,
            size=parse_size(size) if size is not None else None,
            options=options,
            opset=opset,
            dynamic=parse_dynamic(dynamic) if dynamic is not None else None,
            inputs=parse_inputs(shape) if shape else None,
            onnx=onnx,
            progress=tell,
        )
    if save is not None:
        record.write(save)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        from attn_deploy.report.terminal import profile_report

        print_result(lambda width: profile_report(record, width))
    raise typer.Exit(0 if record.passed else 1)
