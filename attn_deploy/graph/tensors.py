"""Shape and element type of every tensor of a graph, at given input sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_deploy.errors import GraphError
from attn_deploy.graph.macs import Shape
from attn_deploy.graph.shape_inference import infer_shapes

_SIZES = 1024  # elements of a constant that may be sizes, axes, scales or a table, and no layer's weights
_LARGEST = 1 << 20  # elements of a tensor that is computed here: sizes, masks and tables, not features


@dataclass(frozen=True, slots=True)
class GraphTensors:
    """Shapes and types by inference.

    Attributes:
        shapes: by tensor name; a tensor whose shape is unknown is missing.
        types: ONNX element types by tensor name.
    """

    shapes: Mapping[str, Shape]
    types: Mapping[str, int]


def infer_tensors(model: onnx.ModelProto, sizes: Mapping[str, Shape]) -> GraphTensors:
    """Infer the tensors of a graph at these input shapes; the model is left alone.

    Raises:
        GraphError: if the graph does not take inputs of these shapes.
    """
    fixed = _skeleton(model)
    for value in fixed.graph.input:
        _set_shape(value, sizes)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    names = [o for n in model.graph.node for o in n.output if o]
    tensors = _inferred(fixed, model, sizes)
    while any(o not in tensors.shapes for o in names):
        # The library follows sums and products of sizes, and stops at comparisons, masks and casts of them.
        if not _fold(fixed, tensors.shapes):
            break
        tensors = _inferred(fixed, model, sizes)
    return tensors


def _set_shape(value: onnx.ValueInfoProto, sizes: Mapping[str, Shape]) -> None:
    wanted, dims = sizes.get(value.name), value.type.tensor_type.shape.dim
    if wanted is None:
        return
    fixed = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    if len(wanted) != len(fixed) or any(d not in (None, n) for d, n in zip(fixed, wanted, strict=True)):
        shape = ", ".join(d.dim_param or "?" if n is None else str(n) for d, n in zip(dims, fixed, strict=True))
        raise GraphError(f"the graph does not take {value.name} {'x'.join(map(str, wanted))}: it takes ({shape}).")
    for dim, extent in zip(dims, wanted, strict=True):
        dim.dim_value = extent


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large weights as inputs: inference reads their shapes, and would copy their megabytes."""
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    constants = {i.name for i in model.graph.initializer}
    graph.input.extend(v for v in model.graph.input if v.name not in constants)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _SIZES:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    skeleton = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    skeleton.functions.extend(model.functions)
    return skeleton


def _inferred(fixed: onnx.ModelProto, model: onnx.ModelProto, sizes: Mapping[str, Shape]) -> GraphTensors:
    try:
        inferred = infer_shapes(fixed, data_prop=True, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        shown = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in sizes.items())
        raise GraphError(
            f"the graph does not take {shown}: {str(error).splitlines()[0]} Give other sizes with --input."
        ) from error
    shapes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    types = {i.name: i.data_type for i in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(int(d.dim_value) for d in tensor.shape.dim)
    return GraphTensors(shapes, types)


def _fold(fixed: onnx.ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Compute what depends on sizes alone, in place; whether anything was."""
    initializers = {i.name: i for i in fixed.graph.initializer}
    values: dict[str, NDArray[np.generic]] = {}

    def value(name: str) -> NDArray[np.generic] | None:
        if name not in values and name in initializers and math.prod(initializers[name].dims) <= _LARGEST:
            values[name] = numpy_helper.to_array(initializers[name])
        return values.get(name)

    folded = False
    for node in fixed.graph.node:
        if node.op_type == "Constant":
            values.update(_computed(fixed, node, {}))
            continue
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            continue
        if node.op_type == "Shape":
            if node.input[0] not in shapes:
                continue
            # Only the extents are read: a stand-in without memory serves for the tensor.
            stand_in: NDArray[np.generic] = np.broadcast_to(np.zeros((), np.float32), shapes[node.input[0]])
            inputs = {node.input[0]: stand_in}
        else:
            operands = {n: value(n) for n in node.input if n}
            if not operands or any(v is None for v in operands.values()):
                continue
            if any(math.prod(shapes.get(o, ())) > _LARGEST for o in node.output):
                continue
            inputs = {n: v for n, v in operands.items() if v is not None}
        outputs = _computed(fixed, node, inputs)
        if not outputs:
            continue
        values.update(outputs)
        first = numpy_helper.from_array(np.asarray(outputs[node.output[0]]))
        if len(node.output) == 1:
            constant = helper.make_node("Constant", [], list(node.output), name=node.name, value=first)
            node.CopyFrom(constant)
            folded = True
    return folded


def _computed(
    model: onnx.ModelProto, node: onnx.NodeProto, inputs: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """The outputs of one node on these inputs; nothing where the reference implementation cannot say."""
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(o) for o in node.output],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        results = ReferenceEvaluator(single).run(None, dict(inputs))
    except Exception:  # its operators raise whatever numpy raises; the shape then stays unknown, which the caller sees
        return {}
    return {n: np.asarray(v) for n, v in zip(node.output, results, strict=True)}
