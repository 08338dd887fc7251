"""Graph-to-graph steps as a user calls them: from file to file, each compared with its source before it is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

import attn_deploy
from attn_deploy.errors import GraphError, OpsetError
from attn_deploy.files import atomic_path, check_writable, write_atomic
from attn_deploy.graph.artifact import METADATA_PREFIX, OnnxArtifact, check_model, load_model, read_onnx
from attn_deploy.graph.opset import ConversionResult, convert_opset
from attn_deploy.graph.simplify import simplify_model
from attn_deploy.parity.graphs import compare_models
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.runtimes.onnxruntime import import_onnxruntime


def simplify(artifact: OnnxArtifact | Path | str, path: Path | str) -> OnnxArtifact:
    """Simplify an ONNX file into another, after comparing both in ONNX Runtime.

    Args:
        artifact: the file, or its artifact.
        path: the file to write.

    Raises:
        GraphError: if the file cannot be read, or no simplifier gives a valid graph.
        ParityError: if the simplified graph gives other numbers.
        MissingDependencyError: if onnxruntime is not installed.
    """
    source = artifact.path if isinstance(artifact, OnnxArtifact) else Path(artifact)
    target = Path(path)
    check_writable(target)
    model = load_model(source)
    made = simplify_model(model)
    if not made.tool:
        raise GraphError(f"{source} was not simplified: {made.reason}.")
    compare_models(model, made.model).raise_if_failed(f"{source} simplified by {made.tool}")
    write_atomic(target, made.model.SerializeToString())
    return read_onnx(target)


def convert(artifact: OnnxArtifact | Path | str, path: Path | str | None = None, *, opset: int) -> OnnxArtifact:
    """Rewrite an ONNX file for another opset, after comparing both in ONNX Runtime at several sizes.

    Args:
        artifact: the file, or its artifact.
        path: the file to write; by default ``<name>-opset<k>.onnx`` beside the source.
        opset: 13 to 25; the file holds exactly this.

    Returns:
        What was read back from the finished file; ``metadata["conversion"]`` tells how it was made and compared.

    Raises:
        OpsetError: if an operator, an attribute or an element type has no equal at that opset.
        GraphError: if the file cannot be read, is not valid, or cannot be run.
        ParityError: if the converted graph gives other numbers.
        MissingDependencyError: if onnxruntime is not installed.
    """
    source = artifact.path if isinstance(artifact, OnnxArtifact) else Path(artifact)
    target = Path(path) if path is not None else source.with_name(f"{source.stem}-opset{opset}.onnx")
    check_writable(target)
    import_onnxruntime()
    model = load_model(source)
    check_model(model, str(source))
    try:
        result = convert_opset(model, opset)
    except OpsetError as error:
        raise OpsetError(f"{source}: {error}", exit_code=error.exit_code) from error
    # Unoptimised, because the two graphs are judged here and not what an optimiser makes of them.
    report = compare_models(model, result.model, tolerance=_tolerance(model), optimize=False)
    report.raise_if_failed(f"{source} converted from opset {result.source} to {opset}")
    _note_conversion(result, report)
    with atomic_path(target) as temporary:
        try:
            onnx.save(result.model, temporary)
        except ValueError as error:  # protobuf stops at 2 GiB
            raise GraphError(f"{target} cannot be written as one file: {error}") from error
        found = read_onnx(temporary)
        if found.opset != opset:
            raise OpsetError(f"{source}: asked for opset {opset}, the written file has opset {found.opset}.")
        if load_model(temporary).graph.SerializeToString() != result.model.graph.SerializeToString():
            raise GraphError(f"{target}: the graph in the written file is not the one that was compared.")
    return replace(found, path=target)


def _tolerance(model: onnx.ModelProto) -> Tolerance:
    """The tolerance of the coarsest element type in a graph's interface and weights."""
    kinds = {i.data_type for i in model.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    if onnx.TensorProto.BFLOAT16 in kinds:
        return TOLERANCES["bfloat16"]
    return TOLERANCES["float16" if onnx.TensorProto.FLOAT16 in kinds else "float32"]


def _note_conversion(result: ConversionResult, report: ParityReport) -> None:
    """Write the evidence into the model's metadata, and the new opset into what an export wrote there."""
    entries = {p.key: p.value for p in result.model.metadata_props}
    key = METADATA_PREFIX + "{}"
    if key.format("record") in entries:
        record = json.loads(entries[key.format("record")])
        entries[key.format("record")] = json.dumps({**record, "opset": result.target})
    entries[key.format("version")] = attn_deploy.__version__
    entries[key.format("opset")] = str(result.target)
    entries[key.format("conversion")] = json.dumps(
        {
            "from": result.source,
            "to": result.target,
            "rules": dict(result.applied),
            "max_abs_error": report.max_abs_error,
            "rtol": report.rtol,
            "atol": report.atol,
            "shapes": [dict(case.shapes) for case in report.cases],
        }
    )
    del result.model.metadata_props[:]
    for name, value in entries.items():
        result.model.metadata_props.add(key=name, value=value)
