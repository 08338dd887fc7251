"""The graph that is examined: as a file holds it, or typed here, and the form of it that can be run and looked into."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.opset import convert_opset, standard_opset
from attn_deploy.graph.parts import Parts
from attn_deploy.graph.precision import apply_plan, half_type, make_plan, prepared_graph, rounded
from attn_deploy.inputs import Arrays
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.precision import measure

_HALVES: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})
# int8: 256 steps over the range of a tensor, a rounding of half a step at each of some twenty tensors on the way.
_INT8 = Tolerance(1e-1, 1e-1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph under examination.

    Attributes:
        model: the graph as a runtime or a builder gets it.
        running: what is run in ONNX Runtime: the graph itself, or for half types its float32 form that rounds after
            every operator, since ONNX Runtime hides overflows and lacks kernels.
        precision: fp32, fp16, bf16 or int8, as found in the graph.
        tolerance: how far its numbers may be from what is right.
        logical: the graph whose modules and tensor names stand for it: the one it was typed from, or itself.
        shown: for a tensor of the graph the one of ``running`` that holds its value, where it has another name.
        overflow: the first value beyond the half type's range and how it was met; empty if there is none.
        converted: whether it was typed here, so that ``logical`` is right, tensor by tensor.
    """

    model: onnx.ModelProto
    running: Parts
    logical: Parts
    precision: str
    tolerance: Tolerance
    shown: Mapping[str, str]
    overflow: str = ""
    converted: bool = False


def as_it_is(model: onnx.ModelProto, logical: Parts | None = None, overflow: str = "") -> Candidate:
    """The candidate that a graph is; ``logical`` is what it was typed from."""
    precision = precision_of(model)
    if precision in ("fp16", "bf16"):
        running = Parts(rounded(model))
        shown = _rounded_names(running)
        tolerance = TOLERANCES[half_type(precision).name]
        typed_here = logical is not None
        return Candidate(model, running, logical or Parts(model), precision, tolerance, shown, overflow, typed_here)
    tolerance = TOLERANCES.get("int8", _INT8) if precision == "int8" else TOLERANCES["float32"]
    parts = Parts(model)
    return Candidate(model, parts, logical or parts, precision, tolerance, {}, overflow)


def typed(
    model: onnx.ModelProto, precision: str, batches: Sequence[Arrays], *, by_range: bool, careful: bool, owner: str
) -> Candidate:
    """A graph in half precision as an export would write it, whether or not its numbers are right.

    Raises:
        PrecisionError: if the precision is unknown, or the fp32 graph gives NaN.
    """
    half = half_type(precision)
    prepared = prepared_graph(model)
    ranges = measure(prepared, batches, owner)
    working = ir.from_proto(prepared)
    plan = make_plan(working, half, ranges, careful=careful)
    kept = plan.overflow is not None
    if not by_range:
        working = ir.from_proto(prepared)
        seen, plan = plan.overflow, make_plan(working, half, None, careful=careful)
        plan.overflow, kept = seen, False
    made = apply_plan(working, plan, same_io=False)
    overflow = f"{plan.overflow}; {'kept in fp32' if kept else 'not kept in fp32'}" if plan.overflow else ""
    return as_it_is(made.model, Parts(prepared), overflow)


def at_opset_of(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph at an opset that has the precision.

    Raises:
        OpsetError: if it cannot be converted.
    """
    first = half_type(precision).first_opset
    return model if standard_opset(model) >= first else convert_opset(model, first).model


def precision_of(model: onnx.ModelProto) -> str:
    """fp32, fp16, bf16 or int8: what the graph holds, the narrowest first."""
    if any(n.op_type in _QUANTIZED for n in model.graph.node):
        return "int8"
    kinds = {i.data_type for i in model.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    kinds |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return next((word for kind, word in _HALVES.items() if kind in kinds), "fp32")


def refuse_precision(asked: str | None, found: str) -> None:
    """Refuse to convert what is converted already, and what is not converted here.

    Raises:
        InvalidRequestError: saying what to pass.
    """
    if asked == "int8" and found != "int8":
        raise InvalidRequestError(
            "int8 needs calibration data and is not made here: quantize the file first, then "
            "attn-deploy diagnose MODEL-int8.onnx --against MODEL.onnx."
        )
    if asked in ("fp16", "bf16") and found not in ("fp32", asked):
        raise InvalidRequestError(
            f"the file is {found} already, and {asked} is made from fp32: pass the fp32 file, or leave out --precision."
        )
    if asked == "fp32" and found != "fp32":
        raise InvalidRequestError(
            f"the file is {found}, not fp32: leave out --precision to examine it as it is, and name its fp32 source "
            "with --against."
        )


def _rounded_names(running: Parts) -> dict[str, str]:
    """For each tensor that is rounded right behind the node that makes it, the rounded one."""
    found = {}
    for name in running.maker:
        readers = running.readers.get(name, [])
        narrow = running.nodes[readers[0]] if len(readers) == 1 else None
        if narrow is None or narrow.op_type != "Cast" or name in running.outputs or not _casts_to(narrow, _HALVES):
            continue
        behind = running.readers.get(narrow.output[0], [])
        wide = running.nodes[behind[0]] if len(behind) == 1 else None
        if wide is not None and wide.op_type == "Cast" and _casts_to(wide, (onnx.TensorProto.FLOAT,)):
            found[name] = wide.output[0]
    return found


def _casts_to(node: onnx.NodeProto, kinds: Collection[int]) -> bool:
    return any(a.name == "to" and a.i in kinds for a in node.attribute)
