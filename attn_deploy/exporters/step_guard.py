"""Sizes that a file does not hold for make it fail, where the model itself would run at them.

A network that decides on its size decides otherwise between the multiples that a file is for, and the file would give wrong
numbers there in silence. One value is reshaped to as many as the sizes are off, which fails for any but none, and the input is
multiplied by it, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_attribute, make_node, tensor_dtype_to_np_dtype

from attn_deploy.inputs.tensors import TensorInput, bounds

_PREFIX = "sizes"


def refuse_other_sizes_(model: onnx.ModelProto, inputs: Sequence[TensorInput], dynamic: Sequence[str]) -> None:
    """Let the graph fail at sizes that are no multiples, or below the least, in place; one that does is left alone.

    Args:
        model: the graph.
        inputs: with what their symbols must be multiples of, and the least extents.
        dynamic: the symbols that move.
    """
    if any(t.name == f"{_PREFIX}_steps" for t in model.graph.initializer):
        return
    values = {v.name: v for v in model.graph.input}
    for tensor in inputs:
        axes = {a: d for a, d in enumerate(tensor.dims) if isinstance(d, str) and d in dynamic and d[0] != "N"}
        steps = {a: tensor.multiple.get(d, 1) for a, d in axes.items()}
        least = {a: bounds(d, tensor)[0] for a, d in axes.items()}
        kind = values[tensor.name].type.tensor_type.elem_type
        if max(steps.values(), default=1) > 1 and kind not in (onnx.TensorProto.BOOL, onnx.TensorProto.UINT8):
            _guard_(model.graph, tensor.name, kind, axes, steps, least)
            return  # the extents of a symbol are the same in every input


def _guard_(
    graph: onnx.GraphProto,
    name: str,
    kind: int,
    axes: Mapping[int, str],
    steps: Mapping[int, int],
    least: Mapping[int, int],
) -> None:
    numbers = {
        "axes": np.array(list(axes), np.int64),
        "steps": np.array([steps[a] for a in axes], np.int64),
        "least": np.array([least[a] for a in axes], np.int64),
        "all": np.zeros(1, np.int64),
        "more": np.ones(1, np.int64),
        "one": np.ones(1, tensor_dtype_to_np_dtype(kind)),
    }
    rules = "_".join(f"{d}_in_steps_of_{steps[a]}_from_{least[a]}" for a, d in axes.items())
    table = [
        ("Shape", [name], "shape"),
        ("Gather", ["shape", "axes"], "extents"),
        ("Mod", ["extents", "steps"], "rest"),
        ("Less", ["extents", "least"], "small"),
        ("Cast", ["small"], "below"),
        ("Add", ["rest", "below"], "off"),
        ("ReduceSum", ["off", "all"], "sum"),
        ("Add", ["sum", "more"], "count"),
        ("Reshape", ["one", "count"], "unchanged"),
        ("Mul", [name, "unchanged"], "input"),
    ]
    nodes = []
    for operator, sources, output in table:
        inner = [s if s == name else f"{_PREFIX}_{s}" for s in sources]
        label = rules if operator == "Reshape" else f"{_PREFIX}_{output}_of_{name}"
        node = make_node(operator, inner, [f"{_PREFIX}_{output}"], name=label)
        if operator == "Cast":
            node.attribute.append(make_attribute("to", onnx.TensorProto.INT64))
        nodes.append(node)
    for node in graph.node:
        for index, source in enumerate(node.input):
            if source == name:
                node.input[index] = f"{_PREFIX}_input"
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    graph.initializer.extend(numpy_helper.from_array(v, f"{_PREFIX}_{k}") for k, v in numbers.items())
