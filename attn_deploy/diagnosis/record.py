"""The result of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """A part of a graph that is to blame.

    Attributes:
        question: ``build`` (the target refuses it) or ``numbers`` (its results are out of tolerance).
        module: path of the PyTorch module; empty where the file does not say, or for the model itself.
        class_name: class of that module; empty if only a file is known.
        operator, node: the ONNX node to blame.
        what: the target's words, or the error, with the values that matter.
        remedy: what to do; empty if nothing is known to help.
        operators: nodes by type in the smallest part that fails.
        alone: whether that part fails alone, by itself; otherwise it takes the rest of the graph too.
        subgraph: the file that holds that part; empty if none was written.
        data: the file with its inputs and what they should give; empty if none was written.
    """

    question: str
    module: str
    class_name: str
    operator: str
    node: str
    what: str
    remedy: str = ""
    operators: Mapping[str, int] = field(default_factory=dict)
    alone: bool = True
    subgraph: str = ""
    data: str = ""

    @property
    def place(self) -> str:
        """``encoder.3.mixer (Fft)``, or the node where no module is known."""
        if not self.module:
            return f"node {self.node}" if self.node else "the whole graph"
        return f"{self.module} ({self.class_name})" if self.class_name else self.module


@dataclass(frozen=True, slots=True)
class Step:
    """The error at the end of one module.

    Attributes:
        module, class_name: the module; empty as in `Fault`.
        tensor, operator: the tensor that leaves it, and the type of the node that makes it.
        max_abs_error: largest absolute difference from the reference; None where NaN or infinite.
        relative: the same in units of the largest magnitude of the reference.
        ratio: the largest difference in units of what the tolerance allows; None where NaN or infinite.
        finite: whether every element is finite.
        alone: as ``ratio``, when this part is fed with the reference's values; None where it was not tried. Infinite
            values are written as -1.
    """

    module: str
    class_name: str
    tensor: str
    operator: str
    max_abs_error: float | None
    relative: float | None
    ratio: float | None
    finite: bool
    alone: float | None = None

    @property
    def exceeds(self) -> bool:
        """Whether the tensor is out of tolerance."""
        return self.ratio is None or self.ratio > 1


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt of the target at a part: what it was, how many nodes, whether it was refused, seconds."""

    what: str
    nodes: int
    refused: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was tried, and the results.

    Attributes:
        model: name or file.
        precision: of the graph that was examined; what was asked for, else ``as it is``.
        target: what should build it; empty if that was not asked.
        against: what its numbers were compared with; empty if they were not.
        nodes: of the graph.
        build, numbers: the faults; None where there is none.
        compared_at: the input shapes of the steps.
        tolerance: rtol and atol; for 8 bits root_mean_square, in units of that of the tensor.
        steps: the error at the end of each module, in order of computation.
        trials: what the target was given.
        overflow: the first value beyond the half type's range, and how it was met; empty if there is none.
        notes: what could not be examined, and why.
        seconds: of the whole.
    """

    model: str
    precision: str
    target: str
    against: str
    nodes: int
    build: Fault | None = None
    numbers: Fault | None = None
    compared_at: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    trials: tuple[Trial, ...] = ()
    overflow: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    attn_deploy: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults, the build first."""
        return tuple(f for f in (self.build, self.numbers) if f is not None)

    @property
    def passed(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "passed": self.passed}
