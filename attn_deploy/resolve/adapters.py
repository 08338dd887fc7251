"""How each package makes its models without their published weights, and of what size its images are."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.detectors import NETWORK, is_detector, network_of, part_input
from attn_deploy.resolve.package_names import MODULES
from attn_deploy.resolve.yolo_form import exportable, side_of

_USUAL_SIDE = 256  # of images, where a package does not say
_USUAL_LENGTH = 77


@dataclass(frozen=True, slots=True)
class Adapter:
    """One package.

    Attributes:
        package: the name in the grammar.
        install: what pip is given.
        names: the names of all its models, given the library; an empty one where they cannot be listed.
        make: the model of a name and arguments.
        input: the ``--input`` options of a model; none where only the user can say.
    """

    package: str
    install: str
    names: Callable[[Any], Sequence[str]]
    make: Callable[[Any, str, Mapping[str, Any]], Any]
    input: Callable[[Any, str, nn.Module], list[str]]

    @property
    def module(self) -> str:
        """The name that is imported."""
        return MODULES[self.package]


def _make_timm(library: Any, name: str, settings: Mapping[str, Any]) -> Any:
    return library.create_model(name, **settings)


def _timm_input(library: Any, name: str, model: nn.Module) -> list[str]:
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return [f"1x{'x'.join(map(str, size))}"] if size else []


def _torchvision_models(library: Any) -> Any:
    return importlib.import_module("torchvision.models")


def _make_torchvision(library: Any, name: str, settings: Mapping[str, Any]) -> Any:
    models = _torchvision_models(library)
    options = dict(settings)
    part = options.pop("part", None)
    # Detectors and segmenters download a trained backbone unless an argument forbids it.
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options.setdefault("weights_backbone", None)
    model = models.get_model(name, **options)
    if part is not None and not is_detector(model):
        raise InvalidRequestError(f"torchvision:{name} is no detector, and has no parts; leave out part={part}.")
    return model if part is None else network_of(model, str(part))


_FRAMES = 16  # of a clip


def _torchvision_input(library: Any, name: str, model: nn.Module) -> list[str]:
    """The size of the images, or clips, that the published weights were made for."""
    part = getattr(type(model), "_part_of_detector", None)
    if part is not None or is_detector(model):
        return [part_input(model, part or NETWORK)]
    try:
        transforms = _torchvision_models(library).get_model_weights(name).DEFAULT.transforms()
    except (AttributeError, ValueError):
        return []
    crop, resized = getattr(transforms, "crop_size", None), getattr(transforms, "resize_size", None)
    if type(transforms).__name__ == "VideoClassification" and crop:
        return [f"clips:1x3xT={_FRAMES}xH={crop[0]}xW={crop[-1]}"]
    if crop:
        return [f"1x3x{crop[0]}x{crop[-1]}"]
    if type(transforms).__name__ == "SemanticSegmentation" and resized:
        return [f"1x3x{resized[0]}x{resized[-1]}"]
    return []


def _transformers_names(library: Any) -> list[str]:
    """Its classes of models: those that say which class their configuration is of."""
    return [n for n in dir(library) if "For" in n or n.endswith(("Model", "Backbone"))]


def _make_transformers(library: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """The class with its default configuration, or with that of a folder: ``config=DIR``."""
    cls = getattr(library, name)
    kind = getattr(cls, "config_class", None)
    if kind is None:
        raise InvalidRequestError(f"transformers:{name} has no configuration class; name a model, such as ViTModel.")
    options = dict(settings)
    folder = options.pop("config", None)
    if folder is not None and not Path(str(folder)).is_dir():
        raise InvalidRequestError(f"transformers:{name}: there is no folder {str(folder)!r} with a config.json.")
    config = kind(**options) if folder is None else kind.from_pretrained(folder, local_files_only=True, **options)
    return cls(config)


def _transformers_input(library: Any, name: str, model: nn.Module) -> list[str]:
    """Images; frames of them for a video model; ids with their mask before them for one of images and text."""
    config: Any = model.config
    takes = inspect.signature(model.forward).parameters
    if "pixel_values" not in takes:
        return []
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or getattr(config, "image_size", None)
    if size is None:  # a detector says it of its backbone, if at all
        size = getattr(getattr(config, "backbone_config", None), "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size) if size else (_USUAL_SIDE, _USUAL_SIDE)
    frames = f"{vision.num_frames}x" if hasattr(vision, "num_frames") else ""
    images = f"pixel_values:1x{frames}{getattr(vision, 'num_channels', 3)}x{sides[0]}x{sides[-1]}"
    text = getattr(config, "text_config", None)
    if text is None or "input_ids" not in takes:
        return [images]
    length = getattr(text, "max_position_embeddings", _USUAL_LENGTH)
    return [f"input_ids:1x{length}:int64", images, f"attention_mask:1x{length}:int64"]


def _smp_names(library: Any) -> list[str]:
    return [
        n for n in dir(library) if isinstance(getattr(library, n), type) and issubclass(getattr(library, n), nn.Module)
    ]


def _make_smp(library: Any, name: str, settings: Mapping[str, Any]) -> Any:
    return getattr(library, name)(**{"encoder_weights": None, **settings})


def _make_ultralytics(library: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """The network of the YAML file of that name, as ultralytics' own export gives it; without its post-processing."""
    options = dict(settings)
    classes = options.pop("nc", None)
    model = (library.RTDETR if name.startswith("rtdetr") else library.YOLO)(f"{name}.yaml", **options)
    if classes is not None:
        model = type(model.model)(f"{name}.yaml", nc=int(classes), verbose=False)
    return exportable(model)


def _ultralytics_input(library: Any, name: str, model: nn.Module) -> list[str]:
    return [f"images:1x3x{side_of(model)}x{side_of(model)}"]


ADAPTERS = {
    a.package: a
    for a in (
        Adapter("timm", "timm", lambda library: library.list_models(), _make_timm, _timm_input),
        Adapter(
            "torchvision",
            "torchvision",
            lambda library: _torchvision_models(library).list_models(),
            _make_torchvision,
            _torchvision_input,
        ),
        Adapter("transformers", "transformers", _transformers_names, _make_transformers, _transformers_input),
        Adapter(
            "smp",
            "segmentation-models-pytorch",
            _smp_names,
            _make_smp,
            lambda library, name, model: [f"1x3x{_USUAL_SIDE}x{_USUAL_SIDE}"],
        ),
        Adapter(
            "ultralytics",
            "ultralytics",
            lambda library: (),
            _make_ultralytics,
            _ultralytics_input,
        ),
    )
}
