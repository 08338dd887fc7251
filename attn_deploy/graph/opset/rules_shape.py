"""Split, Pad, Shape, Reshape and their kin: inputs and attributes about extents."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from attn_deploy.graph.opset.builder import INT64_MAX, Builder
from attn_deploy.graph.opset.facts import attribute, input_at, known_ints, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down, up


def _split_explicit(node: ir.Node, op: Builder) -> Replacement:
    data, sizes = required(node, 0), input_at(node, 1)
    if "num_outputs" not in node.attributes:
        return None
    if sizes is not None:
        return op.same(drop=("num_outputs",))
    count, axis = len(node.outputs), attribute(node, "axis", 0)
    extent = data.shape[axis] if data.shape is not None else None
    if isinstance(extent, int):
        chunk = -(-extent // count)
        explicit = op.ints([min(max(extent - i * chunk, 0), chunk) for i in range(count)])
    else:
        total = op.extent(data, axis)
        chunks = op("Div", op("Add", total, op.ints([count - 1])), op.ints([count]))
        left = op("Sub", total, op("Mul", chunks, op.ints(range(count))))
        explicit = op("Min", op("Max", left, op.ints([0])), chunks)
    return op.same(inputs=[data, explicit], drop=("num_outputs",))


def _split_count(node: ir.Node, op: Builder) -> Replacement:
    if input_at(node, 1) is not None or "num_outputs" in node.attributes:
        return None
    return op.same(num_outputs=len(node.outputs))


def _pad_all_axes(node: ir.Node, op: Builder) -> Replacement:
    data, pads, vector = required(node, 0), required(node, 1), input_at(node, 3)
    if vector is None:
        return None
    rank, axes = rank_of(data), known_ints(vector)
    if rank is None or axes is None:
        raise NoFormError("its axes are an input that is unknown before the model runs, and do not exist there")
    place = {axis % rank: k for k, axis in enumerate(axes)}
    axes_read = known_ints(pads)
    if axes_read is not None:
        full = [axes_read[place[a] + side * len(axes)] if a in place else 0 for side in (0, 1) for a in range(rank)]
        complete = op.ints(full)
    else:
        zero = op.ints([0])
        parts = [
            op("Gather", pads, op.ints([place[a] + side * len(axes)]), axis=0) if a in place else zero
            for side in (0, 1)
            for a in range(rank)
        ]
        complete = op("Concat", *parts, axis=0)
    return op.same(inputs=[data, complete, *node.inputs[2:3]])


def _pad_wrap(node: ir.Node, op: Builder) -> Replacement:
    if attribute(node, "mode", "constant") != "wrap":
        return None
    data = required(node, 0)
    rank, pads = rank_of(data), known_ints(required(node, 1))
    axes = known_ints(input_at(node, 3)) if input_at(node, 3) is not None else list(range(rank or 0))
    if rank is None or pads is None or axes is None:
        raise NoFormError("its mode is wrap, and its pads are unknown before the model runs")
    result = data
    for k, axis in enumerate(axes):
        before, after = pads[k], pads[k + len(axes)]
        if before or after:
            extent = op("Squeeze", op.extent(data, axis), op.ints([0]))
            positions = op("Range", op.index(-before), op("Add", extent, op.index(after)), op.index(1))
            result = op("Gather", result, op("Mod", positions, extent), axis=axis)
    return result if result is not data else op("Identity", data)


def _shape_slice(node: ir.Node, op: Builder) -> Replacement:
    start, end = attribute(node, "start", 0), attribute(node, "end", None)
    if start == 0 and end is None:
        return None
    whole = op("Shape", required(node, 0))
    return op("Slice", whole, op.ints([start]), op.ints([INT64_MAX if end is None else end]), op.ints([0]))


def _reshape_plain(node: ir.Node, op: Builder) -> Replacement:
    if not attribute(node, "allowzero", 0):
        return None
    wanted = known_ints(required(node, 1))
    if wanted is not None and 0 in wanted:
        raise NoFormError("it reshapes to an extent of 0 (allowzero=1), and 0 means 'copy the extent' there")
    # A shape computed while the model runs holds a 0 only for an empty tensor, and none comes through a vision model.
    return op.same(drop=("allowzero",))


def _trilu(node: ir.Node, op: Builder) -> Replacement:
    data, offset = required(node, 0), input_at(node, 1)
    if data.dtype is None:
        raise NoFormError("its element type cannot be inferred")
    first = op.ints([0])
    rows, columns = (
        op("Range", op.index(0), op("Squeeze", op.extent(data, axis), first), op.index(1)) for axis in (-2, -1)
    )
    distance = op("Sub", op("Unsqueeze", columns, first), op("Unsqueeze", rows, op.ints([1])))
    diagonal = op.index(0) if offset is None else offset
    upper = attribute(node, "upper", 1)
    kept = op("GreaterOrEqual" if upper else "LessOrEqual", distance, diagonal)
    return op("Where", kept, data, op.constant(np.zeros(()), data.dtype))


def _scatter_extremes(node: ir.Node, op: Builder) -> Replacement:
    reduction = attribute(node, "reduction", "none")
    if reduction in ("max", "min"):
        raise NoFormError(f"the reduction {reduction!r} does not exist there")
    return None


def _pool_dilations(node: ir.Node, op: Builder) -> Replacement:
    dilations = attribute(node, "dilations", [])
    if any(d != 1 for d in dilations):
        raise NoFormError(f"dilations of {dilations} do not exist there")
    return op.same(drop=("dilations",)) if "dilations" in node.attributes else None


def _cast_to_known(node: ir.Node, op: Builder) -> Replacement:
    like = required(node, 1)
    if like.dtype is None:
        raise NoFormError("the element type it casts to cannot be inferred")
    return op("Cast", required(node, 0), to=int(like.dtype))


def _infinity_in_float32(node: ir.Node, op: Builder) -> Replacement:
    data = required(node, 0)
    if data.dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return None
    return op.same(inputs=[op.in_float32(data)])


RULES = (
    *down("Split", 18, "explicit sizes", _split_explicit),
    *up("Split", 18, "number of outputs", _split_count),
    *down("Pad", 18, "pads of all axes", _pad_all_axes),
    *down("Pad", 19, "wrap as Gather", _pad_wrap),
    *down("Shape", 15, "start and end as Slice", _shape_slice),
    *down("Reshape", 14, "without allowzero", _reshape_plain),
    *down("Trilu", 14, "written out", _trilu),
    *down(("ScatterElements", "ScatterND"), 18, "reductions", _scatter_extremes),
    *down("AveragePool", 19, "without dilations", _pool_dilations),
    *down("LpPool", 18, "without dilations", _pool_dilations),
    *down("CastLike", 15, "Cast", _cast_to_known),
    *down("IsInf", 20, "in float32", _infinity_in_float32),
)
