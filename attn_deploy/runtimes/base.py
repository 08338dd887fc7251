"""The protocol that every runtime answers to, so that one timer and one parity check serve all of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from attn_deploy.inputs.tensors import Arrays


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What ran, read back and not as requested.

    Attributes:
        runtime: eager, ort-cpu, ...
        version: of the library.
        provider: what executed the work (the execution provider, or the device).
        precision: element types that the work was done in.
        threads: threads within an operator; None where the notion does not apply.
        settings: everything else that changes speed or numbers (TF32, graph optimisation level, memory format ...).
    """

    runtime: str
    version: str
    provider: str
    precision: str
    threads: int | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


@runtime_checkable
class Runner(Protocol):
    """A model in a runtime.

    ``prepare`` uploads one set of inputs, ``enqueue`` starts one run on them, ``synchronize`` waits for it, ``outputs``
    brings the results back as arrays. Timing a run is ``enqueue`` and ``synchronize`` alone.
    """

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        ...

    def prepare(self, inputs: Arrays) -> None:
        """Make ``inputs`` resident; their sizes may differ from the last ones."""
        ...

    def enqueue(self) -> None:
        """Start one run."""
        ...

    def synchronize(self) -> None:
        """Wait until the run is done."""
        ...

    def outputs(self) -> Arrays:
        """The results of the last run, by output name."""
        ...

    def close(self) -> None:
        """Free the session and its memory."""
        ...


@runtime_checkable
class DeviceClock(Protocol):
    """A runner whose device keeps the time of each run with events of its own stream, beside the host's clock."""

    def elapsed_ms(self) -> float:
        """Milliseconds that the last run took on the device, from its first kernel to its last; waits for its end.

        Copies of inputs and outputs are not in it. Raises `InvalidRequestError` if nothing was enqueued yet.
        """
        ...


@runtime_checkable
class Bracketed(Protocol):
    """A runner with something that its users set up once around many runs, such as PyTorch's inference mode.

    A run outside of it is right as well; entering and leaving it is then part of the run.
    """

    def bracket(self) -> AbstractContextManager[Any]:
        """What to run in; it may be entered again when it was left."""
        ...


def run_once(runner: Runner, inputs: Arrays) -> Arrays:
    """One complete run: upload, run, wait, download."""
    runner.prepare(inputs)
    runner.enqueue()
    runner.synchronize()
    return runner.outputs()
