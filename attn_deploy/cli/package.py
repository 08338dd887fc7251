"""``attn-deploy package``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.panels import ENGINES, EVIDENCE, EXPORT
from attn_deploy.cli.parse import parse_words
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust


def package(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file, or the name of a model, which is exported first.", autocompletion=complete_model
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write; it must be new or empty.")],
    parts: Annotated[
        str,
        typer.Option(
            "--for", help="What goes in, separated by commas: python (clients), triton (a model repository), docker."
        ),
    ] = "python",
    preprocess: Annotated[
        str | None,
        typer.Option(help="As in export: imagenet,uint8,nhwc,bgr,resize=224x224 ...", rich_help_panel=EXPORT),
    ] = None,
    postprocess: Annotated[
        str | None,
        typer.Option(help="As in export: softmax,topk=5, argmax, nms:iou=0.5 ...", rich_help_panel=EXPORT),
    ] = None,
    input_names: Annotated[
        str | None,
        typer.Option(help="Names of the inputs, as image,mask.", rich_help_panel=EXPORT),
    ] = None,
    output_names: Annotated[
        str | None,
        typer.Option(help="Names of the outputs, as scores,classes.", rich_help_panel=EXPORT),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(help="Opset of the file, 13 to 25. Default: 20, or 22 for bf16.", rich_help_panel=EXPORT),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16 or bf16. For int8, quantize first and package that file.", rich_help_panel=EXPORT
        ),
    ] = None,
    exporter: Annotated[str | None, typer.Option(help="auto, dynamo or torchscript.", rich_help_panel=EXPORT)] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            help="Dynamic axes, as N,H,W, or none. Default: as many as the model allows.", rich_help_panel=EXPORT
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[name:]1x3x224x224[:dtype] of each input of a model of your own; repeatable.",
            rich_help_panel=EXPORT,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to load: .safetensors, .pth or .pt.", rich_help_panel=EXPORT),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name on a server. Default: that of its file.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name on each line.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Largest batch that a server may form.")] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a profile: latencies for the evidence, batch sizes for the server.",
            rich_help_panel=EVIDENCE,
        ),
    ] = None,
    accuracy: Annotated[
        list[Path] | None,
        typer.Option(help="Result of evaluate, for the evidence; repeatable.", rich_help_panel=EVIDENCE),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="File that the packaged file was converted from; it gives the golden outputs.",
            rich_help_panel=EVIDENCE,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Build an engine for this device, as rtx4090; repeatable.", rich_help_panel=ENGINES),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Build an engine of TensorRT-RTX for these compute capabilities: sm86,sm89.", rich_help_panel=ENGINES
        ),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(
            help="Release of Triton that loads the engines: 25.06, or with its TensorRT, 26.01=10.14.1.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")] = False,
) -> None:
    """Make a folder that stands alone: the model, its clients, a server's configuration, golden inputs and evidence.

    Golden inputs are kept with their right outputs: verify.py in the folder runs the model on them on the target machine,
    and attn-deploy verify DIR does it here.

    \b
    Examples:
      attn-deploy package resnet18+se --preprocess imagenet,uint8,nhwc \\
          --postprocess topk=5 --for triton,python -o pkg
      attn-deploy package model-int8.onnx --for triton,python,docker \\
          --labels classes.txt -o pkg
      attn-deploy package model.onnx --device rtx4090 -o pkg
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model, files=(".onnx",))
    from attn_deploy.exporters.options import check_export

    check_export(
        opset=opset,
        precision=precision or "fp32",
        exporter=exporter or "auto",
        preprocess=preprocess,
        postprocess=postprocess,
    )
    from attn_deploy.deploy.package.request import PackageRequest
    from attn_deploy.inputs.grammar import parse_axes, parse_inputs
    from attn_deploy.report.console import status
    from attn_deploy.report.package import package_text

    request = PackageRequest(
        parts=parse_words(parts, "--for"),
        name=name,
        labels=labels,
        max_batch=max_batch,
        profile=profile,
        accuracy=tuple(accuracy or ()),
        reference=reference,
        devices=tuple(device or ()),
        target=target,
        triton=triton,
    )
    from attn_deploy.deploy.package.make import package as make_package

    options: dict[str, Any] = {
        "preprocess": preprocess,
        "postprocess": postprocess,
        "input_names": parse_words(input_names, "--input-names") if input_names else None,
        "output_names": parse_words(output_names, "--output-names") if output_names else None,
        "opset": opset,
        "precision": precision,
        "exporter": exporter,
        "dynamic": parse_axes(dynamic),
        "inputs": parse_inputs(shape) if shape else None,
        "weights": weights,
    }
    given = {k: v for k, v in options.items() if v is not None}
    with output_aside(), status() as progress:
        finished = make_package(model, output, request=request, progress=progress, **given)
    echo(json_text(finished.to_dict()) if as_json else package_text(finished))
