"""``attn-deploy run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.parse import parse_size, preprocess_options
from attn_deploy.cli.streams import echo


def run(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    data: Annotated[Path, typer.Option(help="An .npz with an array for each input, an image, or a folder of images.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="PATH", help="The .npz to write, an array for each output.")
    ],
    size: Annotated[str | None, typer.Option(help="Of images, where the graph takes any: 224, or 480x640.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="How images are prepared: imagenet, 0..1, -1..1, 0..255 or cifar10.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Subtracted after scaling: one number or three.")] = None,
    std: Annotated[str | None, typer.Option(help="Divided by after that: one number or three.")] = None,
    scale: Annotated[float | None, typer.Option(help="Of pixels of 0 to 255; 1/255 by default.")] = None,
    color: Annotated[str | None, typer.Option(help="rgb or bgr.")] = None,
    layout: Annotated[str | None, typer.Option(help="nchw or nhwc. Default: as the input looks.")] = None,
    resize: Annotated[str | None, typer.Option(help="crop, letterbox or stretch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON and nothing else.")] = False,
) -> None:
    """Run an ONNX file on data in ONNX Runtime, and write its outputs.

    \b
    Examples:
      attn-deploy run model.onnx --data inputs.npz -o outputs.npz
      attn-deploy run model.onnx --data images/ --size 224 --preset imagenet -o outputs.npz
    """
    from attn_deploy.deploy.run import run_file
    from attn_deploy.report.text import rows_text

    options = preprocess_options(preset, mean, std, scale, color, layout, resize)
    result = run_file(model, data, output=output, size=parse_size(size) if size else None, preprocess=options)
    shapes = {n: [str(a.dtype), list(a.shape)] for n, a in result.outputs.items()}
    if as_json:
        echo(json.dumps({"output": str(output), "outputs": shapes, "prepared": result.prepared}, indent=1))
        return
    rows = [("file", str(output)), ("images as", result.prepared)]
    rows += [(name, f"{dtype}[{', '.join(map(str, shape))}]") for name, (dtype, shape) in shapes.items()]
    echo(rows_text([(k, v) for k, v in rows if v]))
