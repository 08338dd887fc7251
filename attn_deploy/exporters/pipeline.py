"""`attn_deploy.export`: from a model to a file that is proven, or to an error and no file."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from attn_deploy.conversion.half import HalfModel, to_half
from attn_deploy.errors import (
    AttnDeployError,
    DynamicAxisError,
    ExportError,
    GraphError,
    InvalidRequestError,
    OpsetError,
    ParityError,
    PrecisionError,
)
from attn_deploy.exporters.eager_checks import refuse_constant
from attn_deploy.exporters.finish import normalise, stamp
from attn_deploy.exporters.options import DYNAMO_MIN_OPSET, ExportOptions
from attn_deploy.exporters.prepare import PreparedModel, prepare
from attn_deploy.exporters.record import ExportRecord
from attn_deploy.exporters.refusal import most_telling
from attn_deploy.exporters.translate import translate
from attn_deploy.files import atomic_path, output_file
from attn_deploy.graph.artifact import OnnxArtifact, load_model, read_onnx
from attn_deploy.graph.evidence import read_evidence
from attn_deploy.graph.opset import convert_opset, standard_opset
from attn_deploy.graph.simplify import Simplified, simplify_model
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import Tolerance
from attn_deploy.parity.verify import compare, verify_against
from attn_deploy.resolve.names import parse_name
from attn_deploy.rules.rules import explain
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.onnxruntime import import_onnxruntime

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A graph that passed every check, and how it came about."""

    exporter: str
    simplified: Simplified
    parity: ParityReport | None
    opset_written: int
    opset_rules: Mapping[str, int]
    half: HalfModel | None = None

    @property
    def final(self) -> onnx.ModelProto:
        """The graph to write."""
        return self.half.model if self.half is not None else self.simplified.model


def export(
    model: str | nn.Module,
    path: Path | str | None = None,
    *,
    opset: int | None = None,
    exporter: str = "auto",
    dynamic: Sequence[str] | None = None,
    simplify: bool = True,
    fuse: bool = True,
    rewrite: bool = True,
    native_attention: bool = False,
    verify: bool = True,
    precision: str = "fp32",
    io: str = "fp32",
    weights: Path | str | None = None,
    inputs: Sequence[TensorInput] | None = None,
    arguments: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> OnnxArtifact:
    """Export a model to ONNX, and prove the file.

    Args:
        model: a name (see `attn_deploy.resolve.names`) or a module.
        path: the file to write, or a folder for it; by default ``<name>.onnx`` in the current folder, ``<name>-fp16.onnx``
            in half precision.
        opset: 13 to 25; the file holds exactly this. None: 20, or 22 for bf16.
        exporter: auto, dynamo or torchscript.
        dynamic: axis symbols that move, such as ``("N", "H", "W")``; None for all that the model allows.
        simplify: simplify the graph.
        fuse: export the deployed form of the model.
        rewrite: replace, in a copy, calls that exporters are known to get wrong, such as adaptive pooling.
        native_attention: at opset 23 and above, write the operator Attention instead of products and a softmax.
        verify: compare with eager in ONNX Runtime at shapes that were not traced.
        precision: fp32, fp16 or bf16; in half precision softmax, norms, reductions and what leaves the range stay in fp32.
        io: in half precision, ``fp32`` keeps inputs and outputs in fp32, ``same`` converts them too.
        weights: a checkpoint for the model, ``.safetensors`` or one of PyTorch's.
        inputs: the inputs of a module, or of a user's model given by name.
        arguments: constructor arguments when ``model`` is a name.
        force: overwrite the file that is there whatever it holds; otherwise only one of this model in this precision.
        progress: called with a few words at each step.

    Returns:
        What was read back from the finished file, with the record of its making.

    Raises:
        InvalidRequestError: if the request cannot be used, or the file there holds something else.
        ExportError: if no exporter gives a correct file (OpsetError, DynamicAxisError for those causes).
        ParityError: if a file was made and its numbers are wrong.
        PrecisionError: if the precision cannot be had; the message names the module.
        MissingDependencyError: if onnxruntime is needed and not installed.
    """
    options = ExportOptions(
        opset=ExportOptions.default_opset(precision) if opset is None else opset,
        exporter=exporter,
        dynamic=None if dynamic is None else tuple(dynamic),
        simplify=simplify,
        fuse=fuse,
        rewrite=rewrite,
        native_attention=native_attention,
        verify=verify,
        precision=precision,
        io=io,
    )
    stem = parse_name(model).stem if isinstance(model, str) else type(model).__name__.lower()
    word = "" if precision == "fp32" else f"-{precision}"
    target = output_file(path, Path(f"{stem}{word}.onnx"), (".onnx",))
    if not force:
        _refuse_other(target, model, precision)
    if verify:
        import_onnxruntime()
    tell = progress or (lambda _: None)
    tell("preparing the model")
    prepared = prepare(
        model,
        inputs=inputs,
        dynamic=options.dynamic,
        fuse=fuse,
        rewrite=rewrite,
        weights=weights,
        arguments=arguments,
        narrow=precision == "fp16",
    )
    return export_prepared(prepared, target, options, progress=tell)


def _refuse_other(target: Path, model: str | nn.Module, precision: str) -> None:
    """Refuse to overwrite a file that is not of this model in this precision."""
    if not target.exists():
        return
    label = parse_name(model).text if isinstance(model, str) else type(model).__name__
    try:
        evidence = read_evidence(load_model(target, check_seal=False))
    except GraphError:
        holds = "is no ONNX file that can be read"
    else:
        if evidence is not None and (evidence.model, evidence.precision or "fp32") == (label, precision):
            return
        holds = "was not made by export"
        if evidence is not None and evidence.model:
            holds = f"holds {evidence.model} in {evidence.precision or 'fp32'}"
    raise InvalidRequestError(
        f"{target} exists and {holds}; {label} in {precision} would overwrite it. Name another file with -o, or add --force."
    )


def export_prepared(
    prepared: PreparedModel, path: Path, options: ExportOptions, *, progress: Progress | None = None
) -> OnnxArtifact:
    """As `export`, for a model prepared once: trace, eager outputs and translations are shared by all opsets.

    Raises:
        ExportError, ParityError, MissingDependencyError: as `export`.
    """
    progress = progress or (lambda _: None)
    started = time.perf_counter()
    candidate, reason = _first_good(prepared, options, progress)
    final = candidate.final
    record = _record(prepared, options, candidate, reason)
    stamp(final, record)
    progress("writing and reading back")
    with atomic_path(path) as temporary:
        onnx.save(final, temporary)
        artifact = read_onnx(temporary)
        _agree(prepared, options, final, temporary, artifact)
    return replace(artifact, path=path, record={**artifact.record, "seconds": round(time.perf_counter() - started, 3)})


def _first_good(prepared: PreparedModel, options: ExportOptions, progress: Progress) -> tuple[_Candidate, str]:
    """Try the exporters in order; what the first good one is, and why."""
    if options.verify:
        refuse_constant(
            prepared.original, prepared.inputs, prepared.example(), prepared.example(seed=1), prepared.label
        )
    failures: list[tuple[str, AttnDeployError]] = []
    order = options.exporter_order()
    for name in order:
        progress(f"exporting with {name}")
        try:
            candidate = _attempt(prepared, name, options, progress)
        except (ExportError, GraphError, ParityError, PrecisionError) as error:
            failures.append((name, error))
            continue
        return candidate, _reason(options, name, failures)
    telling = most_telling(prepared, failures)
    raise telling from telling.__cause__


def _reason(options: ExportOptions, name: str, failures: list[tuple[str, AttnDeployError]]) -> str:
    if options.exporter != "auto":
        return "asked for"
    if failures:
        return f"{failures[0][0]} failed: {failures[0][1]}"
    if name == "dynamo":
        return f"has operators for opset {DYNAMO_MIN_OPSET} and above"
    return f"writes opset {options.opset} itself; dynamo writes {DYNAMO_MIN_OPSET} and needs a conversion"


def _attempt(prepared: PreparedModel, exporter: str, options: ExportOptions, progress: Progress) -> _Candidate:
    raw = translate(prepared, exporter, options.opset, native_attention=options.native_attention).model
    source = standard_opset(raw)
    applied: Mapping[str, int] = {}
    if source != options.opset:
        progress(f"converting from opset {source} to {options.opset}")
        try:
            converted = convert_opset(raw, options.opset)
        except OpsetError as error:
            known = explain(error)
            remedy = f" {known.remedy}" if known is not None else ""
            raise OpsetError(
                f"{prepared.label}: {exporter} writes opset {source}, and {error}{remedy}",
                rule=known.id if known else None,
            ) from error
        raw, applied = converted.model, converted.applied
    raw = normalise(raw, prepared, options.opset)
    kept = Simplified(raw, "", len(raw.graph.node), len(raw.graph.node), "not asked for")
    if options.simplify:
        progress("simplifying")
        kept = simplify_model(raw)
    if not options.verify:
        return _Candidate(exporter, kept, None, source, applied)
    progress("verifying at shapes that were not traced")
    report = _verify(prepared, kept.model)
    if not report.passed and kept.tool:
        plain = _verify(prepared, raw)
        if plain.passed:
            why = f"{kept.tool} changed the numbers (error {report.max_abs_error:.3g})"
            kept = Simplified(raw, "", kept.nodes_before, kept.nodes_before, why)
            report = plain
    report.raise_if_failed(prepared.label)
    if options.precision == "fp32":
        return _Candidate(exporter, kept, report, source, applied)
    progress(f"converting to {options.precision}")
    half = _typed(prepared, kept.model, options)
    return _Candidate(exporter, kept, half.report, source, applied, half)


def _typed(prepared: PreparedModel, model: onnx.ModelProto, options: ExportOptions) -> HalfModel:
    """The graph in half precision, compared with the model in eager mode as the fp32 graph was."""
    reference = _reference(prepared)

    def judge(candidate: Runner, tolerance: Tolerance) -> ParityReport:
        return compare(reference.runner, candidate, prepared.inputs, prepared.dynamic, tolerance=tolerance)

    sizes = [{}, *verification_sizes(prepared.inputs, prepared.dynamic)[:2]]
    batches = [example_arrays(prepared.inputs, s) for s in sizes]
    return to_half(model, options.precision, io=options.io, batches=batches, judge=judge, owner=prepared.label)


def _verify(prepared: PreparedModel, model: onnx.ModelProto) -> ParityReport:
    return verify_against(_reference(prepared), model.SerializeToString(), prepared.inputs, prepared.dynamic)


def _reference(prepared: PreparedModel) -> EagerReference:
    if prepared.reference is None:
        prepared.reference = EagerReference(prepared.original, prepared.outputs)
    return prepared.reference


def _record(prepared: PreparedModel, options: ExportOptions, candidate: _Candidate, reason: str) -> ExportRecord:
    report = candidate.parity
    parity = None if report is None else report.summary()
    return ExportRecord(
        model=prepared.label,
        arguments=prepared.arguments,
        exporter=candidate.exporter,
        exporter_reason=reason,
        opset_requested=options.opset,
        opset=standard_opset(candidate.final),
        opset_written=candidate.opset_written,
        opset_rules=candidate.opset_rules,
        native_attention=options.native_attention,
        dynamic=prepared.dynamic,
        inputs=tuple(f"{i.name} {i.dtype}[{', '.join(map(str, i.dims))}]" for i in prepared.inputs),
        outputs=tuple(
            f"{n}[{', '.join(map(str, d))}]" for n, d in zip(prepared.outputs, prepared.output_dims, strict=True)
        ),
        traced_shapes={i.name: i.shape() for i in prepared.inputs},
        verified_shapes=tuple(report.untraced_shapes) if report is not None else (),
        parity=parity,
        multiple={s: n for s, n in prepared.inputs[0].multiple.items() if n > 1 and s in prepared.dynamic},
        weights=prepared.weights,
        called=prepared.called,
        dropped=prepared.dropped,
        fused=prepared.changes,
        rewritten=prepared.rewritten,
        simplifier=candidate.simplified.tool,
        simplifier_reason=candidate.simplified.reason,
        nodes_raw=candidate.simplified.nodes_before,
        nodes=candidate.simplified.nodes_after,
        versions=_versions(),
        precision=options.precision,
        typing=candidate.half.record if candidate.half is not None else None,
    )


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("attn-deploy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxsim", "onnxslim"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _agree(
    prepared: PreparedModel, options: ExportOptions, model: onnx.ModelProto, path: Path, artifact: OnnxArtifact
) -> None:
    """The finished file must hold the graph that was verified, at the opset and with the axes that were asked for.

    Raises:
        OpsetError, DynamicAxisError, GraphError: naming what differs.
    """
    if artifact.opset != options.opset:
        raise OpsetError(
            f"{prepared.label}: asked for opset {options.opset}, the written file has opset {artifact.opset}."
        )
    if set(artifact.dynamic_axes) != {str(d) for i in prepared.inputs for d in i.dims if prepared.moves(d)}:
        raise DynamicAxisError(
            f"{prepared.label}: the axes {', '.join(prepared.dynamic)} were declared dynamic, the written file has "
            f"{', '.join(artifact.dynamic_axes) or 'none'}."
        )
    if load_model(path).graph.SerializeToString() != model.graph.SerializeToString():
        raise GraphError(f"{prepared.label}: the graph in the written file is not the one that was verified.")
