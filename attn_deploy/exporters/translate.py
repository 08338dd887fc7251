"""The two exporters behind one signature: a prepared model and an opset in, an ONNX model out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch

from attn_deploy.errors import AttnDeployError, ExportError
from attn_deploy.exporters import safe_forms
from attn_deploy.exporters.options import DECOMPOSED_MAX_OPSET, DYNAMO_MIN_OPSET, TORCHSCRIPT_MAX_OPSET
from attn_deploy.exporters.prepare import PreparedModel
from attn_deploy.exporters.program import exported_program
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.refusal import refusal
from attn_deploy.exporters.torchlib import shared_work
from attn_deploy.files import scratch_folder
from attn_deploy.ops import fold
from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import place_of_error, place_of_line
from attn_deploy.rules.rules import explain

_TORCH = Path(torch.__file__).resolve().parent
# Here channel counts are made numbers on purpose.
_OWN = {Path(str(m.__file__)).resolve() for m in (safe_forms, fold)}


@dataclass(frozen=True, slots=True)
class Translation:
    """A raw ONNX model and what its exporter remarked."""

    model: onnx.ModelProto
    exporter: str
    notes: tuple[str, ...] = field(default=())


def translate(prepared: PreparedModel, exporter: str, opset: int, *, native_attention: bool = False) -> Translation:
    """Run one exporter, at the opset nearest to ``opset`` that it has operators for.

    Opsets that share this nearest one share the translation: the last one of each exporter is kept with the model.
    Attention is written as products and a softmax: above opset 22, where the torch.export exporter would write the operator
    Attention, it is run at 22, unless ``native_attention`` asks for that operator.

    Raises:
        ExportError: if it fails; the message is in the user's words.
    """
    if exporter == "dynamo":
        highest = opset if native_attention else DECOMPOSED_MAX_OPSET
        native = min(max(opset, DYNAMO_MIN_OPSET), highest)
    else:
        native = min(opset, TORCHSCRIPT_MAX_OPSET)
    kept = prepared.translations.get(exporter)
    if kept is None or kept[0] != native:
        graph = _dynamo(prepared, native) if exporter == "dynamo" else _torchscript(prepared, native)
        kept = prepared.translations[exporter] = (native, graph)
    model = onnx.ModelProto()
    model.CopyFrom(kept[1])  # what follows rewrites the graph in place
    return Translation(model, exporter)


def _dynamo(prepared: PreparedModel, opset: int) -> onnx.ModelProto:
    program = exported_program(prepared)
    with quiet_torch(), shared_work(prepared.decomposed):
        try:
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[i.name for i in prepared.inputs],
                output_names=list(prepared.outputs),
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            raise _failed(prepared, "the torch.export exporter", error) from error
    if exported is None:
        raise ExportError(f"{prepared.label}: the torch.export exporter returned nothing.")
    return exported.model_proto


def _torchscript(prepared: PreparedModel, opset: int) -> onnx.ModelProto:
    axes: dict[str, dict[int, str]] = {}
    for tensor in prepared.inputs:
        axes[tensor.name] = {a: str(d) for a, d in enumerate(tensor.dims) if prepared.moves(d)}
    for name, dims in zip(prepared.outputs, prepared.output_dims, strict=True):
        axes[name] = {a: d for a, d in enumerate(dims) if isinstance(d, str)}
    with (
        scratch_folder() as folder,
        quiet_torch(),
        prepared.traced(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        path = Path(folder, "model.onnx")
        try:
            torch.onnx.export(
                prepared.module,
                prepared.example(),
                path,
                dynamo=False,
                opset_version=opset,
                input_names=[i.name for i in prepared.inputs],
                output_names=list(prepared.outputs),
                dynamic_axes=axes,
                do_constant_folding=True,
            )
        except Exception as error:
            raise _failed(prepared, "the TorchScript exporter", error) from error
        model = onnx.load(path)
    frozen = _frozen_decision(prepared, caught)
    if frozen is not None:
        raise refusal(prepared.label, frozen.rule, frozen.place, detail=frozen.what)
    return model


def _frozen_decision(prepared: PreparedModel, caught: list[warnings.WarningMessage]) -> Finding | None:
    """The first TracerWarning on a line of the user's that means a wrong graph; those inside torch the parity check judges.

    A tensor made from constants is one, and unpacking a tensor is harmless where its length is that of every run.
    """
    tracer_warning = torch.jit.TracerWarning  # type: ignore[attr-defined]
    for w in caught:
        file = Path(w.filename).resolve()
        if not issubclass(w.category, tracer_warning) or _TORCH in file.parents or file in _OWN:
            continue
        text = str(w.message).split(". ")[0].split(" might cause")[0]
        decision = _meaning(prepared, text, str(file), w.lineno)
        if decision is not None:
            return decision
    return None


def _meaning(prepared: PreparedModel, text: str, file: str, line: int) -> Finding | None:
    if "registered as constants" in text:
        return None
    nearby = [f for f in prepared.findings if (f.place.file, f.place.line) == (file, line)]
    if "Iterating over a tensor" in text:
        return next((f for f in nearby if f.rule == "loop-over-batch"), None)
    if nearby:
        return nearby[0]
    identifier = "branch-on-shape" if "boolean" in text else "number-from-shape"
    return Finding(identifier, f"tracing says: {text}", place_of_line(prepared.module, file, line))


def _failed(prepared: PreparedModel, which: str, error: Exception) -> AttnDeployError:
    if isinstance(error, AttnDeployError):
        return error
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None and len(causes) < 6:
        causes.append(causes[-1].__cause__)
    root = causes[-1]
    text = " ".join(str(root).split()).split(" Please feel free")[0].split(" [Caused by")[0][:300].rstrip(". ")
    entry = explain(error)
    place = place_of_error(root, prepared.module)
    failure = f"{which} failed: {type(root).__name__}: {text}"
    if entry is None:
        return ExportError(f"{prepared.label}: {failure}{place.phrase}.")
    at = next((f.place for f in prepared.findings if f.rule == entry.id), place)
    return refusal(prepared.label, entry.id, at, detail=failure)
