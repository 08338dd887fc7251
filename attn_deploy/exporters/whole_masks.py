"""Masks that mask nothing: computed from the sizes alone, true at every place, and added to every attention as zeros.

transformers makes such a mask for encoders where torch.export asks for it, and none in a TorchScript trace: the sums over
all pairs of positions took a fifteenth of DepthAnything's time in ONNX Runtime at 518x518. A sum with zeros and a choice by
a condition that is the same everywhere are dropped, where the shapes say that the result has the shape of what is kept.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx

from attn_deploy.graph.operators import all_nodes
from attn_deploy.graph.placed import array_of, hollow
from attn_deploy.graph.shape_inference import infer_shapes
from attn_deploy.graph.unread import remove_unread_

_Number = float | bool
_MOVES = frozenset(
    {"Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Tile", "Slice", "Identity", "Flatten", "CastLike"}
)
_ARITHMETIC: Mapping[str, Callable[[_Number, _Number], _Number]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}
_FROM_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL})
_DEEPEST = 64  # nodes between a constant and where it is used


def drop_whole_masks_(model: onnx.ModelProto, parameters: Collection[str] = ()) -> int:
    """Drop, in place, sums with zeros and choices that always fall one way; how many there were.

    Args:
        model: with the shapes of its tensors, as an exporter writes them.
        parameters: names of constants that training moves: zeros at the start, they are no mask.
    """
    graph = model.graph
    uniform = _Uniform(graph, parameters)
    outputs = {o.name for o in graph.output}
    candidates = {n.output[0]: k for n in graph.node if (k := _kept(n, uniform)) and n.output[0] not in outputs}
    shapes = _shapes(infer_shapes(hollow(model), data_prop=True).graph) if candidates else {}
    renamed: dict[str, str] = {}
    for name, kept in candidates.items():
        if kept in shapes and shapes[kept] == shapes.get(name):
            renamed[name] = renamed.get(kept, kept)
    if not renamed:
        return 0
    for node in all_nodes(graph):
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    remove_unread_(graph)
    return len(renamed)


def _kept(node: onnx.NodeProto, uniform: _Uniform) -> str:
    """The input that a node gives on, in its own shape or in another; empty where it computes."""
    if node.op_type == "Add":
        zeros = next((k for k in (0, 1) if uniform.is_computed(node.input[k]) and uniform(node.input[k]) == 0), None)
        return "" if zeros is None else str(node.input[1 - zeros])
    if node.op_type == "Where" and uniform.is_computed(node.input[0]):
        condition = uniform(node.input[0])
        return "" if condition is None else str(node.input[1 if condition else 2])
    return ""


class _Uniform:
    """The number that all elements of a tensor are, where constants alone decide it; None where that is not known."""

    def __init__(self, graph: onnx.GraphProto, parameters: Collection[str]) -> None:
        self._makers = {o: n for n in graph.node for o in n.output}
        self._constants = {i.name: i for i in graph.initializer}
        self._known: dict[str, _Number | None] = dict.fromkeys(parameters)

    def is_computed(self, name: str) -> bool:
        """Whether a tensor is the result of a node and not a constant."""
        return name in self._makers and self._makers[name].op_type != "Constant"

    def __call__(self, name: str, depth: int = 0) -> _Number | None:
        if name not in self._known:
            self._known[name] = self._number(name, depth) if depth < _DEEPEST else None
        return self._known[name]

    def _number(self, name: str, depth: int) -> _Number | None:
        if name in self._constants:
            return _number_of(self._constants[name])
        node = self._makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            return next((_number_of(a.t) for a in node.attribute if a.name == "value"), None)
        if node.op_type == "ConstantOfShape":
            return next((_number_of(a.t) for a in node.attribute), 0.0)
        if node.op_type in _MOVES:
            return self(node.input[0], depth + 1)
        if node.op_type == "Cast":
            kept = any(a.name == "to" and a.i in _FROM_FLOATS for a in node.attribute)
            return self(node.input[0], depth + 1) if kept else None
        if node.op_type == "Not":
            inner = self(node.input[0], depth + 1)
            return None if inner is None else not inner
        if node.op_type == "Where":
            condition = self(node.input[0], depth + 1)
            return None if condition is None else self(node.input[1 if condition else 2], depth + 1)
        combine = _ARITHMETIC.get(node.op_type)
        if combine is None:
            return None
        first = self(node.input[0], depth + 1)
        second = None if first is None else self(node.input[1], depth + 1)
        if first is None or second is None:
            return None
        result = combine(first, second)
        return result if np.isfinite(result) else None


def _number_of(tensor: onnx.TensorProto) -> _Number | None:
    """What all elements are; None of a table of floats, which may be a parameter that starts at zero."""
    table = tensor.data_type != onnx.TensorProto.BOOL and math.prod(tensor.dims) != 1
    if tensor.data_type not in _FROM_FLOATS or table:
        return None
    array = array_of(tensor)
    if not array.size or not (array == array.flat[0]).all():
        return None
    number = array.flat[0].item()
    return number if isinstance(number, (bool, float)) and np.isfinite(number) else None


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | str]]:
    """The shapes of tensors of which every extent is a number or has a name."""
    shapes: dict[str, list[int | str]] = {i.name: list(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "") for d in tensor.shape.dim]
        if tensor.HasField("shape") and all(d != "" for d in dims):
            shapes[value.name] = dims
    return shapes
