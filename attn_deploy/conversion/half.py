"""From an fp32 graph to a proven one in half precision: measure, decide, write, compare, and repair once."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from attn_deploy.errors import GraphError, NothingToConvertError, ParityError, PrecisionError
from attn_deploy.graph.evidence import Evidence, read_evidence, write_evidence
from attn_deploy.graph.inference import holds_sequences
from attn_deploy.graph.opset import standard_opset
from attn_deploy.graph.precision import (
    ClippedMask,
    HalfType,
    PrecisionPlan,
    Range,
    TypedGraph,
    apply_plan,
    clip_masks,
    float_tensors,
    half_type,
    instrumented,
    plan_precision,
    prepared_graph,
    read_ranges,
    rounded,
)
from attn_deploy.graph.precision.plan import LEVELS, MARGIN, Kept, describe_plan
from attn_deploy.graph.shape_inference import infer_shapes
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.runtimes.base import Runner, RuntimeInfo, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

_SHOWN = 64
_AT_ONCE = 2048  # tensors: with many more, ONNX Runtime takes long to load the graph
Judge = Callable[[Runner, Tolerance], ParityReport]


@dataclass(frozen=True, slots=True)
class HalfModel:
    """A graph in half precision with its evidence.

    Attributes:
        model: the graph.
        report: the comparison of its numbers, each operator's result rounded to the half type.
        record: everything measured and decided, JSON-ready.
    """

    model: onnx.ModelProto
    report: ParityReport
    record: Mapping[str, Any]


def to_half(
    model: onnx.ModelProto,
    precision: str,
    *,
    io: str,
    batches: Sequence[Arrays],
    judge: Judge,
    owner: str,
    calibration: Mapping[str, str] | None = None,
    by_range: bool = True,
    keep: Sequence[str] = (),
) -> HalfModel:
    """Convert a graph, and prove the result.

    Args:
        model: in fp32.
        precision: fp16 or bf16.
        io: ``fp32`` keeps the types of inputs and outputs, ``same`` gives them the half type.
        batches: inputs on which the ranges are measured.
        judge: compares a runner of the result with what is right; called with the tolerance of the type.
        owner: for messages.
        calibration: name and hash of the data behind ``batches``, if it came from a file.
        by_range: keep nodes in fp32 whose measured values leave the range; off shows what the rules alone would give.
        keep: patterns of names of nodes, modules or operators that stay in fp32.

    Raises:
        InvalidRequestError: if a pattern fits nothing.
        NothingToConvertError: if nothing of the graph can be half.
        PrecisionError: if the fp32 graph itself gives NaN, or the half graph does.
        ParityError: if the numbers are out of the tolerance of the type.
    """
    half = half_type(precision)
    half.check(io, standard_opset(model))
    _refuse_half(model, owner)
    settings = _Settings(half, io, list(batches), judge, owner, calibration, by_range, keep)
    prepared = prepared_graph(model)
    clipped, masks = clip_masks(prepared, half) if by_range else (prepared, ())
    if masks:
        ranges = measured_ranges(clipped, settings.batches, owner)
        if all(m.harmless(ranges) for m in masks):
            try:
                return _typed(clipped, ranges, settings, masks)
            except (ParityError, PrecisionError):
                pass  # as they are, then
    return _typed(prepared, measured_ranges(prepared, settings.batches, owner), settings, ())


@dataclass(frozen=True, slots=True)
class _Settings:
    """The arguments of `to_half` but the graph."""

    half: HalfType
    io: str
    batches: Sequence[Arrays]
    judge: Judge
    owner: str
    calibration: Mapping[str, str] | None
    by_range: bool
    keep: Sequence[str]


def _refuse_half(model: onnx.ModelProto, owner: str) -> None:
    halves = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    for value in (*model.graph.input, *model.graph.output):
        word = halves.get(value.type.tensor_type.elem_type)
        if word is not None:
            raise PrecisionError(
                f"{owner}: {value.name!r} is {word}: the graph is in half precision already. Convert the fp32 file that it was "
                "made from."
            )


def _typed(
    prepared: onnx.ModelProto,
    ranges: Mapping[str, Range],
    settings: _Settings,
    masks: Sequence[ClippedMask],
) -> HalfModel:
    half, io, judge, owner = settings.half, settings.io, settings.judge, settings.owner
    by_range, keep, calibration = settings.by_range, settings.keep, settings.calibration
    tolerance = TOLERANCES[half.name]
    _check_interface(prepared, ranges, half, io, owner)
    report: ParityReport | None = None
    for careful in range(LEVELS) if by_range else (0,):
        working = ir.from_proto(prepared)
        plan = plan_precision(working, half, ranges if by_range else None, careful=careful, keep=keep)
        typed = apply_plan(working, plan, same_io=io == "same")
        if report is not None and not _takes_half(typed, half):
            continue  # so much kept in fp32 that nothing is left: the comparison says more
        _check_share(typed, half, plan, owner)
        simulation = rounded(typed.model)
        runner = _plain_runner(simulation)
        comparison = judge(_Named(runner, half), tolerance)
        runner.close()  # its memory is that of all tensors of a run
        report = comparison if report is None or comparison.passed else report
        if comparison.passed:
            break
    else:
        _explain_failure(simulation, settings.batches, half, owner)
        if report is not None:
            _refuse(report, f"{owner} in {half.word}", half)
    if report is None:
        raise PrecisionError(f"{owner}: nothing was compared.")
    record = {
        "precision": half.word,
        "io": io,
        "tolerance": {"rtol": tolerance.rtol, "atol": tolerance.atol},
        "max_abs_error": report.max_abs_error,
        "worst": report.worst,
        "choices": report.choices,
        "compared": f"in float32 arithmetic, rounded to {half.name} after every operator",
        "onnxruntime": _in_onnxruntime(typed.model, judge, tolerance, owner),
        "careful": bool(careful),
        "calibration": dict(calibration) if calibration else {"data": "ramped noise"},
        "masks": [{"node": m.node, "before": m.before, "after": m.after} for m in masks[:_SHOWN]],
        **_described(typed, plan, ranges),
    }
    return HalfModel(typed.model, report, record)


def _refuse(report: ParityReport, owner: str, half: HalfType) -> None:
    """Raise what a comparison shows, with what can be done."""
    try:
        report.raise_if_failed(owner)
    except ParityError as error:
        if all(c.ratio is None or c.ratio <= 1 for c in report.cases):
            raise  # not for want of digits
        raise ParityError(
            f"{str(error).rstrip('.')}. What leads there needs more digits than {half.word} has: keep it in fp32 "
            "with --keep 'NAME*' (names of nodes, modules or operators; 'attn-deploy diagnose' finds them)."
        ) from error


def note_typing(typed: HalfModel) -> None:
    """Write the evidence into the model's metadata, and into the record that an export left there."""
    parity = {**typed.report.summary(), "reference": f"{typed.report.reference}, the fp32 file"}
    shapes = [dict(case.shapes) for case in typed.report.cases]
    precision = str(typed.record["precision"])
    evidence = (read_evidence(typed.model) or Evidence()).after(
        "precision",
        {"precision": precision, "max_abs_error": typed.report.max_abs_error},
        precision=precision,
        parity=parity,
        typing={**typed.record, "shapes": shapes},
    )
    write_evidence(typed.model, evidence)


def measured_ranges(prepared: onnx.ModelProto, batches: Iterable[Arrays], owner: str) -> dict[str, Range]:
    """The magnitudes of all tensors of a prepared fp32 graph, over all batches.

    Raises:
        PrecisionError: naming the first tensor that is NaN or infinite, where an output is too.
    """
    names = float_tensors(prepared)
    ranges: dict[str, Range] = {}
    given = list(batches)
    for start in range(0, len(names), _AT_ONCE):
        model, some = instrumented(prepared, set(names[start : start + _AT_ONCE]))
        runner = _plain_runner(model)
        for batch in given:
            for name, value in read_ranges(some, run_once(runner, batch)).items():
                ranges[name] = value.joined(ranges[name]) if name in ranges else value
        runner.close()
    bad = next((n for n in names if n in ranges and not ranges[n].finite), None)
    # Infinity that no output sees is a mask's, before a softmax: such nodes stay in fp32 by their range.
    reaches = any(o.name in ranges and not ranges[o.name].finite for o in prepared.graph.output)
    if bad is not None and reaches:
        raise PrecisionError(
            f"{owner}: in fp32 already, {_place(prepared, bad)} is NaN or infinite; no precision below repairs that."
        )
    return ranges


def _plain_runner(model: onnx.ModelProto) -> OnnxRuntimeRunner:
    """Every node as it is."""
    reuse = not holds_sequences(model)
    return OnnxRuntimeRunner(model.SerializeToString(), optimize=False, reuse_memory=reuse, in_order=True)


def _check_interface(
    prepared: onnx.ModelProto, ranges: Mapping[str, Range], half: HalfType, io: str, owner: str
) -> None:
    if io != "same":
        return
    for kind, values in (("input", prepared.graph.input), ("output", prepared.graph.output)):
        for value in values:
            extent = ranges.get(value.name)
            if extent is not None and extent.largest > half.largest:
                raise PrecisionError(
                    f"{owner}: the {kind} {value.name!r} reaches {extent.largest:.4g}, and {half.word} ends at "
                    f"{half.largest:.5g}: keep the interface in fp32 with --io fp32."
                )


def _takes_half(typed: TypedGraph, half: HalfType) -> bool:
    return bool(typed.half_nodes and (typed.products.get(half.name) or not typed.products))


def _check_share(typed: TypedGraph, half: HalfType, plan: PrecisionPlan, owner: str) -> None:
    if _takes_half(typed, half):
        return
    reasons = collections.Counter(k.reason for k in plan.wide.values()).most_common(3)
    raise NothingToConvertError(
        f"{owner}: no {'product' if typed.products else 'operator'} of the graph can be {half.word}, so {half.word} would "
        f"change nothing ({'; '.join(f'{n} nodes: {r}' for r, n in reasons)}). Use fp32"
        + (", or --precision bf16, which has the range of fp32." if half.word == "fp16" else ".")
    )


def _explain_failure(simulation: onnx.ModelProto, batches: Iterable[Arrays], half: HalfType, owner: str) -> None:
    """Name the first tensor of the half graph that is NaN or infinite, if there is one."""
    model, names = instrumented(infer_shapes(simulation, data_prop=True))
    runner = _plain_runner(model)
    for batch in batches:
        ranges = read_ranges(names, run_once(runner, batch))
        bad = next((n for n in names if not ranges[n].finite), None)
        if bad is not None:
            raise PrecisionError(
                f"{owner}: in {half.word}, {_place(simulation, bad)} is NaN or infinite: a value there leaves the range, "
                f"which ends at {half.largest:.5g}. Give data of the size that the model meets (--calibration FILE.npz), "
                "so that the node is kept in fp32, or use --precision bf16."
            )


def _in_onnxruntime(model: onnx.ModelProto, judge: Judge, tolerance: Tolerance, owner: str) -> dict[str, Any]:
    """What the file itself gives in ONNX Runtime, or why it cannot be run there."""
    interface = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    if onnx.TensorProto.BFLOAT16 in interface:
        return {"ran": False, "reason": "numpy has no bfloat16, which the file's inputs or outputs are"}
    try:
        runner = _plain_runner(model)
    except GraphError as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        reason = str(error).split("NOT_IMPLEMENTED : ")[-1]
        return {"ran": False, "reason": f"ONNX Runtime on the CPU lacks a kernel: {reason}"}
    report = judge(_Typed(runner, model), tolerance)
    runner.close()
    report.raise_if_failed(f"{owner}: the typed file")
    return {"ran": True, "max_abs_error": report.max_abs_error}


def _described(typed: TypedGraph, plan: PrecisionPlan, ranges: Mapping[str, Range]) -> dict[str, Any]:
    by_range = sorted((k for k in plan.wide.values() if k.largest is not None), key=lambda k: -(k.largest or 0))
    return {
        "nodes_half": typed.half_nodes,
        "nodes_fp32": typed.wide_nodes,
        "products": dict(typed.products),
        "casts": typed.casts,
        "kept": dict(collections.Counter(k.reason.split(":")[0] for k in plan.wide.values())),
        "kept_by_range": [_kept(k) for k in by_range[:_SHOWN]],
        "largest": max((r.largest for r in ranges.values() if math.isfinite(r.largest)), default=0.0),
        "margin": MARGIN,
        "overflow": None if plan.overflow is None else _kept(plan.overflow),
        "weights_lost": [{"name": n, "share": s} for n, s in typed.lost[:_SHOWN]],
    }


def _kept(kept: Kept) -> dict[str, Any]:
    return {"operator": kept.operator, "module": kept.module, "node": kept.node, "reason": kept.reason}


def _place(model: onnx.ModelProto, tensor: str) -> str:
    """A tensor in the user's words: what makes it, in which module."""
    graph = ir.from_proto(model).graph
    value = next((v for n in graph for v in n.outputs if v.name == tensor), None)
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].producer():
        node = node.inputs[0].producer()
    if node is None:
        return f"the input {tensor!r}"
    name, operator, module = describe_plan(node)
    return f"the result of {operator} in " + (f"module {module!r}" if module else f"node {name!r}")


class _Wrapped:
    """A runner around a runner."""

    def __init__(self, inner: Runner) -> None:
        self._inner = inner

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return self._inner.info

    def prepare(self, inputs: Arrays) -> None:
        """Take ``inputs``."""
        self._inner.prepare(inputs)

    def enqueue(self) -> None:
        """Start one run."""
        self._inner.enqueue()

    def synchronize(self) -> None:
        """Wait for it."""
        self._inner.synchronize()

    def outputs(self) -> Arrays:
        """The results by name."""
        return self._inner.outputs()

    def close(self) -> None:
        """Free the session."""
        self._inner.close()


class _Named(_Wrapped):
    """Float32 arithmetic that says which type it stands for."""

    def __init__(self, inner: Runner, half: HalfType) -> None:
        super().__init__(inner)
        self._half = half

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return replace(self._inner.info, runtime=f"{self._half.word} rounded in ort-cpu", precision=self._half.name)


class _Typed(_Wrapped):
    """Takes float32 inputs for a graph whose own are half."""

    def __init__(self, inner: Runner, model: onnx.ModelProto) -> None:
        super().__init__(inner)
        half = onnx.TensorProto.FLOAT16
        self._half = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == half}

    def prepare(self, inputs: Arrays) -> None:
        """Take ``inputs``, rounded where the graph wants it."""
        self._inner.prepare({n: a.astype(np.float16) if n in self._half else a for n, a in inputs.items()})
