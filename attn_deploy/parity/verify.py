"""Comparing a candidate runtime with a reference, at the traced shapes and at shapes that were never traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.inputs.samples import verification_batches
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.report import ParityCase, ParityReport
from attn_deploy.parity.tolerance import NOISE_FACTOR, TOLERANCES, Tolerance
from attn_deploy.runtimes.base import Runner, run_once

if TYPE_CHECKING:
    from torch import nn

UNTRACED_SHAPES = 4


def compare(
    reference: Runner,
    candidate: Runner,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    *,
    tolerance: Tolerance = TOLERANCES["float32"],
    precise: Callable[[], Runner] | None = None,
    shapes: int = UNTRACED_SHAPES,
    seed: int = 0,
) -> ParityReport:
    """Run both at the traced sizes and at others, in which every dynamic axis moves.

    Args:
        reference: what is right.
        candidate: what is tested.
        inputs: the inputs, with their symbols and traced sizes.
        dynamic: symbols that move.
        tolerance: see `attn_deploy.parity.tolerance`.
        precise: makes the reference in float64; asked only where the tolerance is exceeded, to tell rounding from
            error.
        shapes: how many untraced shapes.
        seed: of the input values.
    """
    cases = []
    for batch in verification_batches(inputs, dynamic, shapes, seed):
        if batch.extra and not _answers(reference, batch.arrays):
            continue
        cases.append(_case(reference, candidate, batch.arrays, not batch.sizes, tolerance, precise))
    return ParityReport(reference.info.runtime, candidate.info.runtime, tolerance.rtol, tolerance.atol, tuple(cases))


def _exact(precise: Callable[[], Runner], arrays: Arrays) -> Arrays | None:
    """The outputs in float64; None where the model fixes a type of its own inside, which float64 does not fit."""
    try:
        return run_once(precise(), arrays)
    except (RuntimeError, TypeError):
        return None


def _answers(reference: Runner, arrays: Arrays) -> bool:
    """Whether the reference itself takes these inputs and gives finite numbers for them."""
    try:
        outputs = run_once(reference, arrays)
    except Exception:  # whatever a model of the user's raises: it does not take such a mask
        return False
    return all(np.isfinite(a.astype(np.float64)).all() for a in outputs.values())


def compare_on(
    reference: Runner, candidate: Runner, batches: Sequence[Arrays], *, tolerance: Tolerance
) -> ParityReport:
    """As `compare`, on given inputs."""
    cases = tuple(_case(reference, candidate, batch, False, tolerance, None) for batch in batches)
    return ParityReport(reference.info.runtime, candidate.info.runtime, tolerance.rtol, tolerance.atol, cases)


def _case(
    reference: Runner,
    candidate: Runner,
    arrays: Arrays,
    traced: bool,
    tolerance: Tolerance,
    precise: Callable[[], Runner] | None,
) -> ParityCase:
    shapes = {n: tuple(a.shape) for n, a in arrays.items()}
    expected = run_once(reference, arrays)
    try:
        got = run_once(candidate, arrays)
    except AttnDeployError as error:
        return ParityCase(shapes, traced, False, None, None, problem=str(error))
    problem = _structural_problem(expected, got)
    if problem:
        return ParityCase(shapes, traced, False, None, None, problem=problem)
    distance, ratio = _distance(expected, got, tolerance)
    noise = None
    if ratio > 1 and precise is not None:
        exact = _exact(precise, arrays)
        if exact is not None:
            noise = _distance(exact, expected, tolerance)[0]
            error_from_exact, _ = _distance(exact, got, tolerance)
            if error_from_exact <= NOISE_FACTOR * noise:
                return ParityCase(shapes, traced, True, distance, ratio, noise)
    if ratio > 1:
        problem = (
            f"the largest error is {distance:.3g}, {ratio:.3g} times what rtol {tolerance.rtol:g} and "
            f"atol {tolerance.atol:g} * max(1, max|expected|) allow"
        )
        if noise is not None:
            problem += f" (float32 itself is {noise:.3g} from float64)"
    return ParityCase(shapes, traced, ratio <= 1, distance, ratio, noise, problem)


def _structural_problem(expected: Arrays, got: Arrays) -> str:
    if list(expected) != list(got):
        return f"the outputs are {list(got)}, expected {list(expected)}"
    for name, right in expected.items():
        found = got[name]
        if right.shape != found.shape:
            return f"output {name!r} has the shape {found.shape}, expected {right.shape}"
        if not np.isfinite(right.astype(np.float64)).all():
            return f"output {name!r} of the reference itself is NaN or infinite"
        if not np.isfinite(found.astype(np.float64)).all():
            return f"output {name!r} is NaN or infinite"
    return ""


def _distance(expected: Arrays, got: Arrays, tolerance: Tolerance) -> tuple[float, float]:
    """Largest absolute error, and largest error in units of what is allowed."""
    worst, worst_ratio = 0.0, 0.0
    for name, right in expected.items():
        exact = right.astype(np.float64)
        if exact.size == 0:
            continue
        error = np.abs(got[name].astype(np.float64) - exact)
        allowed = tolerance.atol * max(1.0, float(np.abs(exact).max())) + tolerance.rtol * np.abs(exact)
        worst = max(worst, float(error.max()))
        worst_ratio = max(worst_ratio, float((error / allowed).max()))
    return worst, worst_ratio


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
) -> ParityReport:
    """As `verify_onnx`, with a reference that may have served other files of the same model.

    Raises:
        MissingDependencyError, GraphError: as `verify_onnx`.
    """
    import torch

    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    # As many threads as torch was given: what runs beside us has the other cores.
    candidate = OnnxRuntimeRunner(onnx_model, threads=torch.get_num_threads())
    return compare(reference.runner, candidate, inputs, dynamic, tolerance=tolerance, precise=reference.precise)


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
        module, known, label = resolved.module, resolved.inputs, resolved.name.text
    else:
        module, known, label = model, None, type(model).__name__
    chosen = inputs if inputs is not None else known
    if chosen is None:
        raise InvalidRequestError("give the inputs of the module: inputs=parse_inputs(['1x3x224x224']).")
    if known is None:
        from attn_deploy.inputs.binding import bind_inputs

        bound = bind_inputs(module, chosen, label)
        module, chosen = bound.module, bound.inputs
    dynamic = [s for s in dict.fromkeys(s for i in chosen for s in i.symbols) if s in artifact.dynamic_axes]
    names = [o.name for o in artifact.outputs]
    return verify_onnx(module, artifact.path, chosen, dynamic, output_names=names)
