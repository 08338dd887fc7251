"""The shapes that the tensors inside a graph take, for the profiles of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from attn_deploy.engine.profile import Profile, Shape, ShapeRange
from attn_deploy.errors import GraphError
from attn_deploy.graph.parts import Parts
from attn_deploy.graph.shape_inference import infer_shapes
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import fit_size
from attn_deploy.parity.graphs import runnable_inputs
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

_SMALL = {"N": (1, 2, 3)}


class ShapeBook:
    """Least, usual and largest shape of each tensor of a graph, as the ranges of its inputs imply them.

    Shape inference at the three corners tells most. Where it does not (sizes computed by a division, or by the values of
    a tensor), the graph is run, at smaller sizes, and those of all inputs of a part come from there.

    Args:
        parts: the graph.
        profile: the ranges of its dynamic inputs; None for a graph without any.
    """

    def __init__(self, parts: Parts, profile: Profile | None) -> None:
        self._parts = parts
        given = {r.name: r.shapes for r in profile.ranges} if profile is not None else {}
        self._corners = [_inferred_at(parts, {n: s[k] for n, s in given.items()}) for k in range(3 if given else 1)]
        self._runs: list[dict[str, Shape]] | None = None

    def profile(self, names: Sequence[str]) -> Profile | None:
        """The ranges of a part that takes these tensors.

        Raises:
            GraphError: if a shape cannot be known.
        """
        table = self._corners
        if not all(n in corner for n in names for corner in table):
            table = self._measured(names)
        ranges = []
        for name in names:
            shapes = [corner[name] for corner in table]
            if not self._is_dynamic(name):
                continue
            low, high = (tuple(pick(d) for d in zip(*shapes, strict=True)) for pick in (min, max))
            ranges.append(ShapeRange(name, low, shapes[len(shapes) // 2], high))
        return Profile(tuple(ranges)) if ranges else None

    def _is_dynamic(self, name: str) -> bool:
        value = self._parts.values.get(name) or self._parts.inputs[name]
        return any(not d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)

    def _measured(self, names: Sequence[str]) -> list[dict[str, Shape]]:
        runner = OnnxRuntimeRunner(self._parts.model.SerializeToString(), optimize=False)
        inputs, symbols = runnable_inputs(self._parts.model, runner)
        computed = [n for n in names if n not in self._parts.inputs]
        inner = OnnxRuntimeRunner(self._parts.up_to(computed).SerializeToString(), optimize=False) if computed else None
        table: list[dict[str, Shape]] = []
        for k in range(3):
            sizes = {}
            for symbol in symbols:
                usual = inputs[0].sizes[symbol]
                wish = _SMALL.get(symbol[0], (max(1, usual // 2), usual, usual * 2))[k]
                sizes[symbol] = fit_size(wish, symbol, inputs[0])
            arrays = example_arrays(inputs, sizes)
            tensors = {**arrays, **(run_once(inner, arrays) if inner is not None else {})}
            table.append({n: tuple(a.shape) for n, a in tensors.items()})
        if any(0 in corner[n] for n in names for corner in table):
            raise GraphError("a tensor on the way has no element at the sizes that were tried.")
        return table


def _inferred_at(parts: Parts, shapes: dict[str, Shape]) -> dict[str, Shape]:
    """The shapes that follow from those of the inputs, as far as they follow."""
    model = onnx.ModelProto()
    model.CopyFrom(parts.model)
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in shapes:
            for dim, extent in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                dim.dim_value = extent
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = infer_shapes(model, data_prop=True).graph
    inferred_shapes: dict[str, Shape] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            inferred_shapes[value.name] = tuple(int(d.dim_value) for d in tensor.shape.dim)
    return inferred_shapes
