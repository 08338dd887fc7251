"""Where the microseconds go: the time of each node, under the PyTorch module that it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.reading import read_typed, typed

LAYERS_NAME = "layers.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One node of what ran.

    Attributes:
        module: path of the PyTorch module as ``named_modules`` calls it; empty for the model's own forward.
        operator: of the node, in the runtime's words.
        node: its name in the runtime.
        microseconds: of one run, the mean of the middle half of the runs.
        known: whether the runtime or the file told the module; a layout change has that of its neighbour.
    """

    module: str
    operator: str
    node: str
    microseconds: float
    known: bool = True


@dataclass(frozen=True, slots=True)
class ModuleTime:
    """A module with everything inside it; ``own`` is the part of no module below."""

    module: str
    microseconds: float
    own: float
    nodes: int


@dataclass(frozen=True, slots=True)
class LayerReport:
    """The per-layer view of one runtime at one shape.

    Attributes:
        name: of the model; ``runtime``, ``precision`` and ``shapes`` what ran.
        source: what took the times.
        runs: that the times are taken from.
        layers: in order of execution.
        whole_us: one run with the profiler on, by the host clock; what the nodes leave of it is between them.
    """

    name: str
    runtime: str
    precision: str
    shapes: Mapping[str, tuple[int, ...]]
    source: str
    runs: int
    layers: tuple[LayerTime, ...]
    whole_us: float

    @property
    def total_us(self) -> float:
        """The sum over the nodes."""
        return sum(layer.microseconds for layer in self.layers)

    @property
    def known_share(self) -> float:
        """Share of the nodes' time whose module is known."""
        total = self.total_us
        return sum(x.microseconds for x in self.layers if x.known) / total if total else 0.0

    @property
    def modules(self) -> tuple[ModuleTime, ...]:
        """Every module with time in it, the model itself first, each with what is inside it."""
        whole: dict[str, float] = {"": 0.0}
        own: dict[str, float] = {}
        count: dict[str, int] = {}
        for layer in self.layers:
            own[layer.module] = own.get(layer.module, 0.0) + layer.microseconds
            for path in enclosing(layer.module):
                whole[path] = whole.get(path, 0.0) + layer.microseconds
                count[path] = count.get(path, 0) + 1
        return tuple(ModuleTime(m, t, own.get(m, 0.0), count.get(m, 0)) for m, t in whole.items())

    def slowest(self, count: int) -> tuple[LayerTime, ...]:
        """The nodes that cost most."""
        return tuple(sorted(self.layers, key=lambda x: -x.microseconds)[:count])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "total_us": self.total_us, "known_share": self.known_share}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerReport:
        """The inverse of `to_dict`."""
        return typed(data, cls, signed=())

    @classmethod
    def read_all(cls, path: Path) -> tuple[LayerReport, ...]:
        """The reports of a file that `write_layers` wrote.

        Raises:
            InvalidRequestError: if the file is broken or of another schema version.
        """
        try:
            return read_typed(path, _LayersFile, "a per-layer view", schema=SCHEMA_VERSION).reports
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{error} Measure it again.") from error


@dataclass(frozen=True, slots=True)
class _LayersFile:
    reports: tuple[LayerReport, ...]


def write_layers(path: Path, reports: Sequence[LayerReport]) -> None:
    """Write reports as one JSON file, whole or not at all.

    Raises:
        InvalidRequestError: if the path cannot be written.
    """
    data = {"schema_version": SCHEMA_VERSION, "reports": [r.to_dict() for r in reports]}
    write_atomic(path, json.dumps(data, indent=1) + "\n")


def enclosing(module: str) -> list[str]:
    """A module's path and those around it, outermost first: ``a.b`` is the model itself, ``a`` and ``a.b``."""
    parts = module.split(".") if module else []
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]


def middle(times: Sequence[float]) -> float:
    """The mean of the middle half.

    Profilers count in whole microseconds, too coarse for a median; a plain mean would hold every disturbance.
    """
    ordered = sorted(times)
    quarter = len(ordered) // 4
    return fmean(ordered[quarter : len(ordered) - quarter])


def summed(layers: Iterable[LayerTime]) -> tuple[LayerTime, ...]:
    """Layers of the same node put together, in the order in which they first ran."""
    sums: dict[tuple[str, str, str], LayerTime] = {}
    for layer in layers:
        key = (layer.module, layer.operator, layer.node)
        before = sums[key].microseconds if key in sums else 0.0
        sums[key] = LayerTime(*key, before + layer.microseconds, layer.known)
    return tuple(sums.values())
