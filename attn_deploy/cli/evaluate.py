"""``attn-deploy evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.panels import DATA
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a training run, its model.safetensors, an .onnx or .engine file; or the name of a "
            "model, with --weights."
        ),
    ],
    trained_as: Annotated[
        str | None,
        typer.Option("--model", help="The model that the run trained, where it is a file of yours: net.py:MyNet."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="cifar10, digits or folder. Default: what the model was trained on.", rich_help_panel=DATA),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Runtimes, separated by commas: eager, ort-cpu, openvino.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or train.", rich_help_panel=DATA)] = "test",
    images: Annotated[
        int | None, typer.Option(help="Test on the first images only, this many. Default: all.", rich_help_panel=DATA)
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Another model, or a saved result, whose answers to compare with.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data set. Default: $ATTN_DEPLOY_DATA.", rich_help_panel=DATA)
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in one batch.", rich_help_panel=DATA)] = 100,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: the usable cores.")] = None,
    save: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the first result, with every answer, to this JSON file."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint of a model by name: .safetensors, .pth or .pt.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="For ort-cpu: 1x3x224x224 of each input of a model of your own; repeatable."),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the results as a page, as accuracy.html.")] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")] = False,
) -> None:
    """Test a trained classifier: top-1, top-5, classes, and whether runtimes give the same answers.

    \b
    Examples:
      attn-deploy evaluate runs/resnet8-se-digits-s0 --runtime eager,ort-cpu
      attn-deploy evaluate model.onnx --dataset cifar10 \\
          --reference runs/resnet8-cifar10-s0
      attn-deploy evaluate model.engine --dataset cifar10
      attn-deploy evaluate net.py:MyNet --weights net.safetensors \\
          --dataset cifar10
    """
    from attn_deploy.accuracy.evaluate import evaluate as evaluate_model
    from attn_deploy.cli.parse import check_page, parse_words, write_page
    from attn_deploy.data import require_split
    from attn_deploy.files import check_writable
    from attn_deploy.inputs.grammar import parse_inputs
    from attn_deploy.report.accuracy_page import accuracy_html
    from attn_deploy.report.console import print_result, status

    if save is not None:
        check_writable(save)
    check_page(page)
    with output_aside(), status() as progress:
        results = evaluate_model(
            model,
            trained_as=trained_as,
            dataset=dataset,
            runtimes=parse_words(runtime, "--runtime") if runtime is not None else None,
            split=require_split(split),
            images=images,
            reference=reference,
            data_dir=data_dir,
            threads=threads,
            batch=batch,
            weights=weights,
            inputs=parse_inputs(shape) if shape else None,
            progress=progress,
        )
    if save is not None:
        results[0].write(save)
    write_page(page, lambda: accuracy_html(results))
    if as_json:
        echo(json_text([r.to_dict() for r in results]))
    else:
        from attn_deploy.report.accuracy import accuracy_report

        print_result(lambda width: accuracy_report(results, width))
