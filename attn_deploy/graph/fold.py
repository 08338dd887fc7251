"""Weights that a file keeps behind a Cast or a Transpose, as weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


def fold_weights(model: ir.Model) -> int:
    """Compute what only rearranges or retypes initializers of the main graph; how many nodes went. In place.

    Casts, transpositions, reshapes and the like: what exporters put between a weight and the product that reads it.
    Constants must be initializers already.
    """
    graph = model.graph
    folded = 0
    for node in list(graph):
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None or len(node.outputs) != 1 or not node.inputs:
            continue
        arrays = [None if v is None else _array(v) for v in node.inputs]
        if any(a is None and v is not None for a, v in zip(arrays, node.inputs, strict=True)):
            continue
        result = rule([a for a in arrays if a is not None], node.attributes)
        if result is None:
            continue
        output = node.outputs[0]
        if output.is_graph_output() or output.name is None:
            continue
        name = f"{output.name}_folded"
        while name in graph.initializers:
            name += "_"
        tensor = ir.Tensor(np.asarray(result, order="C"), name=name, dtype=_type(node, arrays[0]))
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(result.shape), const_value=tensor)
        graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(output, value)
        sources = [v for v in node.inputs if v is not None]
        graph.remove(node, safe=True)
        for source in sources:
            unread = not source.uses() and not source.is_graph_output()
            if unread and source.name is not None and source.name in graph.initializers:
                graph.initializers.pop(source.name)
        folded += 1
    return folded


def _array(value: ir.Value) -> Array | None:
    if not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def _type(node: ir.Node, first: Array | None) -> ir.DataType | None:
    return ir.DataType(node.attributes["to"].as_int()) if node.op_type == "Cast" else None


def _transpose(arrays: list[Array], attributes: Mapping[str, ir.Attr]) -> Array:
    order = attributes["perm"].as_ints() if "perm" in attributes else None
    return np.transpose(arrays[0], order)


def _cast(arrays: list[Array], attributes: Mapping[str, ir.Attr]) -> Array | None:
    kind = ir.DataType(attributes["to"].as_int())
    if kind not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
        return None
    if arrays[0].dtype.kind not in "fiub" and arrays[0].dtype.name != "bfloat16":
        return None
    with np.errstate(over="ignore"):
        return arrays[0].astype(kind.numpy())


def _reshape(arrays: list[Array], attributes: Mapping[str, ir.Attr]) -> Array | None:
    if len(arrays) != 2 or ("allowzero" in attributes and attributes["allowzero"].as_int()):
        return None
    target = [int(arrays[0].shape[k]) if n == 0 else int(n) for k, n in enumerate(arrays[1].tolist())]
    return arrays[0].reshape(target)


def _unsqueeze(arrays: list[Array], attributes: Mapping[str, ir.Attr]) -> Array | None:
    return np.expand_dims(arrays[0], tuple(arrays[1].tolist())) if len(arrays) == 2 else None


def _squeeze(arrays: list[Array], attributes: Mapping[str, ir.Attr]) -> Array | None:
    return np.squeeze(arrays[0], tuple(arrays[1].tolist())) if len(arrays) == 2 else None


def _identity(arrays: list[Array], attributes: Mapping[str, ir.Attr]) -> Array:
    return arrays[0]


_RULES: dict[str, Callable[[list[Array], Mapping[str, ir.Attr]], Array | None]] = {
    "Transpose": _transpose,
    "Cast": _cast,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Identity": _identity,
}
