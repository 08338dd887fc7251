"""`attn_deploy.diagnose`: which module breaks the build, and which first gives wrong numbers."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from attn_deploy._version import __version__
from attn_deploy.conversion.calibration import load_calibration
from attn_deploy.diagnosis.converted import converted
from attn_deploy.diagnosis.judge import Case, examine_file, worst_case
from attn_deploy.diagnosis.record import Diagnosis, Fault, Step, Trial
from attn_deploy.diagnosis.references import GraphReference, Reference
from attn_deploy.diagnosis.refused import Search
from attn_deploy.diagnosis.request import TIMEOUT_SECONDS, DiagnosisRequest, Progress
from attn_deploy.diagnosis.shapes import ShapeBook
from attn_deploy.diagnosis.specimen import Specimen, as_it_is, precision_of, refuse_precision
from attn_deploy.diagnosis.subject import Subject, from_file, from_model, reference_for, unknown_reference
from attn_deploy.diagnosis.trials import (
    Laboratory,
    OnnxRuntime,
    Target,
    module_at,
    part_operators,
    target_of,
)
from attn_deploy.engine.profile import GivenProfile, Profile, make_profiles
from attn_deploy.errors import GraphError, InvalidRequestError, ParityError
from attn_deploy.files import atomic_path, output_file, scratch_folder, write_atomic
from attn_deploy.graph.artifact import OnnxArtifact, read_onnx
from attn_deploy.graph.parts import Part, Parts, checked_part
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.inputs.user_samples import Sample
from attn_deploy.parity.given import GivenInputs, fitted_to_graph, given_inputs
from attn_deploy.runtimes.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class _Question:
    """What both searches start from.

    Attributes:
        request: of the user.
        subject: the graph with its origin.
        candidate: the graph as it is examined.
        reference: what is right; None where nothing says so.
        batches: what numbers are compared on; None for ramped noise.
        written: file for the smallest failing part.
    """

    request: DiagnosisRequest
    subject: Subject
    candidate: Specimen
    reference: Reference | None
    batches: tuple[Arrays, ...] | None
    written: Path
    given: GivenInputs


@dataclass(frozen=True, slots=True)
class _BuildAnswer:
    """Which part the target refuses, and what was tried."""

    fault: Fault | None = None
    target: str = ""
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _NumbersAnswer:
    """Which part gives wrong numbers, and what was compared."""

    fault: Fault | None = None
    case: Case | None = None
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


def diagnose(
    model: str | Path | OnnxArtifact | nn.Module,
    *,
    precision: str | None = None,
    target: str = "tensorrt-rtx",
    against: str | Path | OnnxArtifact | nn.Module | None = None,
    output: Path | str | None = None,
    build: bool = True,
    numbers: bool = True,
    by_range: bool = True,
    calibration: Path | str | None = None,
    inputs: Sequence[TensorInput] | None = None,
    samples: Sequence[str | Path | Sample] | None = None,
    dynamic: Sequence[str] | None = None,
    weights: Path | str | None = None,
    arguments: Mapping[str, Any] | None = None,
    opset: int | None = None,
    exporter: str = "auto",
    profile: GivenProfile | Iterable[GivenProfile] = (),
    timeout: float = TIMEOUT_SECONDS,
    progress: Progress | None = None,
) -> Diagnosis:
    """Find the module to blame when a model does not build, or gives wrong numbers.

    The graph is cut at module boundaries. Parts are given to the target, one child process each, until the smallest that
    is refused is left. Tensors are compared with the reference, a few at a time; the first part that is wrong although it
    is fed with right values is to blame, and one that only hands on an error is not. The smallest failing part is
    written as an ONNX file, with an ``.npz`` of its inputs where numbers are the matter.

    The options are those of `attn_deploy.diagnosis.request.DiagnosisRequest`, which says what each is.

    Returns:
        The faults; ``passed`` if there are none.

    Raises:
        InvalidRequestError: if the request cannot be used; for a file of which nothing says what is right, unless its
            build already fails.
        ExportError: if the model cannot be exported at all; the message names the source line.
        GraphError: if a file cannot be read.
        MissingDependencyError: if the target or onnxruntime is not installed.
        ParityError, PrecisionError: if the reference itself gives NaN.
    """
    request = DiagnosisRequest(
        model=model,
        precision=precision,
        target=target,
        against=against,
        output=output,
        build=build,
        numbers=numbers,
        by_range=by_range,
        calibration=calibration,
        inputs=inputs,
        samples=samples,
        dynamic=dynamic,
        weights=weights,
        arguments=arguments,
        opset=opset,
        exporter=exporter,
        profile=profile,
        timeout=timeout,
    )
    return answer(request if progress is None else replace(request, progress=progress))


def answer(request: DiagnosisRequest) -> Diagnosis:
    """As `diagnose`.

    Raises:
        InvalidRequestError, ExportError, GraphError, MissingDependencyError, ParityError, PrecisionError: as `diagnose`.
    """
    started = time.perf_counter()
    target = target_of(request.target) if request.build else None
    import_onnxruntime()
    question = _examined(request)
    built = _BuildAnswer() if target is None else _search_build(question, target)
    compared = _search_numbers(question, built) if request.numbers else _NumbersAnswer()
    candidate, case = question.candidate, compared.case
    return Diagnosis(
        model=question.subject.label,
        precision=candidate.precision,
        target=built.target,
        against=question.reference.name if question.reference is not None else "",
        nodes=len(candidate.model.graph.node),
        build=built.fault,
        numbers=compared.fault,
        compared_at={n: tuple(a.shape) for n, a in case.inputs.items()} if case is not None else {},
        tolerance=_tolerance(candidate) if case is not None else {},
        steps=compared.steps,
        trials=built.trials,
        overflow=candidate.overflow,
        notes=(*built.notes, *compared.notes),
        seconds=round(time.perf_counter() - started, 3),
        attn_deploy=__version__,
    )


def _examined(request: DiagnosisRequest) -> _Question:
    """The graph, converted where that is asked for, and what it is compared with."""
    subject = _subject(request)
    written = output_file(request.output, subject.folder / f"{subject.stem}-failing.onnx", (".onnx",))
    precision = request.precision
    convert = precision not in (None, precision_of(subject.model))
    reference = None
    given = _given(request, subject)
    if request.numbers:
        reference = reference_for(
            subject, request.against, converted=convert, inputs=request.inputs, weights=request.weights, given=given
        )
    batches = given.samples or _calibration(request.calibration, subject, reference)
    candidate = as_it_is(subject.model)
    if convert and precision is not None:
        candidate = converted(
            subject.model,
            precision,
            reference or GraphReference(Parts(subject.model), "the fp32 graph", given),
            batches,
            calibration=request.calibration,
            by_range=request.by_range,
            owner=subject.label,
            progress=request.progress,
        )
    return _Question(request, subject, candidate, reference, batches, written, given)


def _given(request: DiagnosisRequest, subject: Subject) -> GivenInputs:
    """What the user says of a file's inputs; of a model's, its export takes it.

    Raises:
        InvalidRequestError: if it does not fit the graph.
    """
    if request.file is None:
        return GivenInputs()
    names = [i.name for i in Parts(subject.model).inputs.values()]
    shapes = {i.name: i.shape() for i in request.inputs or ()}
    if len(names) == len(shapes) == 1:
        shapes = {names[0]: next(iter(shapes.values()))}
    held = {n: s for n, s in shapes.items() if n in names}  # others are of the model that --against names
    own = request.samples or ()
    given = given_inputs(subject.model, (), [s for s in own if isinstance(s, (str, Path))])
    arrays = tuple(fitted_to_graph(subject.model, s, "--sample") for s in own if not isinstance(s, (str, Path)))
    return replace(given, shapes=held, samples=(*given.samples, *arrays))


def _subject(request: DiagnosisRequest) -> Subject:
    file = request.file
    if file is not None:
        for option, value in (("opset", request.opset), ("dynamic", request.dynamic)):
            if value is not None:
                raise InvalidRequestError(
                    f"--{option} is for models by name, and {file} is a finished file; leave it out, or name the model."
                )
        if request.exporter != "auto":
            raise InvalidRequestError(
                f"--exporter {request.exporter} is for models by name, and {file} is a finished file; leave it out, or name "
                "the model."
            )
        subject = from_file(file)
        refuse_precision(request.precision, precision_of(subject.model))
        return subject
    refuse_precision(request.precision, "fp32")
    return from_model(request)


def _search_build(question: _Question, target: Target) -> _BuildAnswer:
    """Which part the target refuses."""
    request, candidate = question.request, question.candidate
    laboratory = Laboratory(target, timeout=request.timeout, progress=request.progress)
    notes: list[str] = []
    fault, part = _search(
        Parts(candidate.model),
        _profile(candidate.model, request.profile, question.given),
        laboratory,
        question.subject,
        "build",
    )
    if fault is not None:
        fault = _written(fault, part, question.written, {}, {}, notes)
        request.progress(f"the build breaks at {fault.place}: {fault.operator}")
    return _BuildAnswer(fault, target.name, tuple(laboratory.trials), tuple(notes))


def _search_numbers(question: _Question, built: _BuildAnswer) -> _NumbersAnswer:
    """Which part gives wrong numbers.

    Raises:
        InvalidRequestError: if nothing says what is right, and the build has shown no fault either.
        ParityError: if the graph does not run, and each of its parts does.
    """
    if question.reference is None and built.fault is None and not built.target:
        raise unknown_reference(question.subject)
    if question.reference is None:
        return _NumbersAnswer(notes=("numbers were not compared: nothing says what is right (--against)",))
    both = built.fault is not None and built.fault.subgraph != ""
    written = question.written
    place = written.with_name(f"{written.stem}-numbers.onnx") if both else written
    return _compared(question, question.reference, place)


def _tolerance(candidate: Specimen) -> dict[str, float]:
    if candidate.share is not None:
        return {"root_mean_square": candidate.share}
    return {"rtol": candidate.tolerance.rtol, "atol": candidate.tolerance.atol}


def _calibration(source: Path | str | None, subject: Subject, reference: Reference | None) -> tuple[Arrays, ...] | None:
    if source is None:
        return None
    if reference is None:
        raise InvalidRequestError("--calibration gives data to compare on, and nothing is compared: name --against.")
    return load_calibration(source, reference.inputs, reference.dynamic).whole().batches


def _search(
    parts: Parts, profile: Profile | None, laboratory: Laboratory, subject: Subject, question: str
) -> tuple[Fault | None, Part | None]:
    refusal = laboratory.attempt(parts.model, profile, "the whole graph")
    if refusal is None:
        return None, None
    result = Search(parts, ShapeBook(parts, profile), laboratory, refusal).run()
    if result.node is None or result.part is None:
        counts = {n.op_type: 1 for n in parts.nodes}
        fault = Fault(question, "", "", "", "", refusal.reason, refusal.remedy(counts), {}, alone=False)
        return fault, None
    module, node = module_at(parts, result.node), parts.nodes[result.node]
    operators = part_operators(result.part)
    remedy = result.refusal.remedy(operators)
    name = subject.classes.get(module, "")
    return Fault(question, module, name, node.op_type, node.name, result.refusal.reason, remedy, operators), result.part


def _profile(
    model: onnx.ModelProto, profile: GivenProfile | Iterable[GivenProfile], given: GivenInputs
) -> Profile | None:
    """The profile that is given, or that a build of the graph would derive, or else one of the inputs that are given.

    Raises:
        InvalidRequestError: if what is given does not fit, or nothing that is usual does: no node is to blame for that.
    """
    with scratch_folder() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        artifact = read_onnx(path, check=False)
        try:
            profiles = make_profiles(artifact, profile)
        except InvalidRequestError as error:
            shapes = {n: tuple(a.shape) for one in given.samples[:1] for n, a in one.items()} | dict(given.shapes)
            if profile or not shapes:
                raise InvalidRequestError(str(error).replace(str(path), "the graph")) from error
            profiles = make_profiles(artifact, {n: (s, s, s) for n, s in shapes.items()})
    return profiles[0] if profiles else None


def _compared(question: _Question, reference: Reference, written: Path) -> _NumbersAnswer:
    request, candidate, subject = question.request, question.candidate, question.subject
    request.progress("comparing the outputs at several sizes")
    case = worst_case(candidate, reference, question.batches, subject.label)
    notes: list[str] = []
    if not case.runs:
        laboratory = Laboratory(OnnxRuntime(), timeout=request.timeout, progress=request.progress)
        fault, part = _search(candidate.running, case.profile(), laboratory, subject, "numbers")
        if fault is None:
            raise ParityError(f"{subject.label}: {case.problem}")
        return _NumbersAnswer(_written(fault, part, written, {}, {}, notes), case, (), tuple(notes))
    verdict = examine_file(candidate, reference, case, request.progress)
    notes += verdict.notes
    fault = verdict.fault
    if fault is not None:
        fault = _written(fault, verdict.part, written, verdict.entering, verdict.expected, notes)
    return _NumbersAnswer(fault, case, verdict.steps, tuple(notes))


def _written(
    fault: Fault, part: Part | None, path: Path, entering: Arrays, expected: Arrays, notes: list[str]
) -> Fault:
    """The fault with its part in a file, and its data in another."""
    if part is None:
        notes.append("no part of the graph fails by itself, so none was written")
        return fault
    try:
        graph = checked_part(part, "the smallest failing part")
    except GraphError as error:
        notes.append(f"the smallest failing part was not written: {error}")
        return fault
    with atomic_path(path) as temporary:
        onnx.save(graph, temporary)
    data = ""
    if entering:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {**entering, **{f"expected:{n}": a for n, a in expected.items()}}
        np.savez(buffer, **arrays)
        write_atomic(path.with_suffix(".npz"), buffer.getvalue())
        data = str(path.with_suffix(".npz"))
    return replace(fault, subgraph=str(path), data=data)
