"""Values that are known before a model runs, though the graph computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

# What exporters leave between a constant and its use: shape arithmetic. Anything else is not worth evaluating here.
_FOLDABLE = frozenset(
    """Add Cast Concat ConstantOfShape Div Equal Expand Gather Identity Mul Neg Range Reshape Shape Size Slice Squeeze
    Sub Transpose Unsqueeze Where""".split()  # noqa: SIM905 - one name a line would hide what matters
)
_EVALUATION_OPSET = 25  # from 13 on, these operators only gained attributes and types
_MAX_ELEMENTS = 4096
_MAX_DEPTH = 24


def constant_array(value: ir.Value, depth: int = 0) -> NDArray[Any] | None:
    """The array of an initializer, of a Constant node, or of shape arithmetic on them; None if it is not known."""
    if value.is_initializer() and value.is_graph_input():
        return None  # a default that the caller may override
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return np.asarray(tensor.numpy())
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _FOLDABLE or depth > _MAX_DEPTH:
        return None
    if node.op_type == "Shape":
        return _static_shape(node)
    arrays: list[NDArray[Any] | None] = []
    for operand in node.inputs:
        array = None if operand is None else constant_array(operand, depth + 1)
        if operand is not None and (array is None or array.size > _MAX_ELEMENTS):
            return None
        arrays.append(array)
    return _evaluate(node, arrays, list(node.outputs).index(value))


def _static_shape(node: ir.Node) -> NDArray[np.int64] | None:
    data = node.inputs[0]
    if data is None or data.shape is None:
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(data.shape)
    dims = [data.shape[i] for i in range(len(data.shape))][start:end]
    return np.array(dims, np.int64) if all(isinstance(d, int) for d in dims) else None


def _evaluate(node: ir.Node, arrays: list[NDArray[Any] | None], index: int) -> NDArray[Any] | None:
    proto = ir.to_proto(node)
    feeds = {n: a for n, a in zip(proto.input, arrays, strict=True) if a is not None}
    inputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in feeds]
    outputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in proto.output]
    body = onnx.helper.make_graph([proto], "constant", inputs, outputs)
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", _EVALUATION_OPSET)])
    try:
        results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # an evaluator that cannot is no reason to fail: the value counts as unknown
        return None
    return np.asarray(list(results)[index])
