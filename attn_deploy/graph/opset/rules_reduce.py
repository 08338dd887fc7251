"""Reductions: the axes became an input at opset 18; booleans came at opset 20."""

from __future__ import annotations

import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, input_at, known_ints, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down, up

# ReduceSum took its axes as an input from opset 13 on.
_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
# What is left of a reduction over no axes at all.
_OVER_NOTHING = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log"}


def _axes_to_attribute(node: ir.Node, op: Builder) -> Replacement:
    data, vector = required(node, 0), input_at(node, 1)
    axes = [] if vector is None else known_ints(vector)
    if axes is None:
        raise NoFormError("its axes are computed while the model runs, and are an attribute there")
    if axes:
        return op.same(inputs=[data], drop=("noop_with_empty_axes",), axes=axes)
    if not attribute(node, "noop_with_empty_axes", 0):
        return op.same(inputs=[data], drop=("noop_with_empty_axes",))
    if node.op_type == "ReduceSumSquare":
        return op("Mul", data, data)
    return op(_OVER_NOTHING.get(node.op_type, "Identity"), data)


def _axes_to_input(node: ir.Node, op: Builder) -> Replacement:
    axes = attribute(node, "axes", [])
    return op.same(inputs=[required(node, 0), op.ints(axes)], drop=("axes",)) if axes else None


def _boolean_as_integer(node: ir.Node, op: Builder) -> Replacement:
    data = required(node, 0)
    if data.dtype != ir.DataType.BOOL:
        return None
    numbers = op("Cast", data, to=int(ir.DataType.INT32))
    reduced = op.same(inputs=[numbers, *node.inputs[1:]])[0]
    return op("Cast", reduced, to=int(ir.DataType.BOOL))


RULES = (
    *down(_REDUCTIONS, 18, "axes from input to attribute", _axes_to_attribute),
    *up(_REDUCTIONS, 18, "axes from attribute to input", _axes_to_input),
    *down(("ReduceMax", "ReduceMin"), 20, "booleans as int32", _boolean_as_integer),
)
