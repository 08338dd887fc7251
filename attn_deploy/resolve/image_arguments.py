"""What a factory's arguments say of the images that its model takes: their size, and how many channels they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attn_deploy.inputs.tensors import TensorInput

# What packages call it.
_SIDES = ("img_size", "image_size", "input_size", "imgsz")
_CHANNELS = ("in_chans", "in_channels", "num_channels", "input_channels")


def sides_of(arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width as the arguments give them: ``56``, ``(56, 84)`` or ``(3, 56, 84)``; None where they do not."""
    for name in _SIDES:
        numbers = _numbers(arguments.get(name))
        if numbers:
            return numbers[-2] if len(numbers) > 1 else numbers[0], numbers[-1]
    return None


def channels_of(arguments: Mapping[str, Any]) -> int | None:
    """How many channels the arguments give images: ``1``, or ``(1, 56, 84)`` for their size; None where they do not."""
    named = next((n[0] for name in _CHANNELS if len(n := _numbers(arguments.get(name))) == 1), None)
    sized = next((n[0] for name in _SIDES if len(n := _numbers(arguments.get(name))) == 3), None)
    return named or sized


def fitted_to_arguments(inputs: Sequence[TensorInput], arguments: Mapping[str, Any]) -> tuple[TensorInput, ...]:
    """The inputs as they are with these arguments; those that are no images stay."""
    sides = sides_of(arguments)
    channels = channels_of(arguments)
    return tuple(_fitted(i, sides, channels) if _is_images(i) else i for i in inputs)


def _is_images(tensor: TensorInput) -> bool:
    return len(tensor.dims) in (4, 5) and tensor.dims[-2:] == ("H", "W")


def _fitted(tensor: TensorInput, sides: tuple[int, int] | None, channels: int | None) -> TensorInput:
    if sides is not None:
        tensor = replace(tensor, sizes={**tensor.sizes, "H": sides[0], "W": sides[1]})
    if channels is not None and isinstance(tensor.dims[1], int):
        tensor = replace(tensor, dims=(tensor.dims[0], channels, *tensor.dims[2:]))
    return tensor


def _numbers(value: Any) -> tuple[int, ...]:
    """One to three positive integers; none where the value is something else."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    right = 1 <= len(values) <= 3 and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values)
    return values if right else ()
