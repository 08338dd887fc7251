"""``attn-deploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.panels import INTERFACE, STEPS
from attn_deploy.cli.parse import parse_words
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A model: ghostmodule, resnet18+se, net.py:MyNet, timm:resnet50 ...", autocompletion=complete_model
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            help="File to write, or a folder that gets the default name. Default: NAME.onnx, or "
            "NAME-fp16.onnx in half precision.",
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Opset of the file, 13 to 25. Default: 20, or 22 for bf16.")] = None,
    precision: Annotated[
        str,
        typer.Option(help="fp32, fp16 or bf16; softmax, norms, sums and values beyond the type's range stay in fp32."),
    ] = "fp32",
    io: Annotated[
        str, typer.Option(help="fp32: inputs and outputs stay in fp32; same: they take the type of --precision.")
    ] = "fp32",
    exporter: Annotated[str, typer.Option(help="auto, dynamo or torchscript.", rich_help_panel=STEPS)] = "auto",
    dynamic: Annotated[
        str | None,
        typer.Option(help="Axes that must be dynamic, as N,H,W, or none. Default: as many as the model allows."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[name:]1x3x224x224[:dtype] of each input of a model of your own; mask:1xHxW has the H and W "
            "of an image; repeatable.",
            rich_help_panel=INTERFACE,
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample",
            help="Real inputs, which join the proof: FILE.npz with an array for each input, or NAME=VALUES, "
            "as size=60,90; repeatable.",
            rich_help_panel=INTERFACE,
        ),
    ] = None,
    simplify: Annotated[
        bool,
        typer.Option("--simplify/--no-simplify", help="Simplify the graph.", rich_help_panel=STEPS),
    ] = True,
    fuse: Annotated[
        bool,
        typer.Option("--fuse/--no-fuse", help="Fold BatchNorm and merge branches, as deployed.", rich_help_panel=STEPS),
    ] = True,
    rewrite: Annotated[
        bool,
        typer.Option(
            "--rewrite/--no-rewrite",
            help="Replace, in a copy, the calls that exporters get wrong.",
            rich_help_panel=STEPS,
        ),
    ] = True,
    native_attention: Annotated[
        bool,
        typer.Option(
            "--native-attention", help="Write the Attention operator of opset 23 and above.", rich_help_panel=STEPS
        ),
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint to load: .safetensors, .pth or .pt.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="Put the preparation of images into the graph: imagenet,uint8,nhwc,bgr,resize=224x224. "
            "Presets: imagenet, cifar10, 0..1, -1..1, 0..255; or mean=,std=,scale=. Also "
            "letterbox=640x640.",
            rich_help_panel=INTERFACE,
        ),
    ] = None,
    postprocess: Annotated[
        str | None,
        typer.Option(
            help="Put the answers into the graph: softmax, sigmoid, argmax, topk=5, softmax,topk=5 or "
            "nms:iou=0.5,score=0.25,max=100.",
            rich_help_panel=INTERFACE,
        ),
    ] = None,
    input_names: Annotated[
        str | None,
        typer.Option(
            help="Names of the inputs, as image,mask. Default: the parameters of forward.", rich_help_panel=INTERFACE
        ),
    ] = None,
    output_names: Annotated[
        str | None, typer.Option(help="Names of the outputs, as scores,classes.", rich_help_panel=INTERFACE)
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            "--weights-key", help="Which weights of the checkpoint to load. Default: averaged ones (ema), if any."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Compare with PyTorch at shapes that were not traced.", rich_help_panel=STEPS
        ),
    ] = True,
    external_data: Annotated[
        bool,
        typer.Option(
            "--external-data",
            help="Write the weights to NAME.onnx.data beside the graph; always done above 2 GiB.",
            rich_help_panel=STEPS,
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file, whatever it holds.")] = False,
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
      attn-deploy export net.py:MyNet --input 1x3x224x224 \\
          --weights net.safetensors
      attn-deploy export timm:resnet50:num_classes=10
      attn-deploy export resnet18+se --preprocess imagenet,uint8,nhwc \\
          --postprocess softmax,topk=5
      attn-deploy export fusion.py:Net --input image:1x3x64x64 \\
          --input mask:1x64x64:bool
      attn-deploy export fusion.py:Net --input image:1x3x64x64 \\
          --input mask:1xHxW:bool --input text:1xL=77x64
      attn-deploy export decoder.py:Net --input maps:1x8x16x16 --input size:2 \\
          --sample size=60,90
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model)
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
        echo(json_text(artifact.to_dict()))
    else:
        echo(export_text(artifact))
