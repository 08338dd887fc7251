"""What is examined and what it is compared with, from what the user named."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from attn_deploy.diagnosis.references import EagerModules, GraphReference, Reference
from attn_deploy.diagnosis.request import DiagnosisRequest
from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.files import scratch_folder
from attn_deploy.graph.artifact import OnnxArtifact, describe, load_model, open_model
from attn_deploy.graph.parts import Parts
from attn_deploy.graph.precision import PRECISIONS as HALVES
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.parity.given import GivenInputs
from attn_deploy.parity.reference import EagerReference
from attn_deploy.resolve.names import parse_name

if TYPE_CHECKING:
    from torch import nn

    from attn_deploy.exporters.prepared import PreparedModel

EAGER, RUNTIME = "eager", "onnxruntime"


@dataclass(frozen=True, slots=True)
class Subject:
    """A graph with its origin.

    Attributes:
        label: for messages.
        stem: of the names of files that are written.
        folder: where they are written.
        model: the graph.
        prepared: the model in PyTorch that it was exported from just now; None for a file.
        record: of its export, as the file holds it; empty for a foreign file.
    """

    label: str
    stem: str
    folder: Path
    model: onnx.ModelProto
    prepared: PreparedModel | None
    record: Mapping[str, Any]

    @property
    def classes(self) -> Mapping[str, str]:
        """Class names by module path, where the model is at hand."""
        if self.prepared is None:
            return {}
        return {p: type(m).__name__ for p, m in self.prepared.module.named_modules() if p}


def from_file(path: Path) -> Subject:
    """The graph of a file.

    Raises:
        GraphError: if it cannot be read.
    """
    model, _ = open_model(path)
    return Subject(str(path), path.stem, path.parent, model, None, describe(model, path).record)


def from_model(request: DiagnosisRequest) -> Subject:
    """The graph that an export would write, proven or not.

    Raises:
        ExportError, InvalidRequestError: as `attn_deploy.export`.
    """
    from attn_deploy.exporters.options import ExportOptions
    from attn_deploy.exporters.pipeline import export_prepared
    from attn_deploy.exporters.prepare import prepare

    precision = request.precision or "fp32"
    default = ExportOptions.default_opset(precision if precision in HALVES else "fp32")
    options = ExportOptions(
        opset=default if request.opset is None else request.opset,
        exporter=request.exporter,
        dynamic=None if request.dynamic is None else tuple(request.dynamic),
        verify=False,
    )
    request.progress("preparing the model")
    model: Any = request.model
    prepared = prepare(
        model,
        inputs=request.inputs,
        samples=request.samples,
        dynamic=request.dynamic,
        weights=request.weights,
        arguments=request.arguments,
        narrow=precision == "fp16",
    )
    with scratch_folder() as folder:
        path = Path(folder) / "model.onnx"
        artifact = export_prepared(prepared, path, options, progress=request.progress)
        graph = load_model(path)
    kept = tuple(s for s in prepared.dynamic if s in artifact.record["dynamic"])
    prepared = replace(prepared, dynamic=kept)
    stem = parse_name(model).stem if isinstance(model, str) else type(model).__name__.lower()
    return Subject(prepared.label, stem, Path(), graph, prepared, artifact.record)


def reference_for(
    subject: Subject,
    against: str | Path | OnnxArtifact | nn.Module | None,
    *,
    converted: bool,
    inputs: Sequence[TensorInput] | None,
    weights: Path | str | None,
    given: GivenInputs | None = None,
) -> Reference | None:
    """What a subject's numbers are compared with.

    Args:
        subject: the graph.
        against: ``eager``, ``onnxruntime`` (the graph before its conversion), a file, the name of a model, or a module;
            None for what can be known.
        converted: whether the graph is converted to another precision here, so that it is a reference itself.
        inputs: of a model named by ``against``.
        weights: checkpoint of that model.
        given: shapes and samples of the user's, for a graph as reference.

    Returns:
        The reference; None if nothing was named and nothing is known.

    Raises:
        InvalidRequestError: if what was named cannot serve.
    """
    if isinstance(against, OnnxArtifact):
        against = against.path
    if against is None and (subject.prepared is not None or not converted):
        against = EAGER if subject.prepared is not None or _same_again(subject) else None
        if against is None:
            return None
    elif against is None:
        against = RUNTIME
    if isinstance(against, (str, Path)) and str(against).lower() == RUNTIME:
        if not converted:
            raise InvalidRequestError(
                f"{subject.label}: --against onnxruntime compares with the fp32 graph before its conversion, and nothing "
                "is converted here: add --precision fp16 or bf16, or name the fp32 file with --against FILE.onnx."
            )
        return GraphReference(Parts(subject.model), "the fp32 graph in ONNX Runtime", given)
    if isinstance(against, (str, Path)) and Path(against).suffix == ".onnx":
        made = GraphReference(Parts(load_model(Path(against))), str(against), given)
        _check_inputs(subject, [i.name for i in made.inputs], str(against))
        return made
    if isinstance(against, (str, Path)) and str(against).lower() == EAGER:
        if subject.prepared is not None:
            return EagerModules(subject.prepared)
        if not _same_again(subject):
            raise InvalidRequestError(
                f"{subject.label} does not say which model in PyTorch it is: name it, as in --against net.py:MyNet "
                "--input 1x3x224x224 --weights net.safetensors."
            )
        against = str(subject.record["model"])
    return _eager(subject, against, inputs, weights)


def unknown_reference(subject: Subject) -> InvalidRequestError:
    """Why a file's numbers cannot be judged, and what to pass."""
    return InvalidRequestError(
        f"{subject.label}: nothing tells what its numbers should be. Pass --against SOURCE.onnx (the fp32 file that it "
        "was made from), --against NAME (the model in PyTorch, as net.py:MyNet with --input and --weights), or "
        "--precision fp16 to examine a conversion of this file; --no-numbers asks about the build alone."
    )


def _eager(
    subject: Subject,
    against: str | Path | nn.Module,
    inputs: Sequence[TensorInput] | None,
    weights: Path | str | None,
) -> Reference:
    from attn_deploy.exporters.prepare import prepare

    fused = bool(subject.record.get("fused", True))
    model = str(against) if isinstance(against, Path) else against
    prepared = prepare(model, inputs=inputs, weights=weights, fuse=fused)
    names = _names(subject)
    if len(names) != len(prepared.inputs):
        raise InvalidRequestError(
            f"{subject.label} takes {len(names)} inputs ({', '.join(names)}), and {prepared.label} takes "
            f"{len(prepared.inputs)}: it is another model."
        )
    if set(names) != {i.name for i in prepared.inputs}:
        renamed = tuple(replace(i, name=n) for i, n in zip(prepared.inputs, names, strict=True))
        prepared = replace(prepared, inputs=renamed)
    symbols = {d.dim_param for v in subject.model.graph.input for d in v.type.tensor_type.shape.dim}
    if subject.record:
        prepared = replace(prepared, dynamic=tuple(d for d in prepared.dynamic if d in symbols))
    outputs = [o.name for o in subject.model.graph.output]
    if len(outputs) == len(prepared.outputs):
        reference = EagerReference(prepared.original, outputs)
        prepared = replace(prepared, outputs=tuple(outputs), reference=reference)
    return EagerModules(prepared)


def _same_again(subject: Subject) -> bool:
    """Whether making the model of a file's record again gives the same weights: one of the registry, by this torch."""
    record = subject.record
    if not record or record.get("weights"):
        return False
    try:
        parsed = parse_name(str(record["model"]))
        ours = importlib.metadata.version("torch")
    except (AttnDeployError, importlib.metadata.PackageNotFoundError):
        return False
    return parsed.of_registry and _is_registered(parsed.base) and record.get("versions", {}).get("torch") == ours


def _is_registered(name: str) -> bool:
    from attn_deploy import registry

    try:
        registry.get(name)
    except AttnDeployError:
        return False
    return True


def _names(subject: Subject) -> list[str]:
    weights = {i.name for i in subject.model.graph.initializer}
    return [v.name for v in subject.model.graph.input if v.name not in weights]


def _check_inputs(subject: Subject, theirs: Sequence[str], name: str) -> None:
    ours = _names(subject)
    if set(ours) != set(theirs):
        raise InvalidRequestError(
            f"{subject.label} takes {', '.join(ours)} and {name} takes {', '.join(theirs)}: they are not one model."
        )
