"""How a zoo module fills the places of a backbone: its channel arguments take the place's width, and it is tried once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from attn_deploy.backbones.slots import Kind, SlotPlace
from attn_deploy.errors import InvalidRequestError
from attn_deploy.registry import ModelSpec

Instantiate = Callable[[ModelSpec, Mapping[str, Any], str], nn.Module]

KINDS: dict[str, Kind] = {"convolution": "convolution", "context": "context"}  # of a family; the others are attention
WIDTHS = ("channels", "in_channels", "out_channels")
PROBE = 8  # height and width of the map that a module is tried on; even, as every stride wants it


class ModuleFiller:
    """Fills the places of one kind with modules of one registry entry.

    Args:
        spec: the entry.
        arguments: constructor arguments beside the width.
        instantiate: makes a module of the entry.

    Raises:
        InvalidRequestError: if the module takes no channel count, several inputs or no map, or an argument is given
            that the backbone sets.
    """

    def __init__(self, spec: ModelSpec, arguments: Mapping[str, Any], instantiate: Instantiate) -> None:
        self.name = spec.name
        self.kind: Kind = KINDS.get(spec.family, "attention")
        self._spec = spec
        self._arguments = dict(arguments)
        self._instantiate = instantiate
        self._known = [a.name for a in spec.arguments]
        self._widths = [w for w in WIDTHS if w in self._known]
        several = len(spec.inputs) != 1 or bool(spec.inputs[0].repeat)
        no_map = not several and len(spec.inputs[0].shape) != 4
        if several or no_map or not self._widths:
            takes = "several inputs" if several else "no map (N, C, H, W)" if no_map else "no channel count"
            raise InvalidRequestError(
                f"{spec.name!r} cannot fill a slot: it takes {takes}; a slot gives one map of C channels."
            )
        named = [w for w in self._widths if w in arguments]
        if named:
            raise InvalidRequestError(f"{spec.name!r} in a slot: {named[0]} is set by the backbone; leave it out.")

    def make(self, place: SlotPlace) -> nn.Module | None:
        """The module for a place, tried on a small map; None where its stride or its widths cannot be had.

        Raises:
            InvalidRequestError: if it cannot be made for that width, or gives a map of another shape.
        """
        settings = self._settings(place)
        if settings is None:
            return None
        channels = place.in_channels
        module = self._instantiate(self._spec, settings, f"{self.name} in a slot of {channels} channels")
        output = self._try(module, place)
        side = PROBE // place.stride
        expected = (1, place.out_channels, side, side)
        changed = output.shape != expected if place.kind != "context" else output.dim() != 4 or output.shape[0] != 1
        if changed:
            keep = "must give a map" if place.kind == "context" else f"must give {expected}"
            raise InvalidRequestError(
                f"{self.name!r} cannot fill a slot: it turns {(1, channels, PROBE, PROBE)} into {tuple(output.shape)}; "
                f"there it {keep}."
            )
        return module

    def width(self, module: nn.Module, place: SlotPlace) -> int:
        """Channels that the module gives for the place's map."""
        return int(self._try(module, place).shape[1])

    def _settings(self, place: SlotPlace) -> dict[str, Any] | None:
        """Constructor arguments for a place; None where the module has no argument for what the place needs."""
        settings = {**self._spec.reference, **dict.fromkeys(self._widths, place.in_channels)}
        if "out_channels" in self._widths:
            settings["out_channels"] = place.out_channels
        elif place.in_channels != place.out_channels and "channels" in self._widths:
            return None
        if place.kind == "convolution":
            if "stride" in self._known:
                settings["stride"] = place.stride
            elif place.stride != 1:
                return None
            kernel = next((a.default for a in self._spec.arguments if a.name == "kernel_size"), None)
            if kernel is not None and kernel.isdigit():
                settings.setdefault("kernel_size", 3)
            if "relu" in self._known:
                settings["relu"] = place.activated
        return {**settings, **self._arguments}

    def _try(self, module: nn.Module, place: SlotPlace) -> torch.Tensor:
        probe = torch.zeros(1, place.in_channels, PROBE, PROBE)
        try:
            with torch.no_grad():
                output = module(probe)
        except Exception as error:
            raise InvalidRequestError(
                f"{self.name!r} cannot fill a slot of {place.in_channels} channels: {error}"
            ) from error
        if not isinstance(output, torch.Tensor):
            raise InvalidRequestError(
                f"{self.name!r} cannot fill a slot: it gives a {type(output).__name__}; a slot needs one map."
            )
        return output
