"""Comparing a candidate runtime with a reference, at the traced shapes and at shapes that were never traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.graph.heads import Output, Reading
from attn_deploy.inputs.samples import example_arrays, verification_batches
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.parity.channels import WHOLE
from attn_deploy.parity.distance import PartDistance, agreement, number_distances
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.report import ParityCase, ParityReport
from attn_deploy.parity.rounding import Rounding, is_rounding, moves_as_far
from attn_deploy.parity.tolerance import REDRAWS, TOLERANCES, Tolerance
from attn_deploy.processes import give_freed_memory_back
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.reopened import ReopenedRunner

if TYPE_CHECKING:
    from torch import nn

UNTRACED_SHAPES = 4
_OTHER_SEED = 7919  # apart from those of the other shapes


def compare(
    reference: Runner,
    candidate: Runner,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    *,
    tolerance: Tolerance = TOLERANCES["float32"],
    rounding: Rounding | None = None,
    shapes: int = UNTRACED_SHAPES,
    seed: int = 0,
    reading: Reading | None = None,
    picks: bool = False,
    until_wrong: bool = False,
) -> ParityReport:
    """Run both at the traced sizes and at others, in which every dynamic axis moves.

    Args:
        reference: what is right.
        candidate: what is tested.
        inputs: the inputs, with their symbols and traced sizes.
        dynamic: symbols that move.
        tolerance: see `attn_deploy.parity.tolerance`.
        rounding: of the reference; asked only where the tolerance is exceeded: whether that is rounding.
        shapes: how many untraced shapes.
        seed: of the input values.
        reading: how outputs are compared, where a graph says so (see `attn_deploy.graph.heads`); otherwise their types
            decide.
        picks: the model keeps the elements with the largest scores and goes on with them (see
            `attn_deploy.graph.heads.picks_elements`). Where it fails on inputs at which it picks others with its last bit,
            inputs are drawn anew, until the candidate is right, or wrong where the model is steady.
        until_wrong: behind the first case that fails only the traced sizes are looked at: the others would not make a wrong
            file right, and whether it is right there says what is wrong.
    """
    cases: dict[int, ParityCase] = {}
    batches = list(enumerate(verification_batches(inputs, dynamic, shapes, seed)))
    # The largest first: a runtime that keeps its memory needs no more for what follows.
    untraced = sorted(batches[1:], key=lambda b: -sum(a.size for a in b[1].arrays.values()))
    for number, batch in (*untraced, batches[0]):
        if until_wrong and number and not all(c.passed for c in cases.values()):
            continue
        if batch.extra and not _answers(reference, batch.arrays):
            continue
        traced = not batch.sizes
        case = _case(reference, candidate, batch.arrays, traced, tolerance, rounding, reading, picks=picks)
        others = 0 if any(i.values for i in inputs) else REDRAWS
        for draw in range(1, others + 1):
            if not case.unsteady:
                break
            arrays = example_arrays(inputs, batch.sizes, seed + _OTHER_SEED * draw + number)
            case = _case(reference, candidate, arrays, traced, tolerance, rounding, reading, picks=picks)
            case = replace(case, redrawn=draw)
        picks = picks and case.passed  # one wrong case is enough: no more is asked
        cases[number] = case
    in_order = tuple(cases[number] for number in sorted(cases))
    return ParityReport(reference.info.runtime, candidate.info.runtime, tolerance.rtol, tolerance.atol, in_order)


def _answers(reference: Runner, arrays: Arrays) -> bool:
    """Whether the reference itself takes these inputs and gives finite numbers for them."""
    try:
        outputs = run_once(reference, arrays)
    except Exception:  # whatever a model of the user's raises: it does not take such a mask
        return False
    return all(np.isfinite(a.astype(np.float64)).all() for a in outputs.values())


def compare_on(
    reference: Runner,
    candidate: Runner,
    batches: Sequence[Arrays],
    *,
    tolerance: Tolerance,
    reading: Reading | None = None,
) -> ParityReport:
    """As `compare`, on given inputs."""
    cases = tuple(_case(reference, candidate, batch, False, tolerance, None, reading) for batch in batches)
    return ParityReport(reference.info.runtime, candidate.info.runtime, tolerance.rtol, tolerance.atol, cases)


def _case(
    reference: Runner,
    candidate: Runner,
    arrays: Arrays,
    traced: bool,
    tolerance: Tolerance,
    rounding: Rounding | None,
    reading: Reading | None,
    *,
    picks: bool = False,
) -> ParityCase:
    shapes = {n: tuple(a.shape) for n, a in arrays.items()}
    expected = dict(run_once(reference, arrays))
    scores = {name: expected.pop(extra) for name, extra in (reading.scores if reading else {}).items()}
    try:
        got = run_once(candidate, arrays)
    except AttnDeployError as error:
        return ParityCase(shapes, traced, False, None, None, problem=str(error))
    outputs = {n: reading.outputs[n] for n in expected} if reading is not None else _by_type(expected)
    problem = structural_problem(expected, got, outputs)
    if problem:
        return ParityCase(shapes, traced, False, None, None, problem=problem)
    elements = {n: int(a.size) for n, a in expected.items()}
    choices = _choices(expected, got, outputs, scores, tolerance)
    worst = _worst(expected, got, outputs, tolerance)
    case = ParityCase(
        shapes, traced, True, worst.max_abs_error, worst.ratio, elements=elements, worst=str(worst), choices=choices
    )
    problem = _disagreement(choices, outputs, tolerance)
    if problem:
        return replace(case, passed=False, problem=problem)
    if worst.ratio <= 1:
        return case
    if rounding is None:
        return replace(case, passed=False, problem=_beyond(worst, tolerance, None))
    beyond = [n for n in expected if _worst({n: expected[n]}, got, outputs, tolerance).ratio > 1]
    excused, noise = is_rounding(rounding, arrays, expected, got, beyond)
    if excused:
        return replace(case, noise=noise)
    unsteady = picks and moves_as_far(rounding, arrays, expected, got, beyond)
    return replace(case, passed=False, noise=noise, problem=_beyond(worst, tolerance, noise), unsteady=unsteady)


def _beyond(worst: PartDistance, tolerance: Tolerance, noise: float | None) -> str:
    problem = (
        f"{worst}: the largest error is {worst.max_abs_error:.3g}, {worst.ratio:.3g} times what rtol {tolerance.rtol:g} and "
        f"atol {tolerance.atol:g} * max({tolerance.floor:g}, max|expected|) allow"
    )
    if worst.part.axis is not None and tolerance.share is not None and worst.relative > tolerance.share:
        problem = (
            f"{worst}: the error is {worst.relative:.1%} of these values, and {tolerance.share:.0%} is allowed (largest "
            f"error {worst.max_abs_error:.3g})"
        )
    return problem if noise is None else f"{problem} (float32 itself is {noise:.3g} from float64)"


def _by_type(expected: Arrays) -> dict[str, Output]:
    return {n: Output(n, choice=a.dtype.kind in "iub") for n, a in expected.items()}


def structural_problem(expected: Arrays, got: Arrays, outputs: Mapping[str, Output]) -> str:
    """What makes outputs incomparable, in words: names, shapes, NaN or infinity; empty if nothing does."""
    if list(expected) != list(got):
        return f"the outputs are {list(got)}, expected {list(expected)}"
    for name, right in expected.items():
        result = got[name]
        if right.shape != result.shape and not (outputs[name].choice and outputs[name].set_of_rows):
            return f"output {name!r} has the shape {result.shape}, expected {right.shape}"
        if right.dtype.kind not in "biu" and not np.isfinite(right.astype(np.float64)).all():
            return f"output {name!r} of the reference itself is NaN or infinite"
        if result.dtype.kind not in "biu" and not np.isfinite(result.astype(np.float64)).all():
            return f"output {name!r} is NaN or infinite"
    return ""


def _worst(expected: Arrays, got: Arrays, outputs: Mapping[str, Output], tolerance: Tolerance) -> PartDistance:
    """The part of an output that is furthest from right, in units of what is allowed; its error is the largest of all."""
    parts = [
        part
        for name, right in expected.items()
        if not outputs[name].choice
        for part in number_distances(name, [right], [got[name]], tolerance, outputs[name].joined)
    ]
    if not parts:
        return PartDistance("", WHOLE, 0.0, 0.0, 0.0, 0)
    largest = max(p.max_abs_error for p in parts)
    return replace(max(parts, key=lambda p: p.ratio), max_abs_error=largest)


def _choices(
    expected: Arrays, got: Arrays, outputs: Mapping[str, Output], scores: Arrays, tolerance: Tolerance
) -> dict[str, float]:
    """The share of right choices by output."""
    shares = {}
    for name, right in expected.items():
        output = outputs[name]
        if output.choice:
            behind = [scores[name]] if name in scores else None
            rows = output.set_of_rows
            shares[name] = agreement(
                name, [right], [got[name]], rows=rows, scores=behind, axis=output.axis, tolerance=tolerance
            ).share
    return shares


def _disagreement(choices: Mapping[str, float], outputs: Mapping[str, Output], tolerance: Tolerance) -> str:
    """Choices that are too different, where no floating-point output decides."""
    decided = any(not o.choice for o in outputs.values())
    for name, share in choices.items():
        # Boxes that survive suppression change with any rounding: the scores beside them are compared as numbers.
        least = 0.0 if decided and outputs[name].set_of_rows else tolerance.agreement
        if share < least:
            return f"output {name!r}: {share:.2%} of the choices are the same, and {least:.0%} must be (near ties count as same)"
    return ""


def verify_onnx(
    module: nn.Module,
    onnx_model: Path | bytes,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    *,
    output_names: Sequence[str] | None = None,
    tolerance: Tolerance = TOLERANCES["float32"],
) -> ParityReport:
    """Compare an ONNX model in ONNX Runtime on the CPU with the module in eager mode.

    Raises:
        MissingDependencyError: if onnxruntime is not installed.
        GraphError: if ONNX Runtime cannot load the model.
    """
    return verify_against(EagerReference(module, output_names), onnx_model, inputs, dynamic, tolerance=tolerance)


def verify_against(
    reference: EagerReference,
    onnx_model: Path | bytes,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    *,
    tolerance: Tolerance = TOLERANCES["float32"],
    reading: Reading | None = None,
    picks: bool = False,
    until_wrong: bool = False,
) -> ParityReport:
    """As `verify_onnx`, with a reference that may have served other files of the same model.

    The reference gives the scores behind a choice after the outputs, where ``reading`` names them. Its weights and those of
    the file are not in memory at once where that can be avoided, nor are the file's and the model in float64.

    Raises:
        MissingDependencyError, GraphError: as `verify_onnx`.
    """
    import torch

    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    def opened() -> Runner:
        # As many threads as torch was given: what runs beside us has the other cores.
        return OnnxRuntimeRunner(onnx_model, threads=torch.get_num_threads(), shrink=True)

    with reference.resting():
        candidate = ReopenedRunner(opened, before=reference.rest)

        def precise() -> Runner:
            candidate.release()
            give_freed_memory_back()
            return reference.precise()

        try:
            return compare(
                reference.runner,
                candidate,
                inputs,
                dynamic,
                tolerance=tolerance,
                rounding=replace(reference.rounding, precise=precise),
                reading=reading,
                picks=picks,
                until_wrong=until_wrong,
            )
        finally:
            candidate.close()


def verify(
    model: str | nn.Module,
    onnx_path: Path | str,
    *,
    inputs: Sequence[TensorInput] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ParityReport:
    """Compare an ONNX file with the model it was made from, at shapes that move every symbolic axis of the file.

    Weights must be those of the file: give the module itself, unless the model has none of its own.

    Args:
        model: a name or a module.
        onnx_path: the file.
        inputs: needed for a module, unless the file's own input shapes say enough.
        arguments: constructor arguments when ``model`` is a name.

    Raises:
        InvalidRequestError: if the inputs of the model cannot be known.
        GraphError: if the file cannot be read.
    """
    from attn_deploy.graph.artifact import read_onnx

    artifact = read_onnx(onnx_path)
    if isinstance(model, str):
        from attn_deploy.resolve.resolve import resolve

        resolved = resolve(model, arguments)
        module, declared, label = resolved.module, resolved.inputs, resolved.name.text
    else:
        module, declared, label = model, None, type(model).__name__
    chosen = inputs if inputs is not None else declared
    if chosen is None:
        raise InvalidRequestError("give the inputs of the module: inputs=parse_inputs(['1x3x224x224']).")
    if declared is None:
        from attn_deploy.inputs.binding import bind_inputs

        bound = bind_inputs(module, chosen, label)
        module, chosen = bound.module, bound.inputs
    dynamic = [s for s in dict.fromkeys(s for i in chosen for s in i.symbols) if s in artifact.dynamic_axes]
    names = [o.name for o in artifact.outputs]
    return verify_onnx(module, artifact.path, chosen, dynamic, output_names=names)
