"""`attn_deploy.diagnose`: which module breaks the build, and which first gives wrong numbers."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from attn_deploy._version import __version__
from attn_deploy.conversion.calibration import load_calibration
from attn_deploy.diagnosis.candidate import Candidate, as_it_is, precision_of, refuse_precision
from attn_deploy.diagnosis.converted import converted
from attn_deploy.diagnosis.judge import Case, examine, worst_case
from attn_deploy.diagnosis.record import Diagnosis, Fault, Step
from attn_deploy.diagnosis.references import GraphReference, Reference
from attn_deploy.diagnosis.refused import Search
from attn_deploy.diagnosis.shapes import ShapeBook
from attn_deploy.diagnosis.subject import Subject, from_file, from_model, reference_for, unknown_reference
from attn_deploy.diagnosis.trials import Laboratory, OnnxRuntime, module_at, part_operators, target_of
from attn_deploy.engine.profile import GivenProfile, Profile, make_profiles
from attn_deploy.errors import GraphError, InvalidRequestError, ParityError
from attn_deploy.files import atomic_path, output_file, write_atomic
from attn_deploy.graph.artifact import OnnxArtifact, read_onnx
from attn_deploy.graph.parts import Part, Parts, checked
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.runtimes.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    from torch import nn

TIMEOUT_SECONDS = 120.0
Tell = Callable[[str], None]


@dataclass(slots=True)
class _Account:
    """What has been learned so far."""

    notes: list[str]
    laboratory: Laboratory | None = None
    build: Fault | None = None
    numbers: Fault | None = None
    case: Case | None = None
    steps: tuple[Step, ...] = ()


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
    dynamic: Sequence[str] | None = None,
    weights: Path | str | None = None,
    arguments: Mapping[str, Any] | None = None,
    opset: int | None = None,
    exporter: str = "auto",
    profile: GivenProfile | Iterable[GivenProfile] = (),
    timeout: float = TIMEOUT_SECONDS,
    progress: Tell | None = None,
) -> Diagnosis:
    """Find the module to blame when a model does not build, or gives wrong numbers.

    The graph is cut at module boundaries. Parts are given to the target, one child process each, until the smallest that
    is refused is left. Tensors are compared with the reference, a few at a time; the first part that is wrong although it
    is fed with right values is to blame, and one that only hands on an error is not. The smallest failing part is
    written as an ONNX file, with an ``.npz`` of its inputs where numbers are the matter.

    Args:
        model: a name, a module, an ONNX file or its artifact.
        precision: fp16, bf16, int8 or fp8 to examine the conversion of an fp32 graph; None for the graph as it is.
        target: ``tensorrt-rtx``, ``tensorrt-rtx:sm75,sm86``, ``tensorrt`` or ``onnxruntime``.
        against: ``eager``, ``onnxruntime`` (the fp32 graph before the conversion), an ONNX file, or a model in PyTorch.
            None: eager for a model and for a file of this package's registry, the fp32 graph for a conversion.
        output: file for the smallest failing part; by default ``<name>-failing.onnx``. With faults of both kinds the one
            in the numbers goes to ``<output stem>-numbers.onnx``.
        build: ask which part the target refuses.
        numbers: ask which part gives wrong numbers.
        by_range: keep nodes in fp32 whose measured values leave the range of the half type, as an export does.
        calibration: what ranges are measured and numbers compared on: an ``.npz`` with an array of samples for each
            input, or what else `attn_deploy.quantize` takes. None for ramped noise.
        inputs: of a model of the user's, or of the one that ``against`` names.
        dynamic: symbols that move, of a model.
        weights: checkpoint of a model.
        arguments: constructor arguments when ``model`` is a name.
        opset: of a model's export.
        exporter: auto, dynamo or torchscript, of a model's export.
        profile: shapes at which the target builds, see `attn_deploy.engine.profile.make_profiles`; by default derived.
        timeout: seconds for each trial of the target.
        progress: called with what is tried.

    Returns:
        The faults; ``passed`` if there are none.

    Raises:
        InvalidRequestError: if the request cannot be used; for a file of which nothing tells what is right, unless its
            build already fails.
        ExportError: if the model cannot be exported at all; the message names the source line.
        GraphError: if a file cannot be read.
        MissingDependencyError: if the target or onnxruntime is not installed.
        ParityError, PrecisionError: if the reference itself gives NaN.
    """
    started = time.perf_counter()
    progress = progress or (lambda _: None)
    if not build and not numbers:
        raise InvalidRequestError("nothing is left to ask: leave out --no-build or --no-numbers.")
    if timeout <= 0:
        raise InvalidRequestError(f"a time limit of {timeout} s leaves no time for a trial; give more than 0.")
    chosen = target_of(target) if build else None
    import_onnxruntime()
    path = model.path if isinstance(model, OnnxArtifact) else model
    if isinstance(path, Path) or (isinstance(path, str) and Path(path).suffix == ".onnx"):
        subject = from_file(Path(path))
        refuse_precision(precision, precision_of(subject.model))
    else:
        refuse_precision(precision, "fp32")
        subject = from_model(
            path,
            inputs=inputs,
            dynamic=dynamic,
            weights=weights,
            arguments=arguments,
            opset=opset,
            exporter=exporter,
            precision=precision or "fp32",
            progress=progress,
        )
    written = output_file(output, subject.folder / f"{subject.stem}-failing.onnx", (".onnx",))
    convert = precision not in (None, precision_of(subject.model))
    account = _Account([])
    reference = reference_for(subject, against, converted=convert, inputs=inputs, weights=weights) if numbers else None
    batches = _calibration(calibration, subject, reference)
    candidate = as_it_is(subject.model)
    if convert and precision is not None:
        judge = reference or GraphReference(Parts(subject.model), "the fp32 graph")
        candidate = converted(
            subject.model,
            precision,
            judge,
            batches,
            calibration=calibration,
            by_range=by_range,
            owner=subject.label,
            progress=progress,
        )
    if chosen is not None:
        laboratory = account.laboratory = Laboratory(chosen, timeout=timeout, progress=progress)
        account.build = _refused(subject, candidate, laboratory, written, account.notes, profile)
        if account.build is not None:
            progress(f"the build breaks at {account.build.place}: {account.build.operator}")
    if numbers:
        if reference is None and account.build is None and chosen is None:
            raise unknown_reference(subject)
        if reference is None:
            account.notes.append("numbers were not compared: nothing tells what is right (--against)")
        else:
            both = account.build is not None and account.build.subgraph != ""
            place = written.with_name(f"{written.stem}-numbers.onnx") if both else written
            _compared(subject, candidate, reference, batches, account, place, timeout, progress)
    case, laboratory_ = account.case, account.laboratory
    return Diagnosis(
        model=subject.label,
        precision=candidate.precision,
        target=chosen.name if chosen is not None else "",
        against=reference.name if reference is not None else "",
        nodes=len(candidate.model.graph.node),
        build=account.build,
        numbers=account.numbers,
        compared_at={n: tuple(a.shape) for n, a in case.inputs.items()} if case is not None else {},
        tolerance=_told(candidate) if case is not None else {},
        steps=account.steps,
        trials=tuple(laboratory_.trials) if laboratory_ is not None else (),
        overflow=candidate.overflow,
        notes=tuple(account.notes),
        seconds=round(time.perf_counter() - started, 3),
        attn_deploy=__version__,
    )


def _told(candidate: Candidate) -> dict[str, float]:
    if candidate.share is not None:
        return {"root_mean_square": candidate.share}
    return {"rtol": candidate.tolerance.rtol, "atol": candidate.tolerance.atol}


def _calibration(given: Path | str | None, subject: Subject, reference: Reference | None) -> tuple[Arrays, ...] | None:
    if given is None:
        return None
    if reference is None:
        raise InvalidRequestError("--calibration gives data to compare on, and nothing is compared: name --against.")
    return load_calibration(given, reference.inputs, reference.dynamic).whole().batches


def _refused(
    subject: Subject,
    candidate: Candidate,
    laboratory: Laboratory,
    written: Path,
    notes: list[str],
    given: GivenProfile | Iterable[GivenProfile],
) -> Fault | None:
    """Which part the target refuses."""
    parts = Parts(candidate.model)
    profile = _profile(candidate.model, given)
    fault, part = _search(parts, profile, laboratory, subject, "build")
    return fault if fault is None else _written(fault, part, written, {}, {}, notes)


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


def _profile(model: onnx.ModelProto, given: GivenProfile | Iterable[GivenProfile]) -> Profile | None:
    """The profile that is given, or that a build of the graph would derive.

    Raises:
        InvalidRequestError: if what is given does not fit, or nothing that is usual does: no node is to blame for that.
    """
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        profiles = make_profiles(read_onnx(path, check=False), given)
    return profiles[0] if profiles else None


def _compared(
    subject: Subject,
    candidate: Candidate,
    reference: Reference,
    batches: Sequence[Arrays] | None,
    account: _Account,
    written: Path,
    timeout: float,
    progress: Tell,
) -> None:
    """Which part gives wrong numbers."""
    progress("comparing the outputs at several sizes")
    case = account.case = worst_case(candidate, reference, batches, subject.label)
    if not case.runs:
        laboratory = Laboratory(OnnxRuntime(), timeout=timeout, progress=progress)
        profile = case.profile()
        fault, part = _search(candidate.running, profile, laboratory, subject, "numbers")
        if fault is None:
            raise ParityError(f"{subject.label}: {case.problem}")
        account.numbers = _written(fault, part, written, {}, {}, account.notes)
        return
    verdict = examine(candidate, reference, case, progress)
    account.steps, account.notes = verdict.steps, [*account.notes, *verdict.notes]
    if verdict.fault is not None:
        account.numbers = _written(
            verdict.fault, verdict.part, written, verdict.entering, verdict.expected, account.notes
        )


def _written(
    fault: Fault, part: Part | None, path: Path, entering: Arrays, expected: Arrays, notes: list[str]
) -> Fault:
    """The fault with its part in a file, and its data in another."""
    if part is None:
        notes.append("no part of the graph fails by itself, so none was written")
        return fault
    try:
        graph = checked(part, "the smallest failing part")
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
