"""Comparing two finished files: which output, which part of it, where, and by how much. No torch here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from attn_deploy.errors import InvalidRequestError, ParityError
from attn_deploy.graph.artifact import open_model
from attn_deploy.graph.evidence import read_evidence
from attn_deploy.graph.heads import Output, read_outputs
from attn_deploy.inputs.samples import example_arrays, verification_seed, verification_sizes
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.distance import agreement, number_distances
from attn_deploy.parity.given import given_inputs
from attn_deploy.parity.graphs import runnable_inputs, with_other_batches
from attn_deploy.parity.judge import LARGEST_ERROR
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.parity.verify import structural_problem
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.graphs import graph_runner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

_ENGINES = (".engine", ".plan", ".trt")
_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "int8"}


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output, or one part of it with a scale of its own.

    Attributes:
        output, part: where; the part is empty for the whole output.
        elements: values compared, over all runs.
        passed: whether they are within what is allowed.
        max_abs_error: the largest difference; None for choices.
        relative: root mean square of the difference over that of the right values; None for choices.
        where: index of the largest difference, in the run of that number.
        run: that number, from 0.
        expected, got: the two values there.
        agreement: the share of equal choices, near ties among them; None for numbers.
    """

    output: str
    part: str
    elements: int
    passed: bool
    max_abs_error: float | None = None
    relative: float | None = None
    where: tuple[int, ...] = ()
    run: int = 0
    expected: float | None = None
    got: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class FileComparison:
    """Two files on the same inputs.

    Attributes:
        reference, candidate: their paths.
        precision: whose tolerance was applied: fp32, fp16, bf16, int8 or fp8.
        rule: what is allowed, in words.
        inputs: the shapes of each run.
        outputs: what was compared.
    """

    reference: str
    candidate: str
    precision: str
    rule: str
    inputs: tuple[dict[str, tuple[int, ...]], ...]
    outputs: tuple[OutputComparison, ...]

    @property
    def passed(self) -> bool:
        """Whether every part of every output is within what is allowed."""
        return bool(self.outputs) and all(o.passed for o in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "passed": self.passed}


def verify_files(
    reference: Path | str,
    candidate: Path | str,
    *,
    precision: str | None = None,
    inputs: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
) -> FileComparison:
    """Compare an ONNX file or an engine with the ONNX file that is right.

    Args:
        reference: an ONNX file; it runs in ONNX Runtime on the CPU, without optimisations.
        candidate: an ONNX file, which runs there too, or a TensorRT engine, which needs its GPU.
        precision: whose tolerance is applied; by default what the candidate says that it is.
        inputs: shapes to run at, as ``NAME:1x3x64x64``; by default some that the reference runs at.
        samples: ``.npz`` files with real inputs, an array for each.

    Raises:
        InvalidRequestError: if the inputs do not fit, or the precision is unknown.
        GraphError: if a file cannot be read, or does not run.
        ParityError: if the outputs cannot be compared: other names or shapes, NaN, or nothing to compare.
        EngineMismatchError, NoDeviceError, MissingDependencyError: if the engine cannot be run here.
    """
    first, second = Path(reference), Path(candidate)
    model, _ = open_model(first, light=True)
    word = precision or precision_of_file(second)
    if word not in _TYPES:
        raise InvalidRequestError(f"--precision {word!r} is unknown; choose {', '.join(_TYPES)}.")
    wider, reading = read_outputs(model)
    right = graph_runner(wider, optimize=False)
    given = given_inputs(model, inputs, samples)
    if given.samples:
        batches: Sequence[Arrays] = with_other_batches(given.samples, model, right)
    else:
        tensors, symbols = runnable_inputs(model, right, given)
        batches = [
            example_arrays(tensors, s, verification_seed(k))
            for k, s in enumerate([{}, *verification_sizes(tensors, symbols)])
        ]
    expected = [run_once(right, batch) for batch in batches]
    scores = {name: [e.pop(extra) for e in expected] for name, extra in reading.scores.items()}
    runner = _runner(second)
    got = [run_once(runner, _as_taken(batch, runner)) for batch in batches]
    runner.close()
    tolerance = TOLERANCES[_TYPES[word]]
    rows: list[OutputComparison] = []
    for one, other in zip(expected, got, strict=True):
        problem = structural_problem(one, other, reading.outputs)
        if problem:
            raise ParityError(f"{second} against {first}: {problem}.")
    for name, output in reading.outputs.items():
        rows += _compared(
            output, [e[name] for e in expected], [g[name] for g in got], scores.get(name), tolerance, word
        )
    empty = [r.output for r in rows if not r.elements]
    if empty:
        raise ParityError(
            f"{second} against {first}: nothing was compared at the output {empty[0]!r}, which was empty on every input. Give "
            "inputs on which it is not, with --data FILE.npz."
        )
    shapes = tuple({n: tuple(int(d) for d in a.shape) for n, a in b.items()} for b in batches)
    return FileComparison(str(first), str(second), word, _rule(tolerance, word), shapes, tuple(rows))


def precision_of_file(path: Path) -> str:
    """fp32, fp16, bf16, int8 or fp8: what the graph or the engine holds, whatever its inputs are."""
    if path.suffix in _ENGINES:
        from attn_deploy.engine.artifact import read_engine

        parts = read_engine(path).precision.split("+")
        return next((p for p in ("int8", "fp8", "bf16", "fp16") if p in parts), "fp32")
    model, _ = open_model(path, light=True)
    evidence = read_evidence(model)
    if evidence is not None and evidence.precision:
        return evidence.precision
    if any(n.op_type in ("QuantizeLinear", "QLinearConv", "QLinearMatMul") for n in model.graph.node):
        return "int8"
    held = {i.data_type for i in model.graph.initializer if len(i.dims) > 1}
    if onnx.TensorProto.BFLOAT16 in held:
        return "bf16"
    return "fp16" if onnx.TensorProto.FLOAT16 in held else "fp32"


def _runner(path: Path) -> Runner:
    if path.suffix in _ENGINES:
        runner: Runner = importlib.import_module("attn_deploy.runtimes.tensorrt").TensorRTRunner(path)
        return runner
    return OnnxRuntimeRunner(path, optimize=False)


def _as_taken(batch: Arrays, runner: Runner) -> Arrays:
    """Inputs in the types of a file whose interface is half."""
    types = runner.input_types if isinstance(runner, OnnxRuntimeRunner) else {}
    return {n: a.astype(types[n]) if n in types and a.dtype != types[n] else a for n, a in batch.items()}


def _compared(
    output: Output,
    right: Sequence[Any],
    got: Sequence[Any],
    scores: Sequence[Any] | None,
    tolerance: Tolerance,
    precision: str,
) -> list[OutputComparison]:
    if output.choice:
        agreed = agreement(
            output.name,
            right,
            got,
            rows=output.set_of_rows,
            scores=scores,
            axis=output.axis,
            tolerance=tolerance,
        )
        passed = agreed.share >= tolerance.agreement or output.set_of_rows
        return [OutputComparison(output.name, "", agreed.elements, passed, agreement=agreed.share)]
    rows = []
    for part in number_distances(output.name, right, got, tolerance, output.joined):
        passed = part.relative <= LARGEST_ERROR if _TYPES[precision] == "int8" else part.ratio <= 1
        where: tuple[int, ...] = ()
        run, one, other = 0, None, None
        if part.elements:
            errors = [
                np.abs(part.part.of(np.asarray(b, float)) - part.part.of(np.asarray(a, float)))
                for a, b in zip(right, got, strict=True)
            ]
            run = int(np.argmax([e.max(initial=-1.0) for e in errors]))
            inner = [int(k) for k in np.unravel_index(int(errors[run].argmax()), errors[run].shape)]
            if part.part.axis is not None:
                inner[part.part.axis] += part.part.start
            where = tuple(inner)
            one, other = float(right[run][where]), float(got[run][where])
        rows.append(
            OutputComparison(
                output.name,
                str(part.part),
                part.elements,
                passed,
                part.max_abs_error,
                part.relative,
                where,
                run,
                one,
                other,
            )
        )
    return rows


def _rule(tolerance: Tolerance, precision: str) -> str:
    if _TYPES[precision] == "int8":
        return f"an error of {LARGEST_ERROR:.0%} of each part, root mean square"
    return f"rtol {tolerance.rtol:g}, atol {tolerance.atol:g} * max({tolerance.floor:g}, max|y|) of each part"
