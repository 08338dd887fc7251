"""What is done to images before a graph sees them: stated, recorded, and checked against what the graph shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from attn_deploy.data import ImageSet
from attn_deploy.errors import InvalidRequestError

COLORS = ("rgb", "bgr")
LAYOUTS = ("nchw", "nhwc")
RESIZES = ("crop", "letterbox", "stretch")
_BYTE = 1 / 255


@dataclass(frozen=True, slots=True)
class Preprocess:
    """``(pixel * scale - mean) / std`` for each channel of images of 0 to 255.

    Attributes:
        mean, std: of the three channels, in the order of ``color``.
        scale: of the pixels.
        color: rgb or bgr.
        layout: nchw or nhwc; empty for what the graph's input looks like.
        resize: crop (shorter side to the size, middle cut out), letterbox (longer side to the size, the rest grey) or
            stretch.
        source: where these values come from, in words.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = _BYTE
    color: str = "rgb"
    layout: str = ""
    resize: str = "crop"
    source: str = ""

    def apply(self, images: NDArray[np.uint8], *, nhwc: bool, dtype: str) -> NDArray[np.generic]:
        """Images (N, 3, H, W) as the graph takes them.

        Args:
            images: RGB bytes.
            nhwc: channels last.
            dtype: of the graph's input; bytes go in as they are.
        """
        pixels = images[:, ::-1] if self.color == "bgr" else images
        if dtype == "uint8":
            values: NDArray[np.generic] = pixels
        else:
            mean = np.asarray(self.mean, np.float32).reshape(3, 1, 1)
            std = np.asarray(self.std, np.float32).reshape(3, 1, 1)
            values = ((pixels.astype(np.float32) * np.float32(self.scale) - mean) / std).astype(dtype)
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1) if nhwc else values)

    def ends(self) -> tuple[float, float]:
        """The least and the largest value that a pixel can become."""
        ends = [(p * self.scale - m) / s for p in (0, 255) for m, s in zip(self.mean, self.std, strict=True)]
        return min(ends), max(ends)

    def __str__(self) -> str:
        low, high = self.ends()
        scale = "pixels / 255" if abs(self.scale - _BYTE) < 1e-9 else f"pixels * {self.scale:g}"
        plain = self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0)
        formula = scale if plain else f"({scale} - {_numbers(self.mean)}) / {_numbers(self.std)}"
        words = f"{formula}, {self.color}, {self.resize}: {low:.3g} to {high:.3g}"
        return f"{words} ({self.source})" if self.source else words


PRESETS = {
    "imagenet": Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), source="imagenet"),
    "0..1": Preprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), source="0..1"),
    "-1..1": Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), source="-1..1"),
    "0..255": Preprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale=1.0, source="0..255"),
    "cifar10": Preprocess((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), source="cifar10"),
}


@dataclass(frozen=True, slots=True)
class PreprocessOptions:
    """What the user says of it; None where nothing is said.

    Attributes:
        preset: one of `PRESETS`.
        mean, std, scale, color, layout, resize: as `Preprocess`, over those of the preset.
    """

    preset: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scale: float | None = None
    color: str | None = None
    layout: str | None = None
    resize: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything is said of the values."""
        return any(v is not None for v in (self.preset, self.mean, self.std, self.scale))

    def refuse_without_images(self, data: str) -> None:
        """Refuse what would be ignored without a word.

        Args:
            data: what is there in place of images, in words.

        Raises:
            InvalidRequestError: if anything is said of how images are prepared.
        """
        named = [f"--{f.name}" for f in fields(self) if getattr(self, f.name) is not None]
        if named:
            verb = "say" if len(named) > 1 else "says"
            raise InvalidRequestError(
                f"{' and '.join(named)} {verb} how images are prepared, and {data}. Leave out what is said of images, or give "
                "images."
            )

    def over(self, usual: Preprocess) -> Preprocess:
        """The usual values with what is said in their place.

        Raises:
            InvalidRequestError: if a value is unknown or cannot be used.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise InvalidRequestError(f"--preset {self.preset!r} is unknown; choose {', '.join(PRESETS)}.")
        base = usual if self.preset is None else replace(PRESETS[self.preset], source=f"--preset {self.preset}")
        for option, word, choices in (
            ("--color", self.color, COLORS),
            ("--layout", self.layout, LAYOUTS),
            ("--resize", self.resize, RESIZES),
        ):
            if word is not None and word not in choices:
                raise InvalidRequestError(f"{option} {word!r} is unknown; choose {', '.join(choices)}.")
        mean = base.mean if self.mean is None else _three("--mean", self.mean)
        std = base.std if self.std is None else _three("--std", self.std)
        scale = base.scale if self.scale is None else self.scale
        if not all(0 < s < math.inf for s in (*std, scale)):
            raise InvalidRequestError(f"--std {_numbers(std)} and --scale {scale:g} must be above 0, and finite.")
        if not all(map(math.isfinite, mean)):
            raise InvalidRequestError(f"--mean {_numbers(mean)} must be finite numbers.")
        named = [o for o, v in (("--mean", self.mean), ("--std", self.std), ("--scale", self.scale)) if v is not None]
        kept = [] if {"--mean", "--std"} <= set(named) or not base.source else [base.source]  # of what nobody said
        source = " and ".join([*kept, *named])
        return Preprocess(
            mean,
            std,
            scale,
            self.color or base.color,
            self.layout or base.layout,
            self.resize or base.resize,
            source,
        )


def images_of_record(record: Mapping[str, Any]) -> Preprocess | None:
    """How images go into a file by the record of its export: as they are, or as the package of its model prepares them."""
    return raw_images(record) or published(record)


def raw_images(record: Mapping[str, Any]) -> Preprocess | None:
    """How images go into a file that was exported with ``--preprocess``: as they are; None for other files.

    Args:
        record: of the export.
    """
    pixels = record.get("preprocess")
    if not pixels:
        return None
    return Preprocess(
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        scale=1.0,
        color=str(pixels["color"]),
        layout=str(pixels["layout"]),
        source="as they are: the file prepares them",
    )


def of_images(images: ImageSet) -> Preprocess:
    """What the data set's own models are trained with."""
    return Preprocess(images.mean, images.std, source=f"as {images.name} is prepared in training")


def range_warning(model: onnx.ModelProto, preprocess: Preprocess, name: str) -> str:
    """Why the values cannot be what the graph was trained on, where the graph itself shows it; else empty.

    A graph that begins by dividing by 255, or by subtracting means of tens, takes pixels of 0 to 255.
    """
    low, high = preprocess.ends()
    if high <= 8.0 and _takes_bytes(model, name):
        return (
            f"the graph scales its input {name!r} itself, as pixels of 0 to 255, and the images are given as {low:.3g} to "
            f"{high:.3g}: ranges measured on them are wrong. Use --preset 0..255."
        )
    return ""


def _takes_bytes(model: onnx.ModelProto, name: str) -> bool:
    constants = {i.name: i for i in model.graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.attribute}
    for node in model.graph.node:
        if name not in node.input:
            continue
        if node.op_type in ("Cast", "Transpose", "Identity"):
            return _takes_bytes(model, node.output[0])
        others = [constants[i] for i in node.input if i in constants]
        if node.op_type not in ("Mul", "Div", "Sub") or not others or node.input[0] != name:
            return False
        size = float(np.abs(numpy_helper.to_array(others[0]).astype(np.float64)).max(initial=0.0))
        return {"Mul": 0 < size < 0.02, "Div": size > 50, "Sub": size > 16}[node.op_type]
    return False


def _three(option: str, values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        values = [values[0]] * 3
    if len(values) != 3 or not np.isfinite(values).all():
        raise InvalidRequestError(f"{option} takes one number or three, as {option} 0.485,0.456,0.406.")
    return float(values[0]), float(values[1]), float(values[2])


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{v:g}" for v in (values[:1] if len(set(values)) == 1 else values))


def published(record: Mapping[str, Any]) -> Preprocess | None:
    """How the package of a model prepares images, as the record of an export has it; None where it says nothing usable."""
    images = record.get("images")
    if not isinstance(images, Mapping):
        return None
    try:
        mean, std = (_three(n, [float(v) for v in images[n]]) for n in ("mean", "std"))
        chosen = Preprocess(mean, std, float(images["scale"]), str(images["color"]), source=f"as in {images['source']}")
    except (KeyError, TypeError, ValueError, InvalidRequestError):
        return None
    usable = all(math.isfinite(v) for v in chosen.mean) and all(0 < v < math.inf for v in (*chosen.std, chosen.scale))
    return chosen if usable and chosen.color in COLORS else None
