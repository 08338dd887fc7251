"""Images as this package's model takes them. Needs numpy and Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def load_image(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The model's input for one image file.

    Raises:
        ValueError: if the model does not take images as they are; the message says what it takes.
    """
    pixels = manifest["preprocess"]
    if pixels is None:
        takes = ", ".join(f"{i['name']} {i['dtype']}{i['shape']}" for i in manifest["inputs"])
        raise ValueError(
            f"this model takes prepared tensors ({takes}): give an .npz with an array for each, or package it with --preprocess."
        )
    (tensor,) = manifest["inputs"]
    dims = [tensor["shape"][k] for k in ((1, 2) if pixels["layout"] == "nhwc" else (2, 3))]
    with Image.open(path) as image:
        colour = image.convert("RGB")
    size = [
        _side(extent, dim, manifest["multiple"].get(dim, 1))
        for extent, dim in zip((colour.height, colour.width), dims, strict=True)
    ]
    if size != [colour.height, colour.width]:
        colour = colour.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(colour)
    if pixels["color"] == "bgr":
        array = array[..., ::-1]
    if pixels["layout"] == "nchw":
        array = array.transpose(2, 0, 1)
    batch = tensor["shape"][0]
    array = np.repeat(array[None], batch if isinstance(batch, int) else 1, 0)
    return {tensor["name"]: np.asarray(array, tensor["dtype"], order="C")}


def _side(extent: int, dim: int | str, multiple: int) -> int:
    """The side that an image is resized to: the model's, or the nearest that it takes."""
    if isinstance(dim, int):
        return dim
    return max(multiple, round(extent / multiple) * multiple)


def load_inputs(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The model's inputs from an image, or from an ``.npz`` with an array for each."""
    if path.suffix != ".npz":
        return load_image(path, manifest)
    with np.load(path, allow_pickle=False) as file:
        missing = [i["name"] for i in manifest["inputs"] if i["name"] not in file.files]
        if missing:
            raise ValueError(f"{path} lacks an array {missing[0]!r}.")
        return {i["name"]: np.asarray(file[i["name"]], i["dtype"], order="C") for i in manifest["inputs"]}


def readable(outputs: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Outputs for people: small ones as numbers, large ones by their shape, class ids with their labels."""
    shown: dict[str, Any] = {}
    for name, array in outputs.items():
        shown[name] = array.tolist() if array.size <= 200 else f"{array.dtype}{list(array.shape)}"
        if labels and name.startswith("class_id") and array.dtype.kind in "iu":
            shown["labels"] = [labels[i] if 0 <= i < len(labels) else "" for i in array.reshape(-1).tolist()]
    return shown
