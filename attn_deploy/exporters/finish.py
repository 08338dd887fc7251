"""From an exporter's raw graph to a finished one: interface named, symbolic axes checked, simplified, stamped."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import onnx

from attn_deploy._version import __version__
from attn_deploy.errors import DynamicAxisError, OpsetError
from attn_deploy.exporters.forms import refuse_later_forms
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.record import ExportRecord
from attn_deploy.exporters.safe_softmax import drop_needless_guards_
from attn_deploy.graph.artifact import check_model
from attn_deploy.graph.evidence import Evidence, write_evidence
from attn_deploy.graph.known_forms import write_known_forms_
from attn_deploy.graph.operators import refuse_foreign
from attn_deploy.graph.opset import IR_VERSIONS
from attn_deploy.graph.scopes import NAME_SCOPES


def normalise(model: onnx.ModelProto, prepared: PreparedModel, opset: int) -> onnx.ModelProto:
    """Name the interface and its axes, drop what tells of the machine, and check the whole.

    Raises:
        OpsetError: if the graph has another opset than the request, or uses forms of operators that it lacks.
        DynamicAxisError: if an axis declared dynamic is a number in the graph.
        GraphError: if the checker or the operator list refuses the graph.
    """
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version != opset:
        raise OpsetError(f"{prepared.label}: asked for opset {opset}, the graph has opset {version}.")
    for domain in [o for o in model.opset_import if o.domain not in ("", "ai.onnx")]:
        if not any(n.domain == domain.domain for n in model.graph.node):
            model.opset_import.remove(domain)
    model.ir_version = IR_VERSIONS[opset]
    model.producer_name, model.producer_version = "attn-deploy", __version__
    model.doc_string = ""
    model.graph.name = prepared.label
    del model.graph.value_info[:]  # holds the exporter's own symbols; shape inference restores it where it is wanted
    for node in model.graph.node:
        node.doc_string = ""
        _keep_module_path_only(node)
    for value in model.graph.initializer:
        value.doc_string = ""
    drop_needless_guards_(model)
    write_known_forms_(model)
    _name_axes(model.graph.input, [i.dims for i in prepared.inputs], prepared, "input")
    _name_axes(model.graph.output, list(prepared.output_dims), prepared, "output")
    refuse_foreign(model, prepared.label)
    check_model(model, f"{prepared.label}: the exported graph")
    refuse_later_forms(model, opset, prepared.label)
    return model


def _keep_module_path_only(node: onnx.NodeProto) -> None:
    """Keep the PyTorch module path of a node; stack traces and the rest name files of the machine."""
    scopes = [p for p in node.metadata_props if p.key == NAME_SCOPES]
    value = scopes[0].value if scopes else ""
    del node.metadata_props[:]
    if value:
        node.metadata_props.add(key=NAME_SCOPES, value=value)


def _name_axes(values: Any, dims_by_value: list[tuple[int | str, ...]], prepared: PreparedModel, kind: str) -> None:
    for value, dims in zip(values, dims_by_value, strict=True):
        shape = value.type.tensor_type.shape
        if len(shape.dim) != len(dims):
            raise DynamicAxisError(
                f"{prepared.label}: {kind} {value.name!r} has {len(shape.dim)} axes in the graph and {len(dims)} in PyTorch."
            )
        for axis, (extent, dim) in enumerate(zip(shape.dim, dims, strict=True)):
            is_number = extent.HasField("dim_value")
            moves = isinstance(dim, str) and (kind == "output" or prepared.moves(dim))
            if moves and is_number:
                raise DynamicAxisError(
                    f"{prepared.label}: axis {axis} ({dim}) of {kind} {value.name!r} was declared dynamic and is the number "
                    f"{extent.dim_value} in the graph: a size that was traced has been baked in. Try the other --exporter, "
                    "and look for int(), .item() or Python arithmetic on x.shape."
                )
            if moves:
                extent.dim_param = str(dim)
            elif not is_number and kind == "output" and re.search(r"\bu\d+\b", extent.dim_param):
                extent.dim_param = f"{value.name}_{axis}"  # its size depends on the values of an input
            elif not is_number:
                extent.dim_value = int(dim) if isinstance(dim, int) else prepared.inputs[0].sizes[dim]


def stamp(model: onnx.ModelProto, record: ExportRecord) -> None:
    """Write the evidence into the file's metadata."""
    evidence = Evidence(
        model=record.model,
        arguments=record.arguments,
        exporter=record.exporter,
        opset=record.opset,
        dynamic_axes=record.dynamic,
        parity=record.parity,
        torch=record.versions.get("torch", ""),
        record=record.to_dict(),
    )
    if record.typing is not None:  # a claim that the engine builder checks; a model may be half by itself
        evidence = replace(evidence, precision=record.precision, typing=record.typing)
    write_evidence(model, evidence.after("export", {"exporter": record.exporter, "opset": record.opset}))
