"""Which integers a graph takes at its inputs: rows of a table, 0 and 1 of a mask, bytes of an image, a choice among a few."""

from __future__ import annotations

import collections

import onnx
import onnx.numpy_helper
from onnx import TensorProto

_INTEGERS = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32})
_INTEGERS |= {TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64}
_BYTES = 256
# These hand integers on as they are.
_PASSING = frozenset(
    {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Expand", "Flatten", "Slice", "Concat"}
)
_DEPTH = 8


def integer_bounds(model: onnx.ModelProto) -> dict[str, int]:
    """What the integers at each input must be below, where the graph says so.

    A table of rows that they index bounds them by its length; an input that a Where, a comparison or a subtraction from 1
    reads is a mask; bytes of more than two axes are an image.
    """
    readers = collections.defaultdict(list)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            readers[name].append((node, place))
    tables = {i.name: tuple(i.dims) for i in model.graph.initializer}
    bounds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if kind.elem_type not in _INTEGERS or value.name in tables:
            continue
        limits = _limits(value.name, readers, tables, _DEPTH)
        if limits:
            bounds[value.name] = min(limits)
        elif kind.elem_type == TensorProto.UINT8 and len(kind.shape.dim) > 2:
            bounds[value.name] = _BYTES
        elif "mask" in value.name.lower():
            bounds[value.name] = 2
    return bounds


def integer_choices(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The values that a graph asks for by name at inputs of a single integer: a rate, a mode.

    Only where it compares the input with constants for equality, as ``rate == 16000``: in the order of its nodes.
    """
    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    choices: dict[str, tuple[int, ...]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        single = kind.HasField("shape") and all(d.dim_value == 1 for d in kind.shape.dim)
        if kind.elem_type not in _INTEGERS or not single or value.name in constants:
            continue
        same = {value.name}
        named: dict[int, None] = {}
        for node in model.graph.node:
            if node.op_type in _PASSING and node.input and node.input[0] in same:
                same.update(node.output)
            if node.op_type != "Equal" or not same.intersection(node.input):
                continue
            for other in (constants[i] for i in node.input if i in constants):
                array = onnx.numpy_helper.to_array(other)
                if array.size == 1 and array.dtype.kind in "iu":
                    named[int(array.reshape(-1)[0])] = None
        if named:
            choices[value.name] = tuple(named)
    return choices


def _limits(
    name: str,
    readers: collections.defaultdict[str, list[tuple[onnx.NodeProto, int]]],
    tables: dict[str, tuple[int, ...]],
    depth: int,
) -> list[int]:
    limits: list[int] = []
    for node, place in readers[name]:
        if node.op_type in ("Gather", "GatherElements") and place == 1 and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            rows = tables[node.input[0]]
            if rows:
                limits.append(rows[axis])
        elif node.op_type == "Where" and place == 0:
            limits.append(2)
        elif node.op_type in _PASSING and place == 0 and depth:
            to_bool = any(a.name == "to" and a.i == TensorProto.BOOL for a in node.attribute)
            limits += [2] if to_bool else _limits(node.output[0], readers, tables, depth - 1)
    return limits
