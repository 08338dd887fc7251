"""Torchvision's detectors, and the networks in them that a graph can hold.

A detector takes a list of images of any sizes, normalises and resizes each, and chooses boxes by their values: thresholds,
the best per level, non-maximum suppression. What comes out has a size that the values decide. The network before that is
ordinary: images of one size as a batch come in, what the heads say of each anchor goes out. Of the two-stage detectors
(R-CNN) that is the backbone and the heads of the proposals; the second stage takes the pooled regions.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError

NETWORK = "network"
_FAMILY = "torchvision.models.detection"
_REGIONS = {"box": 7, "mask": 14, "keypoint": 14}  # the side of a pooled region
_CHANNELS = 256  # of a pooled region, where the backbone does not say


def is_detector(module: nn.Module) -> bool:
    """Whether a module is one of torchvision's detectors as torchvision made it, or a class derived from one."""
    mro = type(module).__mro__
    whole = any(c.__module__.startswith(_FAMILY) and c.__name__ in _WHOLE for c in mro)
    return whole and not any("_part_of_detector" in vars(c) for c in mro)


_WHOLE = frozenset({"GeneralizedRCNN", "SSD", "RetinaNet", "FCOS"})


def parts_of(detector: nn.Module) -> tuple[str, ...]:
    """The names of the networks in a detector."""
    heads = getattr(detector, "roi_heads", None)
    second = [p for p in _REGIONS if heads is not None and getattr(heads, f"{p}_head", None) is not None]
    return (NETWORK, *second)


def network_of(detector: nn.Module, part: str = NETWORK) -> nn.Module:
    """A network of a detector, as a module that can be exported; it shares the detector's weights, names and all.

    Args:
        detector: of torchvision; it is left alone.
        part: ``network`` takes (N, 3, H, W), normalised as the detector's own transform does, and gives what the heads say
            of each anchor: logits and box regressions. ``box``, ``mask`` and ``keypoint`` are the second stages of an
            R-CNN: they take pooled regions, (N, C, 7, 7) or (N, C, 14, 14).

    Raises:
        InvalidRequestError: if it has no such part.
    """
    if part not in parts_of(detector):
        raise InvalidRequestError(
            f"{type(detector).__name__} has no part {part!r}; its parts are {', '.join(parts_of(detector))}."
        )
    twin = detector.__class__.__new__(detector.__class__)
    twin.__dict__.update(detector.__dict__)
    forward = _first_stage if part == NETWORK else _second_stage(part)
    cls: Any = type(detector)
    names = {"forward": forward, "_part_of_detector": part, "__module__": cls.__module__, "__doc__": cls.__doc__}
    twin.__class__ = type(cls.__name__, (cls,), names)
    return twin


def part_input(detector: nn.Module, part: str = NETWORK) -> str:
    """The ``--input`` of a part."""
    if part == NETWORK:
        sizes = getattr(getattr(detector, "transform", None), "fixed_size", None) or (320, 320)
        return f"images:1x3x{sizes[1]}x{sizes[0]}"
    side = _REGIONS[part]
    channels = getattr(getattr(detector, "backbone", None), "out_channels", _CHANNELS)
    return f"regions:N=8x{channels}x{side}x{side}"


def _first_stage(self: Any, images: Any) -> Any:
    features = self.backbone(images)
    maps = list(features.values()) if isinstance(features, dict) else [features]
    if hasattr(self, "head"):
        return self.head(maps)
    objectness, deltas = self.rpn.head(maps)
    named = {f"features{k}": v for k, v in enumerate(maps)}
    named.update({f"objectness{k}": v for k, v in enumerate(objectness)})
    named.update({f"deltas{k}": v for k, v in enumerate(deltas)})
    return named


def _second_stage(part: str) -> Any:
    def forward(self: Any, regions: Any) -> Any:
        heads = self.roi_heads
        return getattr(heads, f"{part}_predictor")(getattr(heads, f"{part}_head")(regions))

    return forward
