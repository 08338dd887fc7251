"""How large the values of a graph are, measured inside the graph itself.

For each floating-point tensor two scalars become outputs, the largest magnitude and the sum of all elements times zero
(which is NaN if any element is NaN or infinite, and cannot overflow), so that one run gives all ranges and keeps no map in
memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from attn_deploy.errors import GraphError
from attn_deploy.graph.inference import is_tensor

_FLOAT = ir.DataType.FLOAT
_LARGEST, _TOTAL = "attn_deploy_range_largest_", "attn_deploy_range_total_"


@dataclass(frozen=True, slots=True)
class Range:
    """What one tensor held over all runs.

    Attributes:
        largest: the largest magnitude.
        finite: whether no element was NaN or infinite.
    """

    largest: float
    finite: bool

    def joined(self, other: Range) -> Range:
        """Both runs together."""
        return Range(max(self.largest, other.largest), self.finite and other.finite)


def instrumented(
    model: onnx.ModelProto, chosen: Collection[str] | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of a graph whose outputs are the magnitudes of its floating-point tensors.

    Args:
        model: typed throughout, as `attn_deploy.graph.precision.prepared_graph` gives it.
        chosen: names of the tensors; None for all.

    Returns:
        The graph, and the names of the tensors in order of computation.
    """
    working = ir.from_proto(model)
    graph = working.graph
    values = _floats(graph)
    graph.outputs.clear()
    scalar = ir.Tensor(np.zeros((), np.float32), name="attn_deploy_range_zero")
    zero = ir.Value(name=scalar.name, type=ir.TensorType(_FLOAT), shape=ir.Shape([]), const_value=scalar)
    graph.register_initializer(zero)
    names: list[str] = []
    for value in values:
        if chosen is None or str(value.name) in chosen:
            _measure(graph, value, zero, len(names))
            names.append(str(value.name))
    if not names:
        raise GraphError("the graph holds no float32 tensor, so there is nothing to convert.")
    return ir.to_proto(working), tuple(names)


def float_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the tensors that `instrumented` measures, in order of computation."""
    return tuple(str(v.name) for v in _floats(ir.from_proto(model).graph))


def _floats(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *(v for n in graph for v in n.outputs)]
    return [v for v in values if v.name and v.dtype == _FLOAT and is_tensor(v)]


def _measure(graph: ir.Graph, value: ir.Value, zero: ir.Value, index: int) -> None:
    """Right behind what makes the value, which is then free: a runtime that plans ahead takes quadratic time otherwise."""
    size = ir.Node("", "Abs", [value], outputs=[ir.Value(name=f"attn_deploy_range_abs_{index}")])
    nothing = ir.Node("", "Mul", [value, zero], outputs=[ir.Value(name=f"attn_deploy_range_zeros_{index}")])
    nodes = [size, nothing]
    for prefix, operator, source in ((_LARGEST, "ReduceMax", size), (_TOTAL, "ReduceSum", nothing)):
        output = ir.Value(name=f"{prefix}{index}", type=ir.TensorType(_FLOAT), shape=ir.Shape([]))
        keep = ir.convenience.convert_attributes({"keepdims": 0})
        nodes.append(ir.Node("", operator, [source.outputs[0]], keep, outputs=[output]))
        graph.outputs.append(output)
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    else:
        graph.insert_before(graph[0], nodes)


def read_ranges(names: tuple[str, ...], outputs: Mapping[str, NDArray[Any]]) -> dict[str, Range]:
    """What one run of an instrumented graph says."""
    ranges = {}
    for index, name in enumerate(names):
        largest, total = float(outputs[f"{_LARGEST}{index}"]), float(outputs[f"{_TOTAL}{index}"])
        if largest == -math.inf:  # no element at all
            largest = 0.0
        finite = math.isfinite(largest) and math.isfinite(total)
        ranges[name] = Range(largest if math.isfinite(largest) else math.inf, finite)
    return ranges
