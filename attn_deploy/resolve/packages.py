"""Models of installed packages, made by the packages' own factories: ``timm:resnet50``, ``torchvision:resnet18``."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from attn_deploy.errors import InvalidRequestError, MissingDependencyError, UnknownModelError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.resolve.names import ModelName


def from_package(name: ModelName, arguments: Mapping[str, Any]) -> tuple[nn.Module, tuple[TensorInput, ...] | None]:
    """The model, and its inputs where the package says of what size images are.

    Raises:
        MissingDependencyError: if the package is not installed, or cannot be imported.
        UnknownModelError: if it has no model of that name.
        InvalidRequestError: if its factory refuses the arguments.
    """
    package = str(name.package)
    library = _imported(package)
    models = library if package == "timm" else importlib.import_module("torchvision.models")
    if not models.is_model(name.base) if package == "timm" else name.base not in models.list_models():
        near = difflib.get_close_matches(name.base, models.list_models(), n=3)
        hint = f"; did you mean {', '.join(repr(n) for n in near)}?" if near else "."
        raise UnknownModelError(f"{package} {library.__version__} has no model {name.base!r}{hint}")
    settings = dict(arguments)
    if package == "timm":
        factory = models.create_model
    else:
        factory = models.get_model
        # Detectors and segmenters download a trained backbone unless an argument forbids it.
        if "weights_backbone" in inspect.signature(models.get_model_builder(name.base)).parameters:
            settings.setdefault("weights_backbone", None)
    try:
        model = factory(name.base, **settings)
    except Exception as error:  # factories check their arguments in many ways
        reason = " ".join(str(error).split())[:300]
        raise InvalidRequestError(f"{name.text}: {package} refuses: {type(error).__name__}: {reason}") from error
    if not isinstance(model, nn.Module):
        raise InvalidRequestError(f"{name.text}: expected a torch.nn.Module, got {type(model).__name__}.")
    size = _timm_size(model) if package == "timm" else _torchvision_size(models, name.base)
    inputs = None if size is None else parse_inputs([f"1x{'x'.join(map(str, size))}"])
    return model.eval(), inputs


def is_trained(arguments: Mapping[str, Any]) -> bool:
    """Whether the arguments of a package's factory ask for published weights."""
    return any(arguments.get(name) for name in ("pretrained", "weights", "checkpoint_path"))


def _imported(package: str) -> Any:
    install = f"pip install -c constraints.txt 'attn-deploy[models]', or pip install {package}"
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        needs = "" if missing.split(".")[0] == package else f", which {package} needs,"
        raise MissingDependencyError(f"{missing}{needs} is not installed: {install}.") from error
    except Exception as error:  # a build for another torch fails in ways of its own
        reason = " ".join(str(error).split())[:200]
        raise MissingDependencyError(
            f"{package} is installed and cannot be imported: {type(error).__name__}: {reason}. Its build must be made for "
            f"torch {torch.__version__}, CPU or CUDA alike: install both from the same index."
        ) from error


def _timm_size(model: nn.Module) -> tuple[int, ...] | None:
    settings = getattr(model, "pretrained_cfg", None) or {}
    size = settings.get("input_size")
    return tuple(size) if size else None


def _torchvision_size(models: Any, name: str) -> tuple[int, ...] | None:
    """The size of the images that the published weights of a classifier were made for."""
    try:
        crop = models.get_model_weights(name).DEFAULT.transforms().crop_size
    except (AttributeError, ValueError):
        return None
    return (3, crop[0], crop[-1])
