"""Which values the tensors of a graph take on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx
import onnx_ir as ir

from attn_deploy.graph.quantize.histogram import Histogram
from attn_deploy.graph.quantize.layers import Layer

# Tensors that are outputs at the same time: eight images of 64 x 112 x 112 are 26 MB each.
AT_ONCE = 16


def observed_tensors(model: ir.Model, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The names of the tensors that need a range, each once, in order of computation."""
    nodes = {n.name: n for n in model.graph}
    names: dict[str, None] = {}
    for layer in layers:
        value = nodes[layer.node].inputs[0]
        if value is not None and value.name:
            names[value.name] = None
    return tuple(names)


def probes(
    model: onnx.ModelProto, names: Sequence[str], at_once: int | Callable[[], int] = AT_ONCE
) -> Iterator[tuple[onnx.ModelProto, tuple[str, ...]]]:
    """Copies of a graph, each giving a group of tensors under names of its own.

    Args:
        model: the graph.
        names: of the tensors.
        at_once: how many tensors are outputs at the same time; as a function, it is asked before each graph.

    Yields:
        The graph, and the tensors in the order of its outputs.
    """
    start = 0
    while start < len(names):
        group = tuple(names[start : start + (at_once if isinstance(at_once, int) else at_once())])
        start += len(group)
        working = ir.from_proto(model)
        values = {str(v.name): v for v in working.graph.inputs}
        values |= {str(v.name): v for n in working.graph for v in n.outputs if v.name}
        working.graph.outputs.clear()
        for index, name in enumerate(group):
            value = values[name]
            output = ir.Value(name=f"attn_deploy_probe_{index}", type=ir.TensorType(_known(value)), shape=value.shape)
            working.graph.append(ir.Node("", "Identity", [value], outputs=[output]))
            working.graph.outputs.append(output)
        yield ir.to_proto(working), group


def _known(value: ir.Value) -> ir.DataType:
    return ir.DataType.FLOAT if value.dtype is None else value.dtype


def empty_histograms(names: Sequence[str]) -> dict[str, Histogram]:
    """A histogram for each tensor."""
    return {name: Histogram() for name in names}
