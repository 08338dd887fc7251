"""The two exporters behind one signature: a prepared model and an opset in, an ONNX model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from attn_deploy.errors import AttnDeployError, DynamicAxisError, ExportError
from attn_deploy.exporters.claims import translations
from attn_deploy.exporters.decisions import decision_on_values
from attn_deploy.exporters.guards import decisions_on_sizes
from attn_deploy.exporters.missing import missing_operator, place_of_operator
from attn_deploy.exporters.options import DECOMPOSED_MAX_OPSET, DYNAMO_MIN_OPSET, TORCHSCRIPT_MAX_OPSET
from attn_deploy.exporters.other_size import fallen_both_ways
from attn_deploy.exporters.prepared import PreparedModel, Remark, Translation
from attn_deploy.exporters.program import exported_program
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.refusal import refusal
from attn_deploy.exporters.remarks import remarks
from attn_deploy.exporters.size_decisions import decisions_at
from attn_deploy.exporters.torchlib import contiguous_writes, shared_work
from attn_deploy.graph.light import light_model
from attn_deploy.graph.placed import INLINE
from attn_deploy.inputs.samples import verification_sizes
from attn_deploy.processes import no_collection
from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import place_of_error, place_of_line
from attn_deploy.rules.rules import explain


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
    kept = prepared.work.translations.get(exporter)
    if kept is None or kept.opset != native:
        kept = _dynamo(prepared, native) if exporter == "dynamo" else _torchscript(prepared, native)
        prepared.work.translations[exporter] = kept
    model = onnx.ModelProto()
    model.CopyFrom(kept.model)  # what follows rewrites the graph in place
    return replace(kept, model=model)


def _dynamo(prepared: PreparedModel, opset: int) -> Translation:
    traced = exported_program(prepared)
    with torch.no_grad(), quiet_torch(), no_collection(), shared_work(prepared.work.decomposed):
        try:
            exported = torch.onnx.export(
                traced.program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[i.name for i in prepared.inputs],
                output_names=list(prepared.outputs),
                optimize=True,
                verbose=False,
                custom_translation_table=translations(),
            )
        except Exception as error:
            raise _failed(prepared, "the torch.export exporter", error, traced.program) from error
    if exported is None:
        raise ExportError(f"{prepared.label}: the torch.export exporter returned nothing.")
    path = prepared.work.place("dynamo") / "model.onnx"
    # Straight from torch's tensors into the file: as protobuf the weights would be in memory three times.
    with contiguous_writes():
        ir.save(exported.model, path, external_data="weights", size_threshold_bytes=INLINE)
    return Translation(light_model(path), "dynamo", opset, traced.minimum)


def _torchscript(prepared: PreparedModel, opset: int) -> Translation:
    axes: dict[str, dict[int, str]] = {}
    for tensor in prepared.inputs:
        axes[tensor.name] = {a: str(d) for a, d in enumerate(tensor.dims) if prepared.moves(d)}
    for name, dims in zip(prepared.outputs, prepared.output_dims, strict=True):
        axes[name] = {a: d for a, d in enumerate(dims) if isinstance(d, str)}
    with (
        torch.no_grad(),
        quiet_torch(),
        prepared.traced(),
        remarks() as noted,
    ):
        path = prepared.work.place("torchscript") / "model.onnx"
        try:
            torch.onnx.export(
                prepared.traceable_module(),
                prepared.example(prepared.trace_sizes),
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
        model = light_model(path)
    frozen = tuple(noted)
    decision = decision_on_values(prepared) if frozen else None
    if decision is not None:
        nearby = (f.what for f in prepared.findings if f.rule == decision.rule and f.place.line == decision.place.line)
        words = "; ".join((next(nearby, ""), decision.what)).removeprefix("; ")
        raise refusal(prepared.label, decision.rule, decision.place, detail=words)
    return Translation(model, "torchscript", opset, _least_by_decisions(prepared, frozen), frozen)


def _least_by_decisions(prepared: PreparedModel, frozen: Sequence[Remark]) -> Mapping[str, int]:
    """The least extents for which decisions that the trace made constants come out the same.

    Raises:
        DynamicAxisError: if one comes out differently at a size of the proof.
        ExportError: if one comes out differently at a size within the range, or nothing can be known of them.
    """
    decisions = [r for r in frozen if "boolean" in r.text]
    if decisions and prepared.trace_sizes:
        proven = fallen_both_ways(prepared, decisions)
        decisions = [r for r in decisions if (r.file, r.line) not in proven]
    if not decisions or not prepared.dynamic:
        return {}
    sizes = [] if prepared.trace_sizes else verification_sizes(prepared.inputs, prepared.dynamic)
    otherwise, held = decisions_at(prepared, sizes)
    if otherwise is not None:  # seen in less time than symbolic arithmetic may take
        place = otherwise.decision.place
        known = next((f for f in prepared.findings if (f.place.file, f.place.line) == (place.file, place.line)), None)
        detail = str(otherwise) if known is None else f"{known.what}; {otherwise}"
        said = refusal(prepared.label, "branch-on-shape" if known is None else known.rule, place, detail=detail)
        raise DynamicAxisError(str(said), rule=said.rule)
    limits = decisions_on_sizes(prepared, [f"{Path(r.file).name}:{r.line}" for r in decisions])
    if limits is not None and not limits.broken:
        return limits.minimum
    frozen_one = frozen_decision(prepared, decisions)
    # Where symbols cannot follow forward, seen numbers say that the batch decides nothing. Of H and W they do not: a map that
    # is padded to a least size has one number at all small sizes.
    only_batch = all(s[0] == "N" for s in prepared.dynamic)
    if frozen_one is None or (limits is None and held and only_batch):
        return {}
    detail = frozen_one.what if limits is None else f"{frozen_one.what}; {limits.broken}"
    raise refusal(prepared.label, frozen_one.rule, frozen_one.place, detail=detail)


def frozen_decision(prepared: PreparedModel, remarks: Sequence[Remark]) -> Finding | None:
    """The first remark of a tracer that can be why a file is wrong at another size."""
    for remark in remarks:
        nearby = [f for f in prepared.findings if (f.place.file, f.place.line) == (remark.file, remark.line)]
        if "Iterating over a tensor" in remark.text:  # harmless where its length is that of every run
            nearby = [f for f in nearby if f.rule == "loop-over-batch"]
            if not nearby:
                continue
        if nearby:
            return nearby[0]
        identifier = "branch-on-shape" if "boolean" in remark.text else "number-from-shape"
        place = place_of_line(prepared.module, remark.file, remark.line)
        return Finding(identifier, f"tracing says: {remark.text}", place)
    return None


def _failed(
    prepared: PreparedModel, which: str, error: Exception, program: ExportedProgram | None = None
) -> AttnDeployError:
    if isinstance(error, AttnDeployError):
        return error
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None and len(causes) < 6:
        causes.append(causes[-1].__cause__)
    root = causes[-1]
    text = " ".join(str(root).split()).split(" Please feel free")[0].split(" [Caused by")[0][:300].rstrip(". ")
    entry = explain(error)
    place = place_of_error(root, prepared.module)
    missing = missing_operator(text)
    if missing and (entry is None or entry.general):
        place = place_of_operator(program, prepared, missing) or place
        if "complex-valued" in str(root):
            detail = f"{which} has no {missing} for complex numbers"
            return refusal(prepared.label, "complex-output", place, detail=detail)
        return refusal(prepared.label, "unsupported-operator", place, detail=f"{which} has no {missing}")
    failure = f"{which} failed: {type(root).__name__}: {text}"
    if entry is None:
        return ExportError(f"{prepared.label}: {failure}{place.phrase}.")
    at = next((f.place for f in prepared.findings if f.rule == entry.id), place)
    return refusal(prepared.label, entry.id, at, detail=failure)
