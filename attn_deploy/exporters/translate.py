"""The two exporters behind one signature: a prepared model and an opset in, an ONNX model out."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch

from attn_deploy.errors import AttnDeployError, ExportError
from attn_deploy.exporters.options import DYNAMO_MIN_OPSET, TORCHSCRIPT_MAX_OPSET
from attn_deploy.exporters.prepare import PreparedModel, user_line
from attn_deploy.exporters.program import exported_program
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.torchlib import shared_table

_TORCH = Path(torch.__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Translation:
    """A raw ONNX model and what its exporter remarked."""

    model: onnx.ModelProto
    exporter: str
    notes: tuple[str, ...] = field(default=())


def translate(prepared: PreparedModel, exporter: str, opset: int) -> Translation:
    """Run one exporter, at the opset nearest to ``opset`` that it has operators for.

    Opsets that share this nearest one share the translation: the last one of each exporter is kept with the model.

    Raises:
        ExportError: if it fails; the message is in the user's words.
    """
    native = max(opset, DYNAMO_MIN_OPSET) if exporter == "dynamo" else min(opset, TORCHSCRIPT_MAX_OPSET)
    kept = prepared.translations.get(exporter)
    if kept is None or kept[0] != native:
        made = _dynamo(prepared, native) if exporter == "dynamo" else _torchscript(prepared, native)
        kept = prepared.translations[exporter] = (native, made)
    model = onnx.ModelProto()
    model.CopyFrom(kept[1])  # what follows rewrites the graph in place
    return Translation(model, exporter)


def _dynamo(prepared: PreparedModel, opset: int) -> onnx.ModelProto:
    program = exported_program(prepared)
    with quiet_torch(), shared_table():
        try:
            made = torch.onnx.export(
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
    if made is None:
        raise ExportError(f"{prepared.label}: the torch.export exporter returned nothing.")
    return made.model_proto


def _torchscript(prepared: PreparedModel, opset: int) -> onnx.ModelProto:
    axes: dict[str, dict[int, str]] = {}
    for given in prepared.inputs:
        axes[given.name] = {a: str(d) for a, d in enumerate(given.dims) if prepared.moves(d)}
    for name, dims in zip(prepared.outputs, prepared.output_dims, strict=True):
        axes[name] = {a: d for a, d in enumerate(dims) if isinstance(d, str)}
    with (
        tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder,
        quiet_torch(),
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
    frozen = _frozen_decisions(caught)
    if frozen:
        raise ExportError(
            f"{prepared.label}: tracing froze a Python decision or number that depends on the input: {frozen[0]}. The "
            "file would follow it for every input. Compute both sides and choose with torch.where, keep sizes symbolic, "
            "or try --exporter dynamo."
        )
    return model


def _frozen_decisions(caught: list[warnings.WarningMessage]) -> list[str]:
    """TracerWarnings that name the user's own lines; those inside torch are judged by the parity check."""
    tracer_warning = torch.jit.TracerWarning  # type: ignore[attr-defined]
    found = []
    for w in caught:
        if issubclass(w.category, tracer_warning) and _TORCH not in Path(w.filename).resolve().parents:
            text = str(w.message).split(". ")[0].split(" might cause")[0]
            found.append(f"{Path(w.filename).name}, line {w.lineno}: {text}")
    return list(dict.fromkeys(found))


def _failed(prepared: PreparedModel, which: str, error: Exception) -> AttnDeployError:
    if isinstance(error, AttnDeployError):
        return error
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None and len(causes) < 6:
        causes.append(causes[-1].__cause__)
    root = causes[-1]
    text = " ".join(str(root).split())[:400]
    return ExportError(f"{prepared.label}: {which} failed: {type(root).__name__}: {text}{user_line(root)}.")
