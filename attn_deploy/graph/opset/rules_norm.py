"""Normalisations: Batch- (14), Layer- (17), Group- (18, 21) and RMSNormalization (23)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, data_of, input_at, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down, up


def _normalised_axes(node: ir.Node, data: ir.Value) -> list[int]:
    """The axes from ``axis`` to the last, counted from the end where the rank is unknown."""
    axis = attribute(node, "axis", -1)
    if axis < 0:
        return list(range(axis, 0))
    rank = rank_of(data)
    if rank is None:
        raise NoFormError(f"it normalises from axis {axis} on, and the rank of its input is unknown")
    return list(range(axis - rank, 0))


def _stash(node: ir.Node, op: Builder, data: ir.Value) -> tuple[ir.Value, ir.DataType]:
    """The data in the type that statistics are computed in."""
    if attribute(node, "stash_type", 1) != 1:
        return data, data_of(node)[1]
    wide = op.in_float32(data)
    return wide, ir.DataType.FLOAT if wide is not data else data_of(node)[1]


def _layer_norm(node: ir.Node, op: Builder) -> Replacement:
    data, _ = data_of(node)
    scale, bias = required(node, 1), input_at(node, 2)
    axes = _normalised_axes(node, data)
    x, dtype = _stash(node, op, data)
    mean = op.reduce("ReduceMean", x, axes)
    centred = op("Sub", x, mean)
    # A power, not a product: runtimes recognise a LayerNormalization that is written out by it.
    variance = op.reduce("ReduceMean", op("Pow", centred, op.constant(2.0, dtype)), axes)
    deviation = op("Sqrt", op("Add", variance, op.constant(attribute(node, "epsilon", 1e-5), dtype)))
    normal = op("Div", centred, deviation)
    y = op("Mul", normal if x is data else op.back(normal, data), scale)
    if bias is not None:
        y = op("Add", y, bias)
    wanted = len(node.outputs)
    extra = [mean] if wanted > 1 else []
    if wanted > 2:
        extra.append(op("Reciprocal", deviation))
    return [y, *extra]


def _rms_norm(node: ir.Node, op: Builder) -> Replacement:
    data, _ = data_of(node)
    x, dtype = _stash(node, op, data)
    square = op.reduce("ReduceMean", op("Pow", x, op.constant(2.0, dtype)), _normalised_axes(node, data))
    root = op("Sqrt", op("Add", square, op.constant(attribute(node, "epsilon", 1e-5), dtype)))
    normal = op("Div", x, root)
    return op("Mul", normal if x is data else op.back(normal, data), required(node, 1))


def _in_groups(
    node: ir.Node, op: Builder, data: ir.Value, scale: ir.Value | None = None, bias: ir.Value | None = None
) -> ir.Value:
    """Each group normalised, with a scale and a bias for each group if given; InstanceNormalization does the sums."""
    groups = attribute(node, "num_groups", None)
    if groups is None:
        raise NoFormError("it has no num_groups")
    x, dtype = _stash(node, op, data)
    if scale is None or bias is None:
        scale, bias = op.constant(np.ones(groups), dtype), op.constant(np.zeros(groups), dtype)
    elif x is not data:
        scale, bias = op.in_float32(scale), op.in_float32(bias)
    grouped = op("Reshape", x, op.ints([0, groups, -1]))
    normal = op("InstanceNormalization", grouped, scale, bias, epsilon=attribute(node, "epsilon", 1e-5))
    whole = op("Reshape", normal, op("Shape", data))
    return whole if x is data else op.back(whole, data)


def _group_norm(node: ir.Node, op: Builder) -> Replacement:
    data, _ = data_of(node)
    rank = rank_of(data)
    if rank is None:
        raise NoFormError("the rank of its input is unknown")
    normal = _in_groups(node, op, data)
    spatial = op.ints(range(1, rank - 1))
    scale, bias = (op("Unsqueeze", v, spatial) if rank > 2 else v for v in node.inputs[1:3])
    return op("Add", op("Mul", normal, scale), bias)


def _group_norm_per_group(node: ir.Node, op: Builder) -> Replacement:
    data, _ = data_of(node)
    return _in_groups(node, op, data, required(node, 1), required(node, 2))


def _group_norm_per_channel(node: ir.Node, op: Builder) -> Replacement:
    data, _ = data_of(node)
    groups = attribute(node, "num_groups", 1)
    channels = data.shape[1] if data.shape is not None and len(data.shape) > 1 else None
    if not isinstance(channels, int):
        raise NoFormError("its scale is for each group, is for each channel there, and the channels are unknown")
    per_channel = [
        op(
            "Reshape",
            op("Expand", op("Reshape", v, op.ints([groups, 1])), op.ints([groups, channels // groups])),
            op.ints([channels]),
        )
        for v in node.inputs[1:3]
    ]
    return op.same(inputs=[data, *per_channel])


def _batch_norm_down(node: ir.Node, op: Builder) -> Replacement:
    if attribute(node, "training_mode", 0):
        raise NoFormError("it is in training mode; export the model in eval mode")
    return None


def _batch_norm_up(node: ir.Node, op: Builder) -> Replacement:
    if len(node.outputs) > 1:
        raise NoFormError("it is in training mode; export the model in eval mode")
    return None


RULES = (
    *down("BatchNormalization", 14, "inference only", _batch_norm_down),
    *up("BatchNormalization", 14, "inference only", _batch_norm_up),
    *down("LayerNormalization", 17, "written out", _layer_norm),
    *down("RMSNormalization", 23, "written out", _rms_norm),
    *down("GroupNormalization", 21, "written out", _group_norm),
    *down("GroupNormalization", 18, "written out", _group_norm_per_group),
    *up("GroupNormalization", 21, "scale and bias for each channel", _group_norm_per_channel),
)
