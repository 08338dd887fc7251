"""What the commands that a pipeline drives can be told: their options, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The commands in the order of a pipeline, and the options that it sets itself.
STEPS: Mapping[str, tuple[str, ...]] = {
    "train": ("output", "resume", "json"),
    "export": ("output", "json"),
    "quantize": ("output", "json"),
    "build": ("output", "json"),
    "profile": ("output", "resume", "json", "onnx"),
    "evaluate": ("output", "json"),
    "package": ("output", "json", "profile", "accuracy", "reference"),
}


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command.

    Attributes:
        name: its key, as ``keep_accuracy``.
        flag: what it is on the command line; ``negative`` the flag that switches it off, empty if there is none.
        kind: integer, number, boolean or string.
        many: whether it may be given several times.
        help: in words.
    """

    name: str
    flag: str
    kind: str
    many: bool = False
    negative: str = ""
    help: str = ""


Commands = Mapping[str, Mapping[str, Option]]
GATES = {
    "max_latency_ms": "number",
    "min_top1": "number",
    "max_size_mb": "number",
    "no_regression": "string",
}
GATE_HELP = {
    "max_latency_ms": "The most that the fastest row of the profile at its smallest batch may take, in milliseconds.",
    "min_top1": "The least top-1 of evaluate, from 0 to 1.",
    "max_size_mb": "The most that the file to deploy may weigh, in millions of bytes.",
    "no_regression": "The output folder of an earlier run, than which nothing may be worse.",
}
