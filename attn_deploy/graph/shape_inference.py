"""Shape inference of onnx, and through the operators of which it infers nothing. It needs no onnx_ir: devices have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from attn_deploy.graph.operators import all_nodes

if TYPE_CHECKING:
    import onnx_ir as ir

# Of what onnx infers nothing, and what is inferred alike: it takes the same inputs and gives the first one's type and shape.
_INFERRED_AS = {"GroupNormalization": "InstanceNormalization"}


def infer_shapes(model: onnx.ModelProto, *, data_prop: bool = False, strict_mode: bool = False) -> onnx.ModelProto:
    """As `onnx.shape_inference.infer_shapes`, and through the operators that it stops at; the model is left alone.

    Raises:
        InferenceError: of onnx, in strict mode.
    """
    if not any(inferred_as(n) for n in all_nodes(model.graph)):
        return onnx.shape_inference.infer_shapes(model, data_prop=data_prop, strict_mode=strict_mode)
    working = onnx.ModelProto()
    working.CopyFrom(model)
    for node in all_nodes(working.graph):
        node.op_type = inferred_as(node) or node.op_type
    inferred = onnx.shape_inference.infer_shapes(working, data_prop=data_prop, strict_mode=strict_mode)
    for node, given in zip(all_nodes(inferred.graph), all_nodes(model.graph), strict=True):
        node.op_type = given.op_type
    return inferred


def inferred_as(node: onnx.NodeProto | ir.Node) -> str:
    """Another operator in whose place a node is inferred; empty where onnx knows it."""
    return _INFERRED_AS.get(node.op_type, "") if node.domain in ("", "ai.onnx") else ""
