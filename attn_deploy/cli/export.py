"""``attn-deploy export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.parse import parse_words
from attn_deploy.cli.streams import echo, output_aside
from attn_deploy.cli.trust import Trust


def export(
    model: Annotated[
        str,
        typer.Argument(help="A model: ghostmodule, resnet18+se, path/net.py:MyNet ...", autocompletion=complete_model),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="File to write. Or a folder. Default: NAME.onnx, or NAME-fp16.onnx in half precision.",
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="13 to 25; the file holds exactly this. Default: 20, or 22 for bf16.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or bf16; softmax, norms, sums and what leaves the range stay in fp32.")
    ] = "fp32",
    io: Annotated[
        str, typer.Option(help="fp32: inputs and outputs stay in fp32; same: they have the precision's type.")
    ] = "fp32",
    exporter: Annotated[str, typer.Option(help="auto, dynamo or torchscript.")] = "auto",
    dynamic: Annotated[
        str | None, typer.Option(help="Axes that must move, as N,H,W, or none. Default: the most that can.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[name:]1x3x224x224[:dtype] of each input of a model of your own; NAME:1xHxW moves with an image.",
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample", help="Your own inputs, which join the proof: FILE.npz, or NAME=VALUES, as size=60,90."
        ),
    ] = None,
    simplify: Annotated[bool, typer.Option("--simplify/--no-simplify", help="Simplify the graph.")] = True,
    fuse: Annotated[bool, typer.Option("--fuse/--no-fuse", help="Export the deployed form of the modules.")] = True,
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite/--no-rewrite", help="Replace, in a copy, calls that exporters get wrong."),
    ] = True,
    native_attention: Annotated[
        bool, typer.Option("--native-attention", help="Write the operator Attention; opset 23 and above.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint to load: .safetensors, .pth or .pt.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="Take images: imagenet,uint8,nhwc,bgr,resize=224x224; presets imagenet, cifar10, 0..1, -1..1, 0..255, or "
            "mean=,std=,scale=; letterbox=640x640."
        ),
    ] = None,
    postprocess: Annotated[
        str | None,
        typer.Option(
            help="Give answers: softmax, sigmoid, argmax, topk=5, softmax,topk=5, nms:iou=0.5,score=0.25,max=100."
        ),
    ] = None,
    input_names: Annotated[
        str | None, typer.Option(help="Names of the inputs, as image,mask. Default: those of forward's parameters.")
    ] = None,
    output_names: Annotated[str | None, typer.Option(help="Names of the outputs, as scores,classes.")] = None,
    weights_key: Annotated[
        str | None,
        typer.Option("--weights-key", help="Which weights of the checkpoint. Default: averaged ones (ema), if any."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with PyTorch at shapes that were not traced.")
    ] = True,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Weights in NAME.onnx.data beside the graph, as above 2 GiB always.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file that is there, whatever it holds.")
    ] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Export a model to ONNX, and prove the file: opset, dynamic axes and numbers are read back from it.

    \b
    Examples:
      attn-deploy export ghostmodule --opset 17
      attn-deploy export ghostmodule:ratio=3 -o ghost3.onnx
      attn-deploy export resnet18+cbam@layer3 --dynamic N
      attn-deploy export ghostmodule --precision fp16 --io same
      attn-deploy export net.py:MyNet --input 1x3x224x224 --weights net.safetensors
      attn-deploy export timm:resnet50:num_classes=10
      attn-deploy export resnet18+se --preprocess imagenet,uint8,nhwc --postprocess softmax,topk=5
      attn-deploy export fusion.py:Net --input image:1x3x64x64 --input mask:1x64x64:bool
      attn-deploy export fusion.py:Net --input image:1x3x64x64 --input mask:1xHxW:bool --input text:1xL=77x64
      attn-deploy export decoder.py:Net --input maps:1x8x16x16 --input size:2 --sample size=60,90
    """
    from attn_deploy.resolve.wanted import check_model

    check_model(model)
    from attn_deploy.exporters.options import check_export

    check_export(
        opset=opset,
        precision=precision,
        io=io,
        exporter=exporter,
        native_attention=native_attention,
        verify=verify,
        preprocess=preprocess,
        postprocess=postprocess,
    )
    from attn_deploy.inputs.grammar import parse_axes, parse_inputs
    from attn_deploy.report.console import status
    from attn_deploy.report.text import export_text

    with output_aside(), status() as progress:
        progress("importing torch")  # takes seconds, in which nobody should wonder
        from attn_deploy.exporters.pipeline import export as export_model

        artifact = export_model(
            model,
            output,
            opset=opset,
            precision=precision,
            io=io,
            exporter=exporter,
            dynamic=parse_axes(dynamic),
            simplify=simplify,
            fuse=fuse,
            rewrite=rewrite,
            native_attention=native_attention,
            weights=weights,
            weights_key=weights_key,
            samples=sample,
            verify=verify,
            force=force,
            external_data=external_data,
            inputs=parse_inputs(shape) if shape else None,
            preprocess=preprocess,
            postprocess=postprocess,
            input_names=parse_words(input_names, "--input-names") if input_names else (),
            output_names=parse_words(output_names, "--output-names") if output_names else (),
            progress=progress,
        )
    if as_json:
        echo(json.dumps(artifact.to_dict(), indent=1))
    else:
        echo(export_text(artifact))
