"""``attn-deploy quantize``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.parse import parse_size, preprocess_options
from attn_deploy.cli.streams import echo, output_aside
from attn_deploy.cli.trust import Trust


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            help="An ONNX file in fp32 or fp16, or the name of a model, which is exported first.",
            autocompletion=complete_model,
        ),
    ],
    precision: Annotated[str, typer.Option(help="int8, or fp8 for sm89 and above.")] = "int8",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="cifar10, digits, a folder of images, or an .npz with an array for each input. Default: what the "
            "model was trained on, else noise."
        ),
    ] = None,
    images: Annotated[int | None, typer.Option(help="Measure ranges on so many; 512 by default.")] = None,
    method: Annotated[
        str, typer.Option(help="minmax, entropy, percentile, or auto: all are tried, the best is taken.")
    ] = "auto",
    keep_accuracy: Annotated[
        float | None,
        typer.Option(help="Points of top-1 that may be lost; layers that cost more stay in float."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of the images of a folder, where the graph takes any: 224, or 480x640.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="How images are prepared: imagenet, 0..1, -1..1, 0..255 or cifar10. Default: as in training."
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Subtracted after scaling: one number or three, as 0.5,0.5,0.5.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Divided by after that: one number or three.")] = None,
    scale: Annotated[float | None, typer.Option(help="Of pixels of 0 to 255; 1/255 by default.")] = None,
    color: Annotated[str | None, typer.Option(help="rgb or bgr.")] = None,
    layout: Annotated[str | None, typer.Option(help="nchw or nhwc. Default: as the input looks.")] = None,
    resize: Annotated[str | None, typer.Option(help="crop, letterbox or stretch images of a folder.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of images.")] = 0,
    scores: Annotated[
        str | None,
        typer.Option(help="The output with a score for each class. Default: one behind a softmax or sigmoid."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--input", help="NAME:1x3x224x224 of an input, to run at; repeatable.")
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs where there is no --calibration: FILE.npz with an array for each, or NAME=VALUES."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="What will run the file: cpu or gpu. Default: gpu on machines with one and for fp16 files."),
    ] = None,
    activations: Annotated[str | None, typer.Option(help="For CPUs: uint8 (the default) or int8.")] = None,
    per_tensor: Annotated[bool, typer.Option("--per-tensor", help="One scale for each tensor of weights.")] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="For CPUs: quantize products of two activations too.")
    ] = False,
    timed: Annotated[
        bool,
        typer.Option(
            "--timed/--not-timed", help="For CPUs: time it here, and leave in float what is slower in 8 bits."
        ),
    ] = True,
    written: Annotated[
        str, typer.Option("--format", help="qdq, or for CPUs qoperator, which ONNX Runtime alone reads.")
    ] = "qdq",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Quantize only these nodes, modules or operator types; * and ? match; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave these nodes, modules or operator types in float; repeatable.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="PATH", help="File to write. Default: NAME-int8.onnx beside the model."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint for a model by name: .safetensors, .pth or .pt.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Quantize a model's products to 8 bits, and judge the result on images that no range was measured on.

    Q/DQ pairs in the form of what runs them: for GPUs symmetric, as TensorRT and TensorRT-RTX build them; for CPUs with
    zero points and on both sides of all that ONNX Runtime has kernels for. Where the result is worse than asked, the layers
    that cause most of the error stay in float.

    \b
    Examples:
      attn-deploy quantize model.onnx --calibration images/ --size 224 --preset imagenet
      attn-deploy quantize yolo.onnx --calibration frames/ --size 640x640 --preset 0..1 --resize letterbox
      attn-deploy quantize runs/resnet8-se-digits-s0 --keep-accuracy 0.5
      attn-deploy quantize model.onnx --calibration samples.npz --method entropy -o small.onnx
      attn-deploy quantize model.onnx --target cpu --calibration images/ --exclude 'head*' --exclude Softmax
      attn-deploy quantize net.py:MyNet --input 1x3x224x224 --calibration images/
      attn-deploy quantize model-fp16.onnx --calibration cifar10 --precision fp8
    """
    from attn_deploy.resolve.wanted import check_model

    check_model(model, files=(".onnx",))
    from attn_deploy.deploy.quantize import quantize as quantize_model
    from attn_deploy.report.console import status
    from attn_deploy.report.quantization import quantization_text

    with output_aside(), status() as progress:
        artifact = quantize_model(
            model,
            output,
            precision=precision,
            calibration=calibration,
            images=images,
            method=method,
            keep_accuracy=keep_accuracy,
            size=parse_size(size) if size else None,
            preprocess=preprocess_options(preset, mean, std, scale, color, layout, resize),
            data_dir=data_dir,
            seed=seed,
            scores=scores,
            inputs=shape or (),
            samples=sample or (),
            target=target,
            activations=activations,
            per_tensor=per_tensor,
            attention=attention,
            timed=timed,
            format=written,
            only=only or (),
            exclude=exclude or (),
            weights=weights,
            progress=progress,
        )
    echo(json.dumps(artifact.to_dict(), indent=1) if as_json else quantization_text(artifact))
