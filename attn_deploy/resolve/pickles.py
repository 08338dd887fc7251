"""Whole models that somebody pickled, such as the ``best.pt`` of an ultralytics training.

What a pickle holds besides tensors is code by name: to read it is to run it. So the names are read without running
anything, and the model only where the user trusts the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.resolve.pickle_names import names_in
from attn_deploy.resolve.trust import trusted
from attn_deploy.resolve.yolo_form import exportable, is_ultralytics, side_of

_MODELS = ("ema", "model_ema", "model", "net", "network")  # where training scripts put the model, averaged ones first
_OF_TENSORS = ("torch._utils", "torch.storage", "torch._tensor", "collections", "numpy", "_codecs", "builtins")


def from_pickle(path: Path, label: str) -> tuple[nn.Module, tuple[TensorInput, ...] | None]:
    """The model in a file that ``torch.save`` wrote of it, in float32 and eval mode; and its inputs where they are known.

    Raises:
        InvalidRequestError: if the file is not trusted, or holds no model.
        MissingDependencyError: if a package is missing that the model's classes are of.
    """
    if not path.is_file():
        raise InvalidRequestError(f"{label}: there is no file {str(path)!r}.")
    refuse_untrusted(path, label)
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} needs the Python module {error.name!r}, whose classes it was saved with: install the package, or run "
            "where its folder can be imported."
        ) from error
    except Exception as error:  # what is run is anybody's
        reason = " ".join(str(error).split())[:200]
        raise InvalidRequestError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from error
    model = _model_in(content)
    if model is None:
        raise InvalidRequestError(_no_model(path))
    model = model.float().eval()
    if not is_ultralytics(model):
        return model, None
    side, channels = side_of(model), int(getattr(model, "yaml", {}).get("channels", 3))
    return exportable(model), parse_inputs([f"images:1x{channels}x{side}x{side}"])


def refuse_untrusted(path: Path, label: str) -> None:
    """Refuse a file that runs code when it is loaded, unless it is trusted.

    Raises:
        InvalidRequestError: naming what it holds, and what to do.
    """
    names = [n for n in names_in(path) if not n.startswith(_OF_TENSORS) and n.partition(" ")[0] != "torch"]
    if not names:
        raise InvalidRequestError(_no_model(path))
    if trusted():
        return
    classes = [n.replace(" ", ".") for n in names if not n.startswith("torch.")] or [n.replace(" ", ".") for n in names]
    some = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    whose = "" if label == str(path) else f"{label}: "
    raise InvalidRequestError(
        f"{whose}{path} is a whole pickled model ({some}), and to load it is to run the code that it names. If you know "
        "where it comes from, add --trust (in Python: with attn_deploy.trusting():). Otherwise ask for its state dict, which "
        "runs nothing, and name the model: ultralytics:yolo11n --weights net.safetensors, or net.py:MyNet --weights "
        "net.safetensors."
    )


def _model_in(content: Any) -> nn.Module | None:
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, Mapping):
        return next((content[n] for n in _MODELS if isinstance(content.get(n), nn.Module)), None)
    return None


def _no_model(path: Path) -> str:
    return (
        f"{path} is a checkpoint: it holds weights, and not the model that they belong to. Name the model, and the file "
        f"with --weights: net.py:MyNet --weights {path}, resnet18 --weights {path}, or ultralytics:yolo11n --weights {path}."
    )
