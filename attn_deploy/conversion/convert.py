"""Graph-to-graph steps as a user calls them: from file to file, each compared with its source before it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from attn_deploy.conversion.calibration import CalibrationData, load_calibration
from attn_deploy.conversion.half import note_typing, to_half
from attn_deploy.errors import GraphError, InvalidRequestError, OpsetError
from attn_deploy.files import output_file
from attn_deploy.graph.artifact import OnnxArtifact, open_model, read_onnx
from attn_deploy.graph.evidence import Evidence, entries_of, read_evidence, seal_state, write_evidence
from attn_deploy.graph.heads import read_outputs
from attn_deploy.graph.operators import foreign_nodes
from attn_deploy.graph.opset import MIN_OPSET, ConversionResult, convert_opset, standard_opset
from attn_deploy.graph.opset.old import raise_old_opset
from attn_deploy.graph.precision import half_type
from attn_deploy.graph.simplify import simplify_model
from attn_deploy.graph.written import atomic_model, refers_to_data
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.parity.given import GivenInputs, given_inputs
from attn_deploy.parity.graphs import compare_models, inputs_of_samples, runnable_inputs, with_other_batches
from attn_deploy.parity.reference import RememberingRunner
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.parity.verify import compare, compare_on
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, import_onnxruntime

COMPARED_BATCHES = 4
_RUNNABLE_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms")


def simplify(
    artifact: OnnxArtifact | Path | str,
    path: Path | str | None = None,
    *,
    inputs: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
) -> OnnxArtifact:
    """Simplify an ONNX file into another, after comparing both in ONNX Runtime.

    Args:
        artifact: the file, or its artifact.
        path: the file to write; by default ``<name>-simple.onnx`` beside the source.
        inputs: shapes to compare at, as ``NAME:1x3x64x64``.
        samples: ``.npz`` files with real inputs to compare on, an array for each input.

    Raises:
        GraphError: if the file cannot be read, or no simplifier gives a valid graph.
        ParityError: if the simplified graph gives other numbers.
        MissingDependencyError: if onnxruntime is not installed.
    """
    source = artifact.path if isinstance(artifact, OnnxArtifact) else Path(artifact)
    target = output_file(path, source.with_name(f"{source.stem}-simple.onnx"), (".onnx",))
    model, _ = open_model(source, light=True)
    given = given_inputs(model, inputs, samples)
    simplified = simplify_model(model)
    if not simplified.tool:
        raise GraphError(f"{source} was not simplified: {simplified.reason}.")
    report = compare_models(model, simplified.model, given=given)
    report.raise_if_failed(f"{source} simplified by {simplified.tool}")
    nodes = {"tool": simplified.tool, "nodes": [simplified.nodes_before, simplified.nodes_after]}
    evidence = (read_evidence(model) or Evidence()).after("simplify", nodes, parity=report.summary())
    write_evidence(simplified.model, evidence)
    with atomic_model(simplified.model, target, external=refers_to_data(source)):
        pass
    return read_onnx(target)


def convert(
    artifact: OnnxArtifact | Path | str,
    path: Path | str | None = None,
    *,
    opset: int | None = None,
    precision: str | None = None,
    io: str = "fp32",
    calibration: Path | str | None = None,
    keep: Sequence[str] = (),
    inputs: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
    progress: Callable[[str], None] | None = None,
) -> OnnxArtifact:
    """Rewrite an ONNX file for another opset or in half precision, after comparing both at several sizes.

    Args:
        artifact: the file, or its artifact.
        path: the file to write; by default ``<name>-opset<k>.onnx`` or ``<name>-fp16.onnx`` beside the source.
        opset: 13 to 25; the file holds exactly this. None: that of the source, raised to 22 for bf16. A source of opset 4 to
            12 is raised to 13 first.
        precision: fp16 or bf16; softmax, norms, reductions and what leaves the range stay in fp32.
        io: ``fp32`` keeps the types of inputs and outputs, ``same`` gives them the half type.
        calibration: data on which the ranges are measured and the files compared too: an ``.npz`` with an array for each
            input, or what else `attn_deploy.conversion.calibration.load_calibration` takes.
        keep: with ``precision``, patterns of names of nodes, modules or operators that stay in fp32 (``head.*``).
        inputs: shapes to compare at, as ``NAME:1x3x64x64``; by default some that the graph runs at.
        samples: ``.npz`` files with real inputs, an array for each, that ranges are measured and files compared on.
        progress: called with one line where the file has the opset already: it is copied to ``path``, or left where it is.

    Returns:
        What was read back from the finished file; ``metadata["conversion"]`` and ``metadata["typing"]`` say how it was
        made and compared.

    Raises:
        InvalidRequestError: if neither an opset nor a precision is named, or the calibration data do not fit.
        OpsetError: if an operator, an attribute or an element type has no equivalent in that opset.
        PrecisionError: if the graph cannot take the precision; the message names the module.
        GraphError: if the file cannot be read, is not valid, or cannot be run.
        ParityError: if the converted graph gives other numbers.
        MissingDependencyError: if onnxruntime is not installed.
    """
    if opset is None and precision is None:
        raise InvalidRequestError("nothing to convert to: give --opset, --precision, or both.")
    if precision is None and (calibration is not None or io != "fp32" or keep):
        raise InvalidRequestError(
            "--io, --keep and --calibration belong to --precision fp16 or bf16, which is missing."
        )
    source = artifact.path if isinstance(artifact, OnnxArtifact) else Path(artifact)
    words = [f"opset{opset}"] * (opset is not None) + [precision] * (precision is not None)
    target = output_file(path, source.with_name("-".join([source.stem, *map(str, words)]) + ".onnx"), (".onnx",))
    import_onnxruntime()
    model, _ = open_model(source, light=precision is None)
    if precision is None and opset == standard_opset(model):
        outcome = f"copied to {target}" if path is not None else "no file is written"
        (progress or (lambda _: None))(f"{source} has opset {opset} already: nothing to do, {outcome}.")
        return read_onnx(source) if path is None else _copied(source, model, target)
    _refuse_unknown_domains(source, model)
    given = given_inputs(model, inputs, samples)
    half = None if precision is None else half_type(precision)
    half_opset = MIN_OPSET if half is None or opset is not None else half.first_opset
    wanted = max(standard_opset(model), half_opset) if opset is None else opset
    if half is not None:
        half.check(io, wanted)
    graph = model
    if opset is not None or wanted != standard_opset(model):
        graph = at_opset(source, model, wanted, given)
    if precision is not None:
        graph = _in_half(source, model, graph, precision, io, calibration, keep, given)
    with atomic_model(graph, target, external=refers_to_data(source)) as temporary:
        written = read_onnx(temporary)
        if written.opset != wanted:
            raise OpsetError(f"{source}: the written file has opset {written.opset}, not {wanted}.")
        if seal_state(graph) != written.seal or entries_of(graph).get("seal") != written.metadata.get("seal"):
            raise GraphError(f"{target}: the graph in the written file is not the one that was compared.")
    return replace(written, path=target) if not written.data else read_onnx(target)


def _refuse_unknown_domains(source: Path, model: onnx.ModelProto) -> None:
    defined = {f.domain for f in model.functions}
    for node in foreign_nodes(model):
        if node.domain not in defined and not node.domain.startswith(_RUNNABLE_DOMAINS):
            raise OpsetError(
                f"{source}: the node {node.name or node.output[0]!r} is {node.domain}::{node.op_type}, which ONNX Runtime "
                "does not know, so nothing made from this file can be compared with it. Write that part of the model "
                "with standard operators, and export it again."
            )


def _copied(source: Path, model: onnx.ModelProto, target: Path) -> OnnxArtifact:
    if source.resolve() != target.resolve():
        with atomic_model(model, target, external=refers_to_data(source)):
            pass
    return read_onnx(target)


def at_opset(source: Path, model: onnx.ModelProto, opset: int, given: GivenInputs | None = None) -> onnx.ModelProto:
    """The graph at another opset, after comparing both; ``source`` is its name in messages.

    Raises:
        OpsetError: if something in it has no equivalent there.
        ParityError: if the converted graph gives other numbers.
    """
    old = standard_opset(model)
    try:
        young = raise_old_opset(model)
        result = convert_opset(young, opset)
    except OpsetError as error:
        raise OpsetError(f"{source}: {error}", exit_code=error.exit_code) from error
    # Unoptimised, because the two graphs are judged here and not what an optimiser makes of them.
    report = compare_models(
        model, result.model, tolerance=_tolerance(model), optimize=False, given=given or GivenInputs()
    )
    report.raise_if_failed(f"{source} converted from opset {old} to {opset}")
    if old != result.source:
        rules = {
            f"raised from opset {old} to {result.source} by onnx's converter": len(young.graph.node),
            **result.applied,
        }
        result = replace(result, source=old, applied=rules)
    _note_conversion(result, report)
    return result.model


def _in_half(
    source: Path,
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    precision: str,
    io: str,
    calibration: Path | str | None,
    keep: Sequence[str],
    given: GivenInputs,
) -> onnx.ModelProto:
    """Type a graph, compared with the source file at sizes that move its axes, and on the calibration data."""
    wider, reading = read_outputs(reference)
    # Optimised, which moves fp32 by its own rounding only; run once for each input, however often it is compared with.
    before = RememberingRunner(OnnxRuntimeRunner(wider.SerializeToString(), optimize=True))
    if given.samples:
        inputs, symbols = inputs_of_samples(reference, given.samples[0]), tuple[str, ...]()
        ramps = with_other_batches(given.samples, reference, before)
    else:
        inputs, symbols = runnable_inputs(reference, before, given)
        ramps = [example_arrays(inputs, sizes) for sizes in [{}, *verification_sizes(inputs, symbols)[:2]]]
    data = None if calibration is None else load_calibration(calibration, inputs, symbols).whole()

    def judge(candidate: Runner, tolerance: Tolerance) -> ParityReport:
        if data is not None:
            return compare_on(before, candidate, data.batches[:COMPARED_BATCHES], tolerance=tolerance, reading=reading)
        if given.samples:
            return compare_on(before, candidate, ramps, tolerance=tolerance, reading=reading)
        return compare(before, candidate, inputs, symbols, tolerance=tolerance, reading=reading)

    typed = to_half(
        model,
        precision,
        io=io,
        batches=ramps if data is None else data.batches,
        judge=judge,
        owner=str(source),
        keep=keep,
        calibration=_identity(data, samples=bool(given.samples)),
    )
    note_typing(typed)
    return typed.model


def _identity(data: CalibrationData | None, *, samples: bool) -> Mapping[str, str] | None:
    if data is not None:
        return data.identity
    return {"data": "the samples given"} if samples else None


def _tolerance(model: onnx.ModelProto) -> Tolerance:
    """The tolerance of the coarsest element type in a graph's interface and weights."""
    kinds = {i.data_type for i in model.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    if onnx.TensorProto.BFLOAT16 in kinds:
        return TOLERANCES["bfloat16"]
    return TOLERANCES["float16" if onnx.TensorProto.FLOAT16 in kinds else "float32"]


def _note_conversion(result: ConversionResult, report: ParityReport) -> None:
    """Write the evidence into the model's metadata, and the new opset into what an export wrote there."""
    moved = {"from": result.source, "to": result.target}
    compared = {
        "max_abs_error": report.max_abs_error,
        "rtol": report.rtol,
        "atol": report.atol,
        "worst": report.worst,
        "choices": report.choices,
        "shapes": [dict(case.shapes) for case in report.cases],
    }
    conversion = {**moved, "rules": dict(result.applied), **compared}
    evidence = read_evidence(result.model) or Evidence()
    write_evidence(result.model, evidence.after("opset", moved, opset=result.target, conversion=conversion))
