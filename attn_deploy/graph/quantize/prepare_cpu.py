"""The same graph in operators that ONNX Runtime's CPU provider has in 8 bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.quantize.layers import is_constant, quantizable_graph


def prepared_for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """As `quantizable_graph`, with means over whole maps as GlobalAveragePool, and sums behind products as biases.

    Both are exact; the mean has a kernel in 8 bits only under that name, and a bias inside the product costs nothing.

    Raises:
        PrecisionError: if the graph is quantized already.
    """
    working = ir.from_proto(quantizable_graph(model))
    workspace = Workspace(working)
    for node in list(working.graph):
        if node.op_type == "ReduceMean" and node.domain in ("", "ai.onnx"):
            _pool(working.graph, node, workspace)
        elif node.op_type == "MatMul" and node.domain in ("", "ai.onnx"):
            _gemm(working.graph, node, workspace)
    return ir.to_proto(working)


def _pool(graph: ir.Graph, node: ir.Node, workspace: Workspace) -> None:
    """A mean over all spatial axes becomes a GlobalAveragePool, and a Flatten behind it where it keeps no axes."""
    value = node.inputs[0]
    if value is None or value.dtype != ir.DataType.FLOAT or value.shape is None or is_constant(value):
        return
    rank = len(value.shape)
    axes = _axes(node)
    if rank < 3 or axes is None or sorted(a % rank for a in axes) != list(range(2, rank)):
        return
    keeps = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() != 0
    output = node.outputs[0]
    pooled = ir.Value(
        name=workspace.unique(f"{output.name}_pooled"),
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([*value.shape[:2], *[1] * (rank - 2)]),
    )
    name, metadata = str(node.name), dict(node.metadata_props)
    pool = ir.Node("", "GlobalAveragePool", [value], outputs=[pooled], name=name, metadata_props=metadata)
    nodes, result = [pool], pooled
    if not keeps:
        result = ir.Value(name=workspace.unique(f"{output.name}_flat"), type=output.type, shape=output.shape)
        nodes.append(ir.Node("", "Flatten", [pooled], outputs=[result], name=workspace.unique(f"{name}_flat")))
    _replace(graph, node, nodes, output, result)


def _axes(node: ir.Node) -> list[int] | None:
    if "axes" in node.attributes:
        return [int(a) for a in node.attributes["axes"].as_ints()]
    second = node.inputs[1] if len(node.inputs) > 1 else None
    if second is None or second.const_value is None:
        return None
    return [int(a) for a in second.const_value.numpy().reshape(-1)]


def _gemm(graph: ir.Graph, node: ir.Node, workspace: Workspace) -> None:
    """A product with a matrix and the bias behind it become a Gemm between two Reshapes.

    Only where all axes but the first are known, so that the Reshapes need no arithmetic.
    """
    value, weights = node.inputs[0], node.inputs[1]
    if value is None or weights is None or not is_constant(weights) or is_constant(value):
        return
    if value.dtype != ir.DataType.FLOAT or weights.shape is None or len(weights.shape) != 2 or value.shape is None:
        return
    rank, product = len(value.shape), node.outputs[0]
    inner = [d for d in value.shape[1:] if isinstance(d, int)]
    uses = list(product.uses())
    if rank < 2 or len(inner) != rank - 1 or len(uses) != 1 or product.is_graph_output():
        return
    add = uses[0].node
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx"):
        return
    bias = next((v for v in add.inputs if v is not None and v is not product), None)
    width = weights.shape[1]
    if (
        not isinstance(width, int)
        or bias is None
        or not is_constant(bias)
        or bias.const_value is None
        or bias.const_value.size != width
    ):
        return
    if bias.shape is None or not bias.shape or bias.shape[-1] != width:
        return
    output = add.outputs[0]
    flat_bias = workspace.constant(bias.const_value.numpy().reshape(-1), ir.DataType.FLOAT)
    rows = [-1, inner[-1]]
    dtype = ir.TensorType(ir.DataType.FLOAT)
    nodes: list[ir.Node] = []
    name, metadata = str(node.name), dict(node.metadata_props)

    def made(op_type: str, inputs: list[ir.Value], shape: ir.Shape | None, suffix: str) -> ir.Value:
        result = ir.Value(name=workspace.unique(f"{output.name}_{suffix}"), type=dtype, shape=shape)
        own = name if op_type == "Gemm" else workspace.unique(f"{name}_{suffix}")
        nodes.append(ir.Node("", op_type, inputs, outputs=[result], name=own, metadata_props=dict(metadata)))
        return result

    if rank == 2:
        result = made("Gemm", [value, weights, flat_bias], output.shape, "product")
    else:
        rows_shape = workspace.constant(np.array(rows, np.int64), ir.DataType.INT64)
        back = workspace.constant(np.array([-1, *inner[:-1], width], np.int64), ir.DataType.INT64)
        flat = made("Reshape", [value, rows_shape], ir.Shape([None, rows[1]]), "rows")
        wide = made("Gemm", [flat, weights, flat_bias], ir.Shape([None, width]), "product")
        result = made("Reshape", [wide, back], output.shape, "unflattened")
    _replace(graph, add, nodes, output, result)
    graph.remove(node, safe=True)


def _replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node], output: ir.Value, result: ir.Value) -> None:
    """Put nodes in the place of one, whose output keeps its name."""
    graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    name = output.name
    output.name = f"{name}_replaced"
    graph.remove(node, safe=True)
    result.name = name
