"""A typed graph in float32 arithmetic with a rounding to the half type after every operator.

That is what hardware does that accumulates in float32, and it needs no half kernel. ONNX Runtime on the CPU has none for
bfloat16 convolutions, and runs many fp16 operators in float32 without the rounding in between, so an overflow is not seen.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.shape_inference import infer_shapes

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph with the numbers of a typed one; half inputs and outputs are float32 too."""
    working = ir.from_proto(model)
    graph = working.graph
    halves: list[tuple[ir.Value, ir.DataType]] = []
    inferred = ir.from_proto(infer_shapes(model, data_prop=True))
    types = {v.name: v.dtype for n in inferred.graph for v in n.outputs} | {
        v.name: v.dtype for v in inferred.graph.inputs
    }
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype in _HALVES:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.Tensor(array, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for value in [*graph.inputs, *(v for n in graph for v in n.outputs)]:
        dtype = types.get(value.name)
        if dtype in _HALVES:
            halves.append((value, dtype))
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in graph:
        for name in ("to", "dtype"):
            if name in node.attributes and ir.DataType(node.attributes[name].as_int()) in _HALVES:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
        if node.op_type == "ConstantOfShape" and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            if tensor.dtype in _HALVES:
                node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(tensor.numpy().astype(np.float32)))
    workspace = Workspace(working)
    for value, half in halves:
        _round(working, workspace, value, half)
    simulation = ir.to_proto(working)
    del simulation.graph.value_info[:]
    return simulation


def _round(model: ir.Model, workspace: Workspace, value: ir.Value, half: ir.DataType) -> None:
    """Put a pair of casts behind a value; whoever read the value reads the rounded one."""
    uses = list(value.uses())
    name, is_output = str(value.name), value.is_graph_output()
    narrow = ir.Value(name=workspace.unique(f"{name}_narrow"), type=ir.TensorType(half))
    wide = ir.Value(name=workspace.unique(f"{name}_rounded"), type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
    casts = [
        ir.Node("", "Cast", [value], ir.convenience.convert_attributes({"to": int(half)}), outputs=[narrow]),
        ir.Node(
            "", "Cast", [narrow], ir.convenience.convert_attributes({"to": int(ir.DataType.FLOAT)}), outputs=[wide]
        ),
    ]
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, casts)
    else:
        model.graph.insert_before(model.graph[0], casts)
    for use in uses:
        use.node.replace_input_with(use.idx, wide)
    if is_output:
        value.name, wide.name = wide.name, name
        for index, output in enumerate(model.graph.outputs):
            if output is value:
                model.graph.outputs[index] = wide
