"""Models of installed packages, made by the packages' own factories: ``timm:resnet50``, ``transformers:ViTModel``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attn_deploy.errors import InvalidRequestError, MissingDependencyError, UnknownModelError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.resolve.adapters import ADAPTERS, Adapter
from attn_deploy.resolve.image_arguments import fitted_to_arguments
from attn_deploy.resolve.names import ModelName
from attn_deploy.resolve.published_images import PublishedImages, published_images


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model of a package, its inputs where the package says what size images have, and what it says of the images."""

    model: nn.Module
    inputs: tuple[TensorInput, ...] | None
    images: PublishedImages | None


def from_package(name: ModelName, arguments: Mapping[str, Any]) -> Packaged:
    """The model of a package.

    Raises:
        MissingDependencyError: if the package is not installed, or cannot be imported.
        UnknownModelError: if it has no model of that name.
        InvalidRequestError: if its factory refuses the arguments.
    """
    adapter = ADAPTERS[str(name.package)]
    library = _imported(adapter)
    names = adapter.names(library)
    if names and not _is_model(library, name.base, names):
        near = difflib.get_close_matches(name.base, names, n=3)
        hint = f"; did you mean {', '.join(repr(n) for n in near)}?" if near else "."
        version = getattr(library, "__version__", "")
        raise UnknownModelError(f"{adapter.module} {version} has no model {name.base!r}{hint}")
    try:
        model = adapter.make(library, name.base, dict(arguments))
    except InvalidRequestError:
        raise
    except Exception as error:  # factories check their arguments in many ways
        reason = " ".join(str(error).split())[:300]
        raise InvalidRequestError(f"{name.text}: {adapter.module} refuses: {type(error).__name__}: {reason}") from error
    if not isinstance(model, nn.Module):
        raise InvalidRequestError(f"{name.text}: expected a torch.nn.Module, got {type(model).__name__}.")
    texts = adapter.input(library, name.base, model)
    images = published_images(adapter.package, library, name.base, arguments, model)
    return Packaged(model.eval(), fitted_to_arguments(parse_inputs(texts), arguments) if texts else None, images)


def _is_model(library: Any, name: str, names: Sequence[str]) -> bool:
    """Whether a package has a model; timm lists names without the tags of their weights."""
    return name in names or (hasattr(library, "is_model") and bool(library.is_model(name)))


def is_trained(arguments: Mapping[str, Any]) -> bool:
    """Whether the arguments of a package's factory ask for published weights."""
    return any(arguments.get(name) for name in ("pretrained", "weights", "checkpoint_path"))


def _imported(adapter: Adapter) -> Any:
    package = adapter.module
    install = f"pip install -c constraints.txt 'attn-deploy[models]', or pip install {adapter.install}"
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
