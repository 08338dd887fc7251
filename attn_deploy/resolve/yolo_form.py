"""The networks of ultralytics in a form that exports: boxes at any size, and nothing kept between calls."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError

DETECTOR_SIDE, CLASSIFIER_SIDE = 640, 224


def exportable(model: Any) -> nn.Module:
    """A copy of an ultralytics network, as YOLO gives or holds it, whose forward is what its own export gives.

    Args:
        model: a ``YOLO``, or the network in it.

    Raises:
        InvalidRequestError: if there is no network in it.
    """
    network = (
        model if isinstance(model, nn.Module) and not hasattr(model, "predictor") else getattr(model, "model", None)
    )
    if not isinstance(network, nn.Module):
        raise InvalidRequestError(f"a {type(model).__name__} holds no network; give a YOLO, or its .model.")
    network = copy.deepcopy(network).float().eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "dynamic") and hasattr(module, "export"):  # a head, which keeps its anchors between calls
            vars(module).update(dynamic=True, export=True, format="onnx")
        elif hasattr(type(module), "export"):  # a classifier, which gives its logits a second time
            vars(module).update(export=True, format="onnx")
    return network


def is_ultralytics(model: nn.Module) -> bool:
    """Whether a network is one of ultralytics', a detector or a classifier."""
    return any(c.__module__.split(".")[0] == "ultralytics" for c in type(model).__mro__)


def side_of(model: nn.Module) -> int:
    """The height and width of the images that a network was trained on, or that its kind usually takes."""
    arguments = getattr(model, "args", None)
    side = arguments.get("imgsz") if isinstance(arguments, dict) else getattr(arguments, "imgsz", None)
    usual = CLASSIFIER_SIDE if any(type(m).__name__ == "Classify" for m in model.modules()) else DETECTOR_SIDE
    # 640 is also what a classifier says that was never trained.
    return side if isinstance(side, int) and side not in (0, DETECTOR_SIDE) else usual
