"""What rules ask about a node before they rewrite it."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from attn_deploy.errors import GraphError
from attn_deploy.graph.opset.constants import constant_array
from attn_deploy.graph.opset.rule import NoFormError


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def required(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot do without.

    Raises:
        GraphError: if it is left out all the same.
    """
    value = input_at(node, index)
    if value is None:
        raise GraphError(f"the node {node.name!r} ({node.op_type}) lacks its input {index}; export the model again.")
    return value


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or its default."""
    entry = node.attributes.get(name)
    if entry is None:
        return default
    return list(entry.value) if isinstance(entry.value, tuple) else entry.value


def known_ints(value: ir.Value | None) -> list[int] | None:
    """The elements of a tensor that is known before the model runs, or None."""
    if value is None:
        return None
    array = constant_array(value)
    return None if array is None else [int(v) for v in array.reshape(-1)]


def known_floats(value: ir.Value | None) -> list[float] | None:
    """The elements of a tensor of numbers that is known before the model runs, or None."""
    array = None if value is None else constant_array(value)
    return None if array is None else [float(v) for v in array.reshape(-1)]


def rank_of(value: ir.Value) -> int | None:
    """Number of axes, or None where it is unknown."""
    return None if value.shape is None else len(value.shape)


def data_of(node: ir.Node) -> tuple[ir.Value, ir.DataType]:
    """First input and its element type, which constants beside it must have.

    Raises:
        NoFormError: if the element type is unknown.
    """
    data = required(node, 0)
    if data.dtype is None:
        raise NoFormError("its element type cannot be inferred")
    return data, data.dtype
