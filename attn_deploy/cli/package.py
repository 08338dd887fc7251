"""``attn-deploy package``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.parse import parse_words
from attn_deploy.cli.streams import echo, output_aside
from attn_deploy.cli.trust import Trust


def package(
    model: Annotated[
        str,
        typer.Argument(
            help="An ONNX file, or the name of a model, which is exported first.", autocompletion=complete_model
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write; it must not exist, or be empty.")],
    parts: Annotated[
        str, typer.Option("--for", help="What goes in: python (clients), triton (a model repository), docker.")
    ] = "python",
    preprocess: Annotated[
        str | None, typer.Option(help="As for export: imagenet,uint8,nhwc,bgr,resize=224x224 ...")
    ] = None,
    postprocess: Annotated[
        str | None, typer.Option(help="As for export: softmax,topk=5, argmax, nms:iou=0.5 ...")
    ] = None,
    input_names: Annotated[str | None, typer.Option(help="Names of the inputs, as image,mask.")] = None,
    output_names: Annotated[str | None, typer.Option(help="Names of the outputs, as scores,classes.")] = None,
    opset: Annotated[int | None, typer.Option(help="13 to 25. Default: 20, or 22 for bf16.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16; for int8, quantize and package the file.")
    ] = None,
    exporter: Annotated[str | None, typer.Option(help="auto, dynamo or torchscript.")] = None,
    dynamic: Annotated[str | None, typer.Option(help="Axes that move, as N,H,W, or none.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="[name:]1x3x224x224[:dtype] of each input of a model of your own."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint to load: .safetensors, .pth or .pt.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name on a server. Default: the model's file name.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file with the name of a class on each line.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="The largest batch that a server may form.")] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="The folder of a profile: latencies for the evidence, batch sizes for the server."),
    ] = None,
    accuracy: Annotated[
        list[Path] | None, typer.Option(help="A result of evaluate, for the evidence; repeatable.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="The file that a file was converted from, for golden outputs.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Build an engine for this device; repeatable.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Compute capabilities of an engine for TensorRT-RTX: sm86,sm89.")
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(help="Release of the server that engines are for: 25.06, or with its TensorRT 26.01=10.14.1."),
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")] = False,
) -> None:
    """Make a folder that stands alone: the model, its clients, its server's configuration, golden inputs, its evidence.

    Its own verify.py checks it on the target machine, as does attn-deploy verify DIR here.

    \b
    Examples:
      attn-deploy package resnet18+se --preprocess imagenet,uint8,nhwc --postprocess topk=5 --for triton,python -o pkg
      attn-deploy package model-int8.onnx --for triton,python,docker --labels classes.txt -o pkg
      attn-deploy package model.onnx --device rtx4090 -o pkg
    """
    from attn_deploy.resolve.wanted import check_model

    check_model(model, files=(".onnx",))
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
    echo(json.dumps(finished.to_dict(), indent=1) if as_json else package_text(finished))
