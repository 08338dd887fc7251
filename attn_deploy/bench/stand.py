"""What the shapes of a profile share, and a runner that is ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attn_deploy.bench.evidence import GraphCost, Placement
from attn_deploy.bench.files import OnnxFiles
from attn_deploy.bench.latency import ColdStart
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.subject import ProfileSubject
from attn_deploy.errors import (
    MissingDependencyError,
)
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.runtimes.base import Runner, RuntimeInfo


@dataclass(slots=True)
class ReadyRunner:
    """A runner that ran once and is ready to be timed."""

    runner: Runner
    cold: ColdStart
    outputs: Arrays
    info: RuntimeInfo
    placement: Placement | None
    graph: GraphCost | None


@dataclass(slots=True)
class Bench:
    """What all shapes of a profile share.

    Attributes:
        subject: what is profiled.
        options: with the number of threads.
        files: of the runtimes that run ONNX files.
        device: of torch.
        tf32: as `attn_deploy.runtimes.work.Work`.
        folder: for engines.
        progress: is called with a few words at each step.
        trail: gets the variant that is about to run, so that a crash has a name.
        keep: whether the module is used again after the runner is made.
        samples: gives real inputs of these shapes, on which 8 bits are judged; none where there are none.
        missing: dependencies that rows lacked.
    """

    subject: ProfileSubject
    options: BenchOptions
    files: OnnxFiles
    device: str = "cpu"
    tf32: bool = False
    folder: Path | None = None
    progress: Callable[[str], None] = lambda _: None
    trail: Callable[[str], None] = lambda _: None
    keep: bool = True
    samples: Callable[[tuple[TensorInput, ...]], Sequence[Arrays]] = lambda _: ()
    missing: list[MissingDependencyError] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Threads within an operator."""
        return self.options.threads or 1
