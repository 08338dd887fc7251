"""From errors to a verdict: which case to look into, which part to blame, in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from attn_deploy.diagnosis.numbers import Blamed, Walk, written_part
from attn_deploy.diagnosis.record import Fault, Step
from attn_deploy.diagnosis.references import GraphReference, Reference
from attn_deploy.diagnosis.specimen import Specimen
from attn_deploy.diagnosis.trials import part_operators
from attn_deploy.engine.profile import Profile, ShapeRange
from attn_deploy.errors import GraphError, ParityError
from attn_deploy.graph.parts import Part
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.share import compare_by_share
from attn_deploy.parity.verify import UNTRACED_SHAPES, compare, compare_on
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

_COMPARED_BATCHES = 4
_NOTED = 6
_REMEDY = (
    "Export with the other --exporter, with --no-simplify or with --no-fuse, and see which of them makes it right."
)


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs.

    Attributes:
        inputs: by name.
        passed: whether the outputs are within tolerance, here and at all other sizes.
        runs: whether the candidate runs on them.
        problem: what is wrong with the outputs.
    """

    inputs: Arrays
    passed: bool
    runs: bool
    problem: str

    def profile(self) -> Profile:
        """Exactly these shapes."""
        shapes = {n: tuple(int(d) for d in a.shape) for n, a in self.inputs.items()}
        return Profile(tuple(ShapeRange(n, s, s, s) for n, s in shapes.items()))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the comparison.

    Attributes:
        steps: the error at the end of each module.
        notes: what was seen besides.
        fault: the part to blame; None if the outputs are right.
        part: that part of the graph.
        entering, expected: its right inputs and outputs.
    """

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    fault: Fault | None = None
    part: Part | None = None
    entering: Arrays = field(default_factory=dict)
    expected: Arrays = field(default_factory=dict)


def worst_case(candidate: Specimen, reference: Reference, batches: Sequence[Arrays] | None, owner: str) -> Case:
    """The first inputs at which the outputs are wrong; those of the traced size if none are.

    Raises:
        ParityError: if the reference itself gives NaN or infinity.
        GraphError: if the candidate cannot be loaded.
    """
    runner = OnnxRuntimeRunner(candidate.running.model.SerializeToString(), optimize=False)
    if candidate.share is not None:
        arrays = list(batches[:_COMPARED_BATCHES]) if batches is not None else _sized(reference)
        report = compare_by_share(reference.runner, runner, arrays, candidate.share, tolerance=candidate.tolerance)
    elif batches is not None:
        arrays = list(batches[:_COMPARED_BATCHES])
        report = compare_on(reference.runner, runner, arrays, tolerance=candidate.tolerance)
    else:
        arrays = _sized(reference)
        report = _at_sizes(candidate, reference, runner)
    index = next((k for k, c in enumerate(report.cases) if not c.passed), None)
    if index is None:
        return Case(arrays[0], True, True, "")
    problem = report.cases[index].problem
    if "of the reference itself" in problem:
        raise ParityError(f"{owner}: {problem}: nothing can be compared with it.", rule="not-finite")
    return Case(arrays[index], False, _runs(runner, arrays[index]), problem)


def _at_sizes(candidate: Specimen, reference: Reference, runner: OnnxRuntimeRunner) -> ParityReport:
    return compare(
        reference.runner,
        runner,
        reference.inputs,
        reference.dynamic,
        tolerance=candidate.tolerance,
        rounding=reference.rounding if candidate.precision == "fp32" else None,
    )


def _sized(reference: Reference) -> list[Arrays]:
    """The inputs on which `compare` runs."""
    other = verification_sizes(reference.inputs, reference.dynamic, UNTRACED_SHAPES) or [{}]
    return [example_arrays(reference.inputs, s, 17 * k) for k, s in enumerate([{}, *other])]


def _runs(runner: Runner, inputs: Arrays) -> bool:
    try:
        run_once(runner, inputs)
    except GraphError:
        return False
    return True


def examine_file(candidate: Specimen, reference: Reference, case: Case, progress: Callable[[str], None]) -> Verdict:
    """Walk over the modules on one set of inputs, and blame one if the outputs are wrong."""
    walk = Walk(candidate, reference, case.inputs, progress)
    pairs = walk.steps(walk.pairs())
    steps = tuple(step for _, step in pairs)
    if case.passed:
        hidden = [s for s in steps if not s.finite]
        notes = [f"{_place(s)}: NaN or infinite, which does not reach the outputs" for s in hidden[:_NOTED]]
        return Verdict(steps, tuple(notes))
    blamed = walk.blame(pairs)
    if blamed is None:
        fault = Fault("numbers", "", "", "", "", case.problem, _REMEDY, {}, alone=False)
        return Verdict(steps, ("no module that both sides have is out of tolerance by itself",), fault)
    shown = tuple(blamed.step if s.tensor == blamed.step.tensor else s for s in steps)
    if blamed.guilty:
        source = GraphReference(candidate.logical, "the fp32 graph") if candidate.converted else None
        blamed = walk.inside(blamed, pairs, source)
    notes = []
    doubt = reference.doubt(case.inputs)
    if doubt > candidate.tolerance.atol * max(1.0, float(np.abs(blamed.expected).max(initial=0.0))):
        notes.append(
            f"the copy that is exported (fused, rewritten) is itself {doubt:.3g} from the model: modules are judged by "
            "that copy, so look at the fusing first"
        )
    part, entering = written_part(candidate, blamed)
    return Verdict(
        shown,
        tuple(notes),
        _fault(candidate, reference, blamed, part, case),
        part,
        entering,
        {blamed.point.tensor: blamed.expected},
    )


def _fault(candidate: Specimen, reference: Reference, blamed: Blamed, part: Part, case: Case) -> Fault:
    other = _other_weights(candidate, reference, blamed)
    words = [_error(blamed, candidate)]
    if other:
        words.append(f"its weight {other}")
    if not blamed.guilty:
        words.append("no module is out of tolerance by itself: this one has the largest share of an error that grows")
    words.append(f"at the outputs: {case.problem}")
    point = blamed.point
    return Fault(
        question="numbers",
        module=point.module,
        class_name=reference.classes.get(point.module, ""),
        operator=point.operator,
        node=candidate.logical.nodes[candidate.logical.maker[point.tensor]].name
        if point.tensor in candidate.logical.maker
        else "",
        what="; ".join(words),
        remedy=_remedy(candidate, blamed, bool(other)),
        operators=part_operators(part),
        alone=blamed.guilty,
    )


def _error(blamed: Blamed, candidate: Specimen) -> str:
    step, alone = blamed.step, blamed.step.alone
    if not step.finite:
        reached = float(np.abs(blamed.expected.astype(np.float64)).max(initial=0.0))
        return f"NaN or infinite in {candidate.precision}, where the reference reaches {reached:.3g}"
    if step.max_abs_error is None or step.relative is None or step.ratio is None:
        return f"another shape than the reference's {tuple(blamed.expected.shape)}"
    fed = f", {alone:.3g} times when it is fed with right values" if alone is not None and alone >= 0 else ""
    return (
        f"the error is {step.max_abs_error:.3g} ({step.relative:.1%} of the largest value), {step.ratio:.3g} times what "
        f"is allowed{fed}"
    )


def _other_weights(candidate: Specimen, reference: Reference, blamed: Blamed) -> str:
    """The weight of the blamed part that differs most from the reference's of the same name."""
    import onnx.numpy_helper

    right, tolerance = reference.weights(), candidate.tolerance
    worst, words = 1.0, ""
    for node in blamed.nodes:
        for name in candidate.running.reads[node]:
            if name not in candidate.running.weights or name not in right:
                continue
            held = onnx.numpy_helper.to_array(candidate.running.weights[name])
            meant = right[name]
            if held.shape != meant.shape or held.size == 0 or held.dtype.kind != "f":
                continue
            apart = float(np.abs(held.astype(np.float64) - meant).max())
            share = apart / (tolerance.atol * max(1.0, float(np.abs(meant).max())))
            if share > worst:
                worst, words = share, f"{name!r} is up to {apart:.3g} from the reference's"
    return words


def _remedy(candidate: Specimen, blamed: Blamed, other_weights: bool) -> str:
    if other_weights:
        return "The file holds other weights than the reference: make it again from the model as it is now."
    if candidate.precision == "fp16" and not blamed.step.finite:
        if not candidate.converted:
            return (
                "A value leaves the range of fp16: make the file again from fp32 with 'attn-deploy convert --precision fp16', "
                "which measures ranges and keeps such nodes in fp32, or use bf16."
            )
        return (
            "A value leaves the range of fp16: keep the node in fp32 by its measured range (leave out --no-by-range, and "
            "give --calibration data of the size that the model meets), or use bf16."
        )
    if candidate.precision in ("fp16", "bf16"):
        return f"It needs more digits than {candidate.precision} has: keep this module in fp32" + (
            ", or use fp16." if candidate.precision == "bf16" else "."
        )
    if candidate.share is not None:
        return "Leave this module in higher precision when quantizing, or calibrate on data more like what it meets."
    return _REMEDY


def _place(step: Step) -> str:
    return f"{step.module or step.tensor} ({step.operator})"
