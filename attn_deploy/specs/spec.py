"""What is known of one model, as data: its names, arguments, inputs, axes, sizes and where it comes from. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DEFAULT_SIZES = {
    "N": 2,
    "H": 17,
    "W": 22,
}  # batch above 1, odd and H != W: a traced size that gets baked then shows
DEFAULT_DYNAMIC = ("N", "H", "W")


@dataclass(frozen=True, slots=True)
class Input:
    """One input: its name and its shape in axis symbols (capital letters) and constructor arguments.

    ``Input("x", ("N", "channels", "H", "W"))``; an entry may be an integer or an expression with + - * //, such as
    ``"2*H"`` for a map twice as high as the first input, ``"ratio*channels"``, or ``"widths[0]"``.

    Where an argument says how many such inputs there are, by its value or its length, ``repeat`` names it: with
    ``Input("x", ("N", "channels[i]", "H", "W"), repeat="channels")`` the inputs are x0, x1, ..., i is their number and
    ``count`` how many there are: levels of a pyramid, the finest first, have ``"2**(count-1-i)*H"`` rows. ``"H{i}"`` is
    an axis of each one's own: H0, H1, ...
    """

    name: str
    shape: tuple[str | int, ...]
    dtype: str = "float32"
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """One constructor argument, as `attn-deploy info` prints it."""

    name: str
    default: str | None  # source form; None where the argument is required
    annotation: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything known of one registry entry without importing torch.

    Attributes:
        name: registry name; ``aliases`` resolve to it.
        target: ``package.module:Class``, imported when the model is made.
        family: attention, convolution, context, fusion, activation, backbone, or what a third party names.
        summary: one sentence, the first line of the class docstring.
        reference: constructor arguments of the reference configuration (64 channels), which ``create(name)`` makes.
        inputs: the inputs in order; ``outputs`` the output names, where the arguments do not change how many there are.
        dynamic: axis symbols that may move in an exported file.
        sizes: traced extent of each axis, raised to what ``minimum`` and ``multiple`` allow.
        minimum, multiple: the least extent of an axis, and what it must be a multiple of: integers, or expressions in
            constructor arguments (``"stride"``).
        parameters: trainable scalars at the reference configuration (buffers are not counted).
        macs: multiply-accumulates of one forward pass at batch 1 and 32x32 (or the fixed size), as measured.
        paper, year, official, export, limits, deviations: from the module docstring's sections of those names.
    """

    name: str
    target: str
    family: str
    summary: str
    aliases: tuple[str, ...] = ()
    reference: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[Argument, ...] = ()
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    dynamic: tuple[str, ...] = DEFAULT_DYNAMIC
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_SIZES))
    minimum: Mapping[str, int | str] = field(default_factory=dict)
    multiple: Mapping[str, int | str] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None
    paper: str = ""
    year: int | None = None
    official: str = ""
    export: str = ""
    limits: str = ""
    deviations: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict` (lists become tuples again)."""
        values = dict(data)
        values["aliases"] = tuple(values["aliases"])
        values["outputs"] = tuple(values["outputs"])
        values["dynamic"] = tuple(values["dynamic"])
        values["arguments"] = tuple(Argument(**a) for a in values["arguments"])
        values["inputs"] = tuple(Input(**{**i, "shape": tuple(i["shape"])}) for i in values["inputs"])
        values["reference"] = {k: _tuples(v) for k, v in values["reference"].items()}
        return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
