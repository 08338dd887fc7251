"""The options of every command that prepares images for a graph: how pixels become the values of its input."""

from __future__ import annotations

from typing import Annotated

import typer

from attn_deploy.cli.panels import IMAGES

Preset = Annotated[
    str | None,
    typer.Option(
        help="Preset: imagenet, 0..1, -1..1, 0..255 or cifar10. Default: as the record of the file's export says, else imagenet.",
        rich_help_panel=IMAGES,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean to subtract after scaling: one number or three, as 0.5,0.5,0.5.", rich_help_panel=IMAGES),
]
Std = Annotated[
    str | None,
    typer.Option(help="Standard deviation to divide by after that: one number or three.", rich_help_panel=IMAGES),
]
Scale = Annotated[
    float | None, typer.Option(help="Factor for pixel values of 0 to 255. Default: 1/255.", rich_help_panel=IMAGES)
]
Color = Annotated[
    str | None, typer.Option(help="Order of the channels: rgb or bgr. Default: rgb.", rich_help_panel=IMAGES)
]
Layout = Annotated[
    str | None,
    typer.Option(help="Order of the axes: nchw or nhwc. Default: by the input's shape.", rich_help_panel=IMAGES),
]
Resize = Annotated[
    str | None,
    typer.Option(
        help="How images reach their size: crop, letterbox or stretch. Default: crop.", rich_help_panel=IMAGES
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Height and width to bring images to, where the graph takes any: 224, or 480x640.", rich_help_panel=IMAGES
    ),
]
