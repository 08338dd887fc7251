"""``attn-deploy run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.image_options import Color, Layout, Mean, Preset, Resize, Scale, Size, Std
from attn_deploy.cli.parse import parse_size, preprocess_options
from attn_deploy.cli.streams import echo, json_text


def run(
    model: Annotated[Path, typer.Argument(help="An .onnx file.")],
    data: Annotated[Path, typer.Option(help="An .npz with an array for each input, an image, or a folder of images.")],
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="<path>", help="File to write: an .npz with an array for each output."),
    ],
    size: Size = None,
    preset: Preset = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    color: Color = None,
    layout: Layout = None,
    resize: Resize = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON and nothing else.")] = False,
) -> None:
    """Run an ONNX file on data in ONNX Runtime, and write its outputs.

    \b
    Examples:
      attn-deploy run model.onnx --data inputs.npz -o outputs.npz
      attn-deploy run model.onnx --data images/ --size 224 --preset imagenet \\
          -o outputs.npz
    """
    from attn_deploy.deploy.run import run_file
    from attn_deploy.report.text import rows_text

    options = preprocess_options(preset, mean, std, scale, color, layout, resize)
    result = run_file(model, data, output=output, size=parse_size(size) if size else None, preprocess=options)
    shapes = {n: [str(a.dtype), list(a.shape)] for n, a in result.outputs.items()}
    if as_json:
        echo(json_text({"output": str(output), "outputs": shapes, "prepared": result.prepared}))
        return
    rows = [("file", str(output)), ("images as", result.prepared)]
    rows += [(name, f"{dtype}[{', '.join(map(str, shape))}]") for name, (dtype, shape) in shapes.items()]
    echo(rows_text([(k, v) for k, v in rows if v]))
