"""What a diagnosis is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.engine.profile import GivenProfile
from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import OnnxArtifact
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.inputs.user_samples import Sample

if TYPE_CHECKING:
    from torch import nn

TIMEOUT_SECONDS = 120.0
Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """No progress is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisRequest:
    """What to examine, and against what.

    Attributes:
        model: a name, a module, an ONNX file or its artifact.
        precision: fp16, bf16, int8 or fp8 to examine the conversion of an fp32 graph; None for the graph as it is.
        target: ``tensorrt-rtx``, ``tensorrt-rtx:sm75,sm86``, ``tensorrt`` or ``onnxruntime``.
        against: ``eager``, ``onnxruntime`` (the fp32 graph before the conversion), an ONNX file, or a model in PyTorch.
            None: eager for a model and for a file of this package's registry, the fp32 graph for a conversion.
        output: file for the smallest failing part; by default ``<name>-failing.onnx``. With faults of both kinds the one
            in the numbers goes to ``<output stem>-numbers.onnx``.
        build: ask which part the target refuses.
        numbers: ask which part gives wrong numbers.
        by_range: keep nodes in fp32 whose measured values leave the range of the half type, as an export does.
        calibration: what ranges are measured and numbers compared on: an ``.npz`` with an array of samples for each
            input, or what else `attn_deploy.quantize` takes. None for ramped noise.
        inputs: of a model of the user's, or of the one that ``against`` names.
        dynamic: symbols that move, of a model.
        weights: checkpoint of a model.
        arguments: constructor arguments when ``model`` is a name.
        opset: of a model's export.
        exporter: auto, dynamo or torchscript, of a model's export.
        profile: shapes at which the target builds, see `attn_deploy.engine.profile.make_profiles`; by default derived.
        timeout: seconds for each trial of the target.
        progress: called with what is tried.
        samples: the user's own inputs, which join the comparison.

    Raises:
        InvalidRequestError: if nothing is left to ask, or there is no time for a trial.
    """

    model: str | Path | OnnxArtifact | nn.Module
    precision: str | None = None
    target: str = "tensorrt-rtx"
    against: str | Path | OnnxArtifact | nn.Module | None = None
    output: Path | str | None = None
    build: bool = True
    numbers: bool = True
    by_range: bool = True
    calibration: Path | str | None = None
    inputs: Sequence[TensorInput] | None = None
    samples: Sequence[str | Path | Sample] | None = None
    dynamic: Sequence[str] | None = None
    weights: Path | str | None = None
    arguments: Mapping[str, Any] | None = None
    opset: int | None = None
    exporter: str = "auto"
    profile: GivenProfile | Iterable[GivenProfile] = ()
    timeout: float = TIMEOUT_SECONDS
    progress: Progress = field(default=_silent, compare=False)

    def __post_init__(self) -> None:
        if not self.build and not self.numbers:
            raise InvalidRequestError("nothing is left to ask: leave out --no-build or --no-numbers.")
        if self.timeout <= 0:
            raise InvalidRequestError(f"a time limit of {self.timeout} s leaves no time for a trial; give more than 0.")

    @property
    def file(self) -> Path | None:
        """The ONNX file, if it is one that is examined."""
        path = self.model.path if isinstance(self.model, OnnxArtifact) else self.model
        if isinstance(path, Path) or (isinstance(path, str) and Path(path).suffix == ".onnx"):
            return Path(path)
        return None
