"""Images as a graph takes them: its size, its channels' place, its element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.conversion.preprocess import PRESETS, Preprocess
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import Arrays, TensorInput

_AT_A_TIME = 8


def assumed_preprocess() -> Preprocess:
    """ImageNet's values, where nothing says what a model was trained on."""
    return replace(PRESETS["imagenet"], source="assumed: nothing says what the model was trained on; see --preset")


def image_batches(
    path: Path, inputs: Sequence[TensorInput], size: tuple[int, int] | None, preprocess: Preprocess
) -> tuple[tuple[Arrays, ...], str]:
    """An image, or the images of a folder in the order of their names, in batches; and what was done to them.

    Raises:
        InvalidRequestError: if the graph does not take images.
        DatasetError: if one cannot be read.
    """
    from attn_deploy.data.folder import images_of

    height, width = image_size(path, inputs, size, preprocess)
    array, words = prepared_images(
        images_of(path, height, width, resize=preprocess.resize), path.name, inputs, preprocess
    )
    fixed = inputs[0].dims[0]
    step = fixed if isinstance(fixed, int) else _AT_A_TIME
    if isinstance(fixed, int) and len(array) % step:
        raise InvalidRequestError(f"{path} holds {len(array)} images, and the graph takes {step} at a time.")
    batches: list[Arrays] = [{inputs[0].name: array[k : k + step]} for k in range(0, len(array), step)]
    return tuple(batches), words


def prepared_images(
    pixels: NDArray[np.uint8], name: str, inputs: Sequence[TensorInput], preprocess: Preprocess
) -> tuple[NDArray[Any], str]:
    """Images as the graph's one input takes them, and what was done to them.

    Raises:
        InvalidRequestError: if the graph does not take images.
    """
    image = inputs[0]
    nhwc = channels_last(image, preprocess)
    channels = image.dims[3 if nhwc else 1] if len(image.dims) == 4 else None
    usable = image.dtype.startswith("float") or image.dtype == "uint8"
    if len(inputs) != 1 or not usable or (channels != 3 and not isinstance(channels, str)):
        signature = ", ".join(f"{i.name} {i.dtype}[{', '.join(map(str, i.dims))}]" for i in inputs)
        raise InvalidRequestError(
            f"images of {name} fit a graph with one input N x 3 x H x W or N x H x W x 3, and this one takes {signature}; "
            "give an .npz with an array for each input instead."
        )
    words = "bytes of 0 to 255" if image.dtype == "uint8" else str(preprocess)
    return preprocess.apply(pixels, nhwc=nhwc, dtype=image.dtype), words


def channels_last(image: TensorInput, preprocess: Preprocess) -> bool:
    """Whether the graph takes N x H x W x 3."""
    if preprocess.layout or len(image.dims) != 4:
        return preprocess.layout == "nhwc"
    return image.dims[3] == 3 and image.dims[1] != 3


def image_size(
    folder: Path, inputs: Sequence[TensorInput], wish: int | tuple[int, int] | None, preprocess: Preprocess
) -> tuple[int, int]:
    """Height and width of the images that a graph takes."""
    image = inputs[0]
    given = (wish, wish) if isinstance(wish, int) else wish
    if given is not None and min(given) < 1:
        raise InvalidRequestError(f"--size must be at least 1, not {min(given)}.")
    last = channels_last(image, preprocess)
    if preprocess.layout and len(image.dims) == 4 and image.dims[1 if last else 3] == 3 != image.dims[3 if last else 1]:
        shape = " x ".join(map(str, image.dims))
        raise InvalidRequestError(
            f"--layout is {preprocess.layout}, and the graph's input {image.name!r} takes {shape}. Leave --layout out: it is "
            "read from the graph."
        )
    places = (1, 2) if last else (2, 3)
    dims = [image.dims[k] for k in places] if len(image.dims) == 4 else ["H", "W"]
    if given is not None:
        for dim, extent in zip(dims, given, strict=True):
            if isinstance(dim, int) and dim != extent:
                takes = "x".join(str(d) for d in dims)
                side = str(wish) if isinstance(wish, int) else "x".join(map(str, given))
                raise InvalidRequestError(f"--size is {side}, and the graph takes images of {takes}.")
        return given
    if not all(isinstance(d, int) for d in dims):
        raise InvalidRequestError(
            f"the graph takes images of any size, so give the side to which the images of {folder} are resized: --size 224."
        )
    return int(dims[0]), int(dims[1])
