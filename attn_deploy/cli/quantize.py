"""``attn-deploy quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.image_options import Color, Layout, Mean, Preset, Resize, Scale, Size, Std
from attn_deploy.cli.panels import DATA, FORM, LAYERS
from attn_deploy.cli.parse import parse_size, preprocess_options
from attn_deploy.cli.streams import echo, json_text, output_aside
from attn_deploy.cli.trust import Trust


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file in fp32 or fp16, or the name of a model, which is exported first.",
            autocompletion=complete_model,
        ),
    ],
    precision: Annotated[str, typer.Option(help="int8, or fp8 for GPUs from sm89 on.")] = "int8",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="cifar10, digits, a folder of images, or an .npz with an array for each input. Default: what "
            "the model was trained on, else noise.",
            rich_help_panel=DATA,
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Number of images to measure ranges on. Default: 512.", rich_help_panel=DATA)
    ] = None,
    method: Annotated[
        str, typer.Option(help="minmax, entropy, percentile, or auto, which tries all and takes the best.")
    ] = "auto",
    keep_accuracy: Annotated[
        float | None,
        typer.Option(help="Points of top-1 accuracy that may be lost; layers that cost more stay in float."),
    ] = None,
    size: Size = None,
    preset: Preset = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    color: Color = None,
    layout: Layout = None,
    resize: Resize = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data set. Default: $ATTN_DEPLOY_DATA.", rich_help_panel=DATA)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for the choice of images.", rich_help_panel=DATA)] = 0,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Output with a score for each class. Default: the one behind a softmax or sigmoid.",
            rich_help_panel=DATA,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="NAME:1x3x224x224 of an input, to run at; repeatable.", rich_help_panel=DATA),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs, in place of --calibration: FILE.npz with an array for each input, or "
            "NAME=VALUES, as size=60,90; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What will run the file: cpu or gpu. Default: gpu for fp16 files and on machines with a GPU."
        ),
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="For CPUs: uint8 or int8. Default: uint8.", rich_help_panel=FORM)
    ] = None,
    per_tensor: Annotated[
        bool,
        typer.Option(
            "--per-tensor", help="One scale for each tensor of weights, not one for each channel.", rich_help_panel=FORM
        ),
    ] = False,
    attention: Annotated[
        bool,
        typer.Option(
            "--attention", help="For CPUs: also quantize products of two activations.", rich_help_panel=LAYERS
        ),
    ] = False,
    timed: Annotated[
        bool,
        typer.Option(
            "--timed/--not-timed",
            help="For CPUs: time layers here, and leave in float what is slower in 8 bits.",
            rich_help_panel=LAYERS,
        ),
    ] = True,
    written: Annotated[
        str,
        typer.Option(
            "--format", help="qdq; or, for CPUs, qoperator, which only ONNX Runtime reads.", rich_help_panel=FORM
        ),
    ] = "qdq",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Quantize only these nodes, modules or operator types (* and ? match); repeatable.",
            rich_help_panel=LAYERS,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave these nodes, modules or operator types in float; repeatable.", rich_help_panel=LAYERS),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="<path>", help="File to write. Default: NAME-int8.onnx beside the model."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint of a model by name: .safetensors, .pth or .pt.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Quantize a model to 8 bits, and judge the result on images that were not used for calibration.

    The Q/DQ pairs have the form that their runtime wants: symmetric for GPUs, as TensorRT and TensorRT-RTX build them; for
    CPUs with zero points, around every operator that ONNX Runtime has 8-bit kernels for. If the result is worse than
    asked, the layers that cause most of the error stay in float.

    \b
    Examples:
      attn-deploy quantize model.onnx --calibration images/ --size 224 \\
          --preset imagenet
      attn-deploy quantize yolo.onnx --calibration frames/ --size 640x640 \\
          --preset 0..1 --resize letterbox
      attn-deploy quantize runs/resnet8-se-digits-s0 --keep-accuracy 0.5
      attn-deploy quantize model.onnx --calibration samples.npz \\
          --method entropy -o small.onnx
      attn-deploy quantize model.onnx --target cpu --calibration images/ \\
          --exclude 'head*' --exclude Softmax
      attn-deploy quantize net.py:MyNet --input 1x3x224x224 --calibration images/
      attn-deploy quantize model-fp16.onnx --calibration cifar10 --precision fp8
    """
    from attn_deploy.resolve.wanted import check_name

    check_name(model, files=(".onnx",))
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
    echo(json_text(artifact.to_dict()) if as_json else quantization_text(artifact))
