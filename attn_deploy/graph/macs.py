"""Multiply-accumulates of a node, from the shapes of its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Multiply-accumulates of one node; 0 for operators that are no product, None where a shape is not known."""
    count = _COUNTERS.get(node.op_type)
    if count is None:
        return 0
    try:
        return count(node, shapes)
    except (KeyError, IndexError):
        return None


def _conv(weight: int) -> Callable[[onnx.NodeProto, Shapes], int]:
    def count(node: onnx.NodeProto, shapes: Shapes) -> int:
        # Each output element sums over its group's input channels and the window: the weight without its first axis.
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])

    return count


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "..." in equation or len(terms) > 2:
        return None
    if len(terms) < 2:
        return 0
    extents: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        for letter, extent in zip(term, shapes[name], strict=True):
            extents[letter] = max(extent, extents.get(letter, 1))
    return math.prod(extents.values())


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    query, key, value = (shapes[n] for n in node.input[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_COUNTERS: dict[str, Callable[[onnx.NodeProto, Shapes], int | None]] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Attention": _attention,
}
