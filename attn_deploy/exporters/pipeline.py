"""`attn_deploy.export`: from a model to a file that is proven, or to an error and no file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from attn_deploy.exporters.candidate import Candidate, made_record
from attn_deploy.exporters.eager_checks import refuse_constant
from attn_deploy.exporters.fewer_axes import with_fewer_and_fewer_axes
from attn_deploy.exporters.finish import normalise, stamp
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.order import exporters_for, reason_for_exporter
from attn_deploy.exporters.other_size import trace_variants
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.proof import at_least, prove_gates, proven, raise_if_failed
from attn_deploy.exporters.refusal import most_telling
from attn_deploy.exporters.serving import BEHIND, parse_serving, with_form
from attn_deploy.exporters.step_guard import refuse_other_sizes_
from attn_deploy.exporters.translate import translate
from attn_deploy.exporters.whole_masks import drop_whole_masks_
from attn_deploy.files import KeptFolder, output_file, sha256_of
from attn_deploy.fusing.copying import bytes_of, is_large
from attn_deploy.graph.artifact import OnnxArtifact, load_model, read_onnx
from attn_deploy.graph.evidence import entries_of, read_evidence
from attn_deploy.graph.fold_placed import fold_placed
from attn_deploy.graph.map_extents import map_extents, name_map_extents_
from attn_deploy.graph.opset import convert_opset, standard_opset
from attn_deploy.graph.placed import exceeds_one_file, inflated, place_of, placed_tensors
from attn_deploy.graph.simplify import Simplified, simplify_model
from attn_deploy.graph.written import atomic_model, data_path, refuse_foreign_data
from attn_deploy.inputs.samples import example_arrays, verification_batches, verification_sizes
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.inputs.user_samples import Sample
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import Tolerance
from attn_deploy.parity.verify import compare
from attn_deploy.processes import give_freed_memory_back
from attn_deploy.resolve.names import parse_name
from attn_deploy.rules.rules import explain
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import import_onnxruntime

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """No progress is shown."""


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
    weights_key: str | None = None,
    samples: Sequence[str | Path | Sample] | None = None,
    inputs: Sequence[TensorInput] | None = None,
    arguments: Mapping[str, Any] | None = None,
    force: bool = False,
    preprocess: str | None = None,
    postprocess: str | None = None,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    external_data: bool = False,
    progress: Progress | None = None,
) -> OnnxArtifact:
    """Export a model to ONNX, and prove the file.

    Args:
        model: a name (see `attn_deploy.resolve.names`) or a module.
        path: the file to write, or a folder for it; by default ``<name>.onnx`` in the current folder, ``<name>-fp16.onnx``
            in half precision.
        opset: 13 to 25; the file holds exactly this. None: 20, or 22 for bf16.
        exporter: auto, dynamo or torchscript.
        dynamic: axis symbols that must move, such as ``("N", "H", "W")``; None for the largest set that the model and
            the exporters allow: the record names what stays, and why.
        simplify: simplify the graph.
        fuse: export the deployed form of the model.
        rewrite: replace, in a copy, calls that exporters are known to get wrong, such as adaptive pooling.
        native_attention: at opset 23 and above, write the operator Attention instead of products and a softmax.
        verify: compare with eager in ONNX Runtime at shapes that were not traced.
        precision: fp32, fp16 or bf16; in half precision softmax, norms, reductions and what leaves the range stay in fp32.
        io: in half precision, ``fp32`` keeps inputs and outputs in fp32, ``same`` converts them too.
        weights: a checkpoint for the model, ``.safetensors`` or one of PyTorch's.
        weights_key: which of the state dicts in the checkpoint, such as ``model``; None for averaged weights, if any.
        samples: the user's own inputs, which join the proof: ``FILE.npz``, ``name=VALUES``, or arrays by name.
        inputs: the inputs of a module, or of a user's model given by name.
        arguments: constructor arguments when ``model`` is a name.
        force: overwrite the file that is there whatever it holds; otherwise only one of this model in this precision.
        preprocess: what the graph does to images first, as ``imagenet,uint8,nhwc`` (see `attn_deploy.exporters.pixels`).
        postprocess: what it makes of the outputs, as ``softmax,topk=5`` (see `attn_deploy.exporters.answers`).
        input_names: of the file; by default those of forward's parameters.
        output_names: of the file.
        external_data: put the weights into a data file beside the graph, ``NAME.onnx.data``, as those beyond 2 GiB always are.
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
    options = ExportOptions.asked(
        opset=opset,
        exporter=exporter,
        dynamic=None if dynamic is None else tuple(dynamic),
        simplify=simplify,
        fuse=fuse,
        rewrite=rewrite,
        native_attention=native_attention,
        verify=verify,
        precision=precision,
        io=io,
        external_data=external_data,
    )
    stem = parse_name(model).stem if isinstance(model, str) else type(model).__name__.lower()
    word = "" if precision == "fp32" else f"-{precision}"
    serving = parse_serving(preprocess, postprocess, input_names, output_names)
    target = output_file(path, Path(f"{stem}{word}.onnx"), (".onnx",))
    if not force:
        _refuse_other(target, model, precision)
    if external_data and not force:
        refuse_foreign_data(target)
    if verify:
        import_onnxruntime()
    progress = progress or _silent
    progress("preparing the model")
    prepared = prepare(
        model,
        inputs=inputs,
        dynamic=options.dynamic,
        fuse=fuse,
        rewrite=rewrite,
        weights=weights,
        weights_key=weights_key,
        samples=samples,
        arguments=arguments,
        narrow=precision == "fp16",
        serving=serving,
    )
    _refuse_beyond(target, prepared, options, force=force)
    if is_large(prepared.module):
        prepared.work.beside = target.absolute()
    prepared.work.home = KeptFolder(prepared.work.beside)
    prepared.reference.folder = prepared.work.home.path
    try:
        return export_prepared(prepared, target, options, progress=progress)
    finally:
        prepared.work.close()


def _refuse_beyond(target: Path, prepared: PreparedModel, options: ExportOptions, *, force: bool) -> None:
    """Refuse, before minutes of work, what cannot be written in the end.

    Raises:
        PrecisionError: if half precision is asked of weights beyond what it works on.
        InvalidRequestError: if the data file that is needed is there, and is not that of the file to be replaced.
    """
    size = bytes_of(prepared.module)
    if exceeds_one_file(size) and options.precision != "fp32":
        raise PrecisionError(
            f"{prepared.label}: its weights take {size / 1e9:.1f} GB, and --precision {options.precision} measures and types "
            "graphs of up to 2 GiB (2.15 GB). Export it in fp32, or make it half yourself: model.half() before the export."
        )
    if exceeds_one_file(size) and not force:
        refuse_foreign_data(target)


def _refuse_other(target: Path, model: str | nn.Module, precision: str) -> None:
    """Refuse to overwrite a file that is not of this model in this precision."""
    if not target.exists():
        return
    label = parse_name(model).text if isinstance(model, str) else type(model).__name__
    try:
        evidence = read_evidence(load_model(target, check_seal=False, light=True))
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
    progress = progress or _silent
    started = time.perf_counter()
    prepared, candidate, reason = first_good(prepared, options, progress)
    final = candidate.final
    record = made_record(prepared, options, candidate, reason)
    stamp(final, record)
    progress("writing and reading back")
    with atomic_model(final, path, external=options.external_data) as temporary:
        artifact = read_onnx(temporary)
        _agree(prepared, options, final, temporary, artifact)
    record_now = {**artifact.record, "seconds": round(time.perf_counter() - started, 3)}
    artifact = replace(artifact, path=path, record=record_now)
    if not artifact.data:
        return artifact
    data = data_path(path)  # the graph names it, and has another hash than the temporary one that named another
    sizes = {data.name: data.stat().st_size} if data.exists() else artifact.data
    return replace(artifact, sha256=sha256_of(path), size=path.stat().st_size, data=sizes)


def first_good(
    prepared: PreparedModel, options: ExportOptions, progress: Progress = _silent
) -> tuple[PreparedModel, Candidate, str]:
    """Try the exporters in order, and where nobody named the axes, with fewer of them; the first good graph, and why.

    What is known to be wrong whichever axes move ends it.
    """
    if options.verify and not all(i.values for i in prepared.inputs):
        _refuse_constant(prepared)
    first: AttnDeployError | None = None
    refusals: list[AttnDeployError] = []
    for attempt in with_fewer_and_fewer_axes(prepared, refusals):
        failures: list[tuple[str, AttnDeployError]] = []
        for name in exporters_for(attempt, options):
            for variant in trace_variants(attempt, name, options, failures):
                progress(f"exporting with {name}")
                give_freed_memory_back()  # of the runs in eager mode
                try:
                    candidate = _attempt(variant, name, options, progress)
                except (ExportError, GraphError, ParityError, PrecisionError) as error:
                    failures.append((name, error))
                    continue
                return variant, candidate, reason_for_exporter(variant, options, name, failures)
            if attempt.whole_windows and any(e.rule == "branch-on-shape" for _, e in failures):
                break  # torch.export would take minutes to find the same
        telling = most_telling(attempt, failures)
        refusals.append(telling)
        first = first or telling
    if first is None:
        raise ExportError(f"{prepared.label}: no exporter was tried.")
    raise first from first.__cause__


def _refuse_constant(prepared: PreparedModel) -> None:
    """Refuse a model whose outputs are the same whatever its inputs.

    Looked at where the batch is 1 and the reference remembers the outputs for other values, which costs one image.
    """
    module = prepared.fresh_module()
    if prepared.serving.answers is not None:
        module = with_form(module, "scores")
    else:
        known = verification_batches(prepared.inputs, prepared.dynamic)[1]
        other = example_arrays(prepared.inputs, known.sizes, seed=1)
        first, second = (run_once(prepared.reference.runner, a).values() for a in (known.arrays, other))
        if any((a != b).any() for a, b in zip(first, second, strict=True) if a.shape == b.shape):
            return
    refuse_constant(module, prepared.inputs, prepared.example(), prepared.example(seed=1), prepared.label)


def _attempt(prepared: PreparedModel, exporter: str, options: ExportOptions, progress: Progress) -> Candidate:
    translation = translate(prepared, exporter, options.opset, native_attention=options.native_attention)
    raw = translation.model
    said: Mapping[str, Sequence[int | str | None]] = {}
    if exporter == "dynamo":  # what a TorchScript trace says of shapes holds at its size
        drop_whole_masks_(raw, [n for n, _ in prepared.module.named_parameters()])
        said = map_extents(raw)
    source = standard_opset(raw)
    applied: Mapping[str, int] = {}
    if source != options.opset:
        progress(f"converting from opset {source} to {options.opset}")
        try:
            converted = convert_opset(raw, options.opset)
        except OpsetError as error:
            entry = explain(error)
            remedy = f" {entry.remedy}" if entry is not None else ""
            raise OpsetError(
                f"{prepared.label}: {exporter} writes opset {source}, and {error}{remedy}",
                rule=entry.id if entry else None,
            ) from error
        raw, applied = converted.model, converted.applied
    raw = normalise(raw, prepared, options.opset)
    kept = Simplified(raw, "", len(raw.graph.node), len(raw.graph.node), "not asked for")
    prepared.reference.rests_with(prepared.module)
    if options.simplify:
        progress("simplifying")
        if placed := placed_tensors(raw):
            fold_placed(raw, place_of(placed[0]).path.with_name("folded"))
        with prepared.reference.resting():
            kept = simplify_model(raw)
    name_map_extents_(kept.model, said)
    if prepared.stepped:  # behind simplifiers, which take what changes nothing away
        for graph in (kept.model,) if kept.model is raw else (kept.model, raw):
            refuse_other_sizes_(graph, at_least(prepared.inputs, translation.minimum), prepared.dynamic)
    if not options.verify:
        return Candidate(exporter, kept, None, source, applied, translation.minimum)
    progress("verifying at shapes that were not traced")
    give_freed_memory_back()
    report = proven(prepared, kept.model, translation.minimum)
    if not report.passed and kept.tool:
        plain = proven(prepared, raw, translation.minimum)
        if plain.passed:
            why = f"{kept.tool} changed the numbers (error {report.max_abs_error:.3g})"
            kept = Simplified(raw, "", kept.nodes_before, kept.nodes_before, why)
            report = plain
    raise_if_failed(prepared, report, translation)
    if prepared.gates:
        progress("verifying what is behind parameters that are constant")
        prove_gates(prepared, exporter, options)
    candidate = Candidate(exporter, kept, report, source, applied, translation.minimum)
    if options.precision == "fp32":
        return candidate
    progress(f"converting to {options.precision}")
    half = _typed(prepared, inflated(kept.model), options)
    return replace(candidate, parity=half.report, half=half)


def _typed(prepared: PreparedModel, model: onnx.ModelProto, options: ExportOptions) -> HalfModel:
    """The graph in half precision, compared with the model in eager mode as the fp32 graph was."""
    reference, reading = prepared.reference, prepared.reading
    if reading is not None:
        reference = EagerReference(with_form(prepared.original, "behind"), (*prepared.outputs, BEHIND))

    def judge(candidate: Runner, tolerance: Tolerance) -> ParityReport:
        return compare(
            reference.runner, candidate, prepared.inputs, prepared.dynamic, tolerance=tolerance, reading=reading
        )

    sizes = [{}, *verification_sizes(prepared.inputs, prepared.dynamic)[:2]]
    batches = [example_arrays(prepared.inputs, s) for s in sizes]
    return to_half(model, options.precision, io=options.io, batches=batches, judge=judge, owner=prepared.label)


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
    # The seal is over nodes, interface and weights; reading back compared what the file holds with it.
    if artifact.seal != "whole" or artifact.metadata.get("seal") != entries_of(model).get("seal"):
        raise GraphError(f"{prepared.label}: the graph in the written file is not the one that was verified.")
