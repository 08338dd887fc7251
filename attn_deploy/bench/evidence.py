"""What stands beside a latency: where the work ran, what it held, how right it was, and how the machine was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attn_deploy.machine.state import MachineState


@dataclass(frozen=True, slots=True)
class Placement:
    """Which provider of a runtime took which part of the graph, as the runtime itself tells.

    Attributes:
        asked: the provider that the work was meant for.
        nodes: for each provider the nodes of the optimised graph that it runs.
        elsewhere: for each operator type that another provider runs, how many nodes.
    """

    asked: str
    nodes: Mapping[str, int]
    elsewhere: Mapping[str, int]

    @property
    def share(self) -> float:
        """Share of the nodes that run where they were meant to; 0 for an empty graph."""
        total = sum(self.nodes.values())
        return self.nodes.get(self.asked, 0) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """Peak memory of one runtime in a process of its own, in bytes.

    Attributes:
        host: the most that the process held (resident set, high-water mark).
        host_before: what it held when the library was imported, and no model was there yet.
        device: the most that the process held on the GPU; None where none was used, or nothing tells.
    """

    host: int
    host_before: int
    device: int | None = None

    @property
    def host_added(self) -> int:
        """What model, session and runs added to the process."""
        return max(0, self.host - self.host_before)


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """Accuracy of one runtime and precision, beside its latency.

    Attributes:
        dataset, split, sha256: the images; rows with the same digest saw the same images.
        images, correct: how many there were, and how many highest scores were the label's.
        reference: what the answers were compared with; empty for the reference itself, which has none of the rest.
        same: images with the same answer as the reference.
        only_reference, only_this: images that one got right and the other did not.
        p_value: McNemar's exact test: probability of a split at least as uneven if both were equally good.
    """

    dataset: str
    split: str
    sha256: str
    images: int
    correct: int
    reference: str = ""
    same: int | None = None
    only_reference: int | None = None
    only_this: int | None = None
    p_value: float | None = None

    @property
    def top1(self) -> float:
        """Share of right answers."""
        return self.correct / self.images

    @property
    def agreement(self) -> float | None:
        """Share of images with the same answer as the reference."""
        return None if self.same is None else self.same / self.images


@dataclass(frozen=True, slots=True)
class Conditions:
    """The machine before and after the runs of a row, and of those timed in turn with it."""

    before: MachineState
    after: MachineState

    @property
    def throttled(self) -> tuple[str, ...]:
        """Why GPU clocks were held down, before or after."""
        return tuple(dict.fromkeys(why for s in (self.before, self.after) for g in s.gpus for why in g.throttle))


@dataclass(frozen=True, slots=True)
class GraphCost:
    """The ONNX graph that a row ran, without the path it happened to lie at, and what it must do at the row's shapes.

    Attributes:
        sha256: of the file.
        opset, nodes: of the file.
        macs: multiply-accumulates of one run; None where they were not counted.
        bytes_ideal: bytes that must move with ideal fusion: inputs, outputs and weights, in the graph's own types.
        bytes_unfused: bytes that move when every node reads and writes its own tensors.
    """

    sha256: str
    opset: int
    nodes: int
    macs: int | None = None
    bytes_ideal: int | None = None
    bytes_unfused: int | None = None
