"""What a package's own configuration says of the images that its models take; kept in the record of an export."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from attn_deploy.resolve.image_arguments import sides_of

_BYTE = 1 / 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedImages:
    """How images of 0 to 255 are prepared: ``(pixel * scale - mean) / std`` in RGB, at some size.

    Attributes:
        source: where this is written.
        scale: of the pixels.
        mean, std: of the three channels.
        size: height and width; None where any will do.
        interpolation: of the resizing, in the package's word; empty where it says nothing.
        crop: the share of the shorter side that is cut out of the middle, or the extent that the shorter side is brought to
            before; None for no cropping.
        color: rgb or bgr.
    """

    source: str
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = _BYTE
    size: tuple[int, int] | None = None
    interpolation: str = ""
    crop: float | None = None
    color: str = "rgb"

    @property
    def option(self) -> str:
        """The ``--preprocess`` that puts the values into the file; what resizes is left out, it is the user's choice."""
        numbers = [
            f"{n}={'/'.join(f'{v:.6g}' for v in values)}" for n, values in (("mean", self.mean), ("std", self.std))
        ]
        return ",".join([f"scale={self.scale:.9g}", *numbers, "uint8", self.color])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "option": f"--preprocess {self.option}"}


def published_images(
    package: str, library: Any, name: str, arguments: Mapping[str, Any], model: nn.Module
) -> PublishedImages | None:
    """What the package says of the images of a model; None where it says nothing, or in a form that is not known.

    Args:
        package: its name in the grammar.
        library: the imported package.
        name: of the model.
        arguments: of its factory.
        model: the model.
    """
    reader = _READERS.get(package)
    if reader is None:
        return None
    with contextlib.suppress(Exception):  # data of other people's, in forms that change
        images = reader(library, name, arguments, model)
        sides = sides_of(arguments)
        return images if images is None or images.size is None or sides is None else replace(images, size=sides)
    return None


def _of_timm(library: Any, name: str, arguments: Mapping[str, Any], model: nn.Module) -> PublishedImages | None:
    config: Any = getattr(model, "pretrained_cfg", None)
    if not config or "mean" not in config:
        return None
    height, width = config["input_size"][1:]
    return PublishedImages(
        source=f"timm {library.__version__}, pretrained_cfg of {name}",
        mean=_numbers(config["mean"]),
        std=_numbers(config["std"]),
        size=(int(height), int(width)),
        interpolation=str(config.get("interpolation", "")),
        crop=config.get("crop_pct"),
    )


def _of_torchvision(library: Any, name: str, arguments: Mapping[str, Any], model: nn.Module) -> PublishedImages | None:
    models: Any = importlib.import_module("torchvision.models")
    transform = models.get_model_weights(name).DEFAULT.transforms()
    crop, side = getattr(transform, "crop_size", None), getattr(transform, "resize_size", None)
    return PublishedImages(
        source=f"torchvision {library.__version__}, transforms of the weights of {name}",
        mean=_numbers(getattr(transform, "mean", (0.0, 0.0, 0.0))),
        std=_numbers(getattr(transform, "std", (1.0, 1.0, 1.0))),
        size=(int(crop[0]), int(crop[-1])) if crop else None,
        interpolation=str(getattr(getattr(transform, "interpolation", None), "value", "")),
        crop=float(side[0]) if side and crop else None,
    )


def _of_transformers(library: Any, name: str, arguments: Mapping[str, Any], model: nn.Module) -> PublishedImages | None:
    folder = arguments.get("config")
    file = Path(str(folder), "preprocessor_config.json")
    if folder is not None and file.is_file():
        data = json.loads(file.read_text())
        source = f"{file.name} beside the weights"
    else:
        auto: Any = importlib.import_module("transformers.models.auto.image_processing_auto")
        processor = auto.IMAGE_PROCESSOR_MAPPING[type(_field(model, "config"))]
        classes = processor.values() if isinstance(processor, dict) else processor
        cls = next(c for c in classes if c is not None)
        data = {n: getattr(cls, n, None) for n in ("image_mean", "image_std", "size", "do_rescale", "rescale_factor")}
        source = f"transformers {library.__version__}, defaults of {cls.__name__}"
    if not data.get("image_mean"):
        return None
    size = data.get("size") or {}
    sides: tuple[Any, Any] = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    return PublishedImages(
        source=source,
        mean=_numbers(data["image_mean"]),
        std=_numbers(data["image_std"]),
        scale=float(data.get("rescale_factor") or _BYTE) if data.get("do_rescale", True) else 1.0,
        size=(int(sides[0]), int(sides[1])) if all(sides) else None,
    )


def _of_smp(library: Any, name: str, arguments: Mapping[str, Any], model: nn.Module) -> PublishedImages | None:
    encoder = str(arguments.get("encoder_name", getattr(model, "encoder_name", "resnet34")))
    if encoder.startswith("tu-"):
        settings: Any = vars(importlib.import_module("timm.models").get_pretrained_cfg(encoder.removeprefix("tu-")))
    else:  # newer versions keep the values beside the weights on a server, which nobody asks here
        settings = library.encoders.encoders[encoder]["pretrained_settings"]["imagenet"]
    return PublishedImages(
        source=f"segmentation_models_pytorch {library.__version__}, ImageNet settings of the encoder {encoder}",
        mean=_numbers(settings["mean"]),
        std=_numbers(settings["std"]),
        scale=_BYTE if settings.get("input_range", [0, 1])[1] == 1 else 1.0,
        color=str(settings.get("input_space", "RGB")).lower(),
    )


def _of_ultralytics(library: Any, name: str, arguments: Mapping[str, Any], model: nn.Module) -> PublishedImages | None:
    from attn_deploy.resolve.yolo_form import side_of

    side = side_of(model)
    return PublishedImages(
        source=f"ultralytics {getattr(library, '__version__', '')}: RGB of 0 to 1",
        size=(side, side),
        interpolation="bilinear",
    )


_Reader = Callable[[Any, str, Mapping[str, Any], nn.Module], PublishedImages | None]
_READERS: dict[str, _Reader] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "transformers": _of_transformers,
    "smp": _of_smp,
    "ultralytics": _of_ultralytics,
}


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _field(model: nn.Module, name: str) -> Any:
    return getattr(model, name)
