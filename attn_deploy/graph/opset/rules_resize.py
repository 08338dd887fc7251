"""Resize: axes, antialiasing and aspect ratio came at opset 18, half_pixel_symmetric at 19."""

from __future__ import annotations

import onnx_ir as ir

from attn_deploy.graph.opset.antialias import resize_antialiased
from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, input_at, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down

_NEW = ("antialias", "axes", "keep_aspect_ratio_policy")


def _plain(node: ir.Node, op: Builder) -> Replacement:
    axes = attribute(node, "axes", [])
    antialias = attribute(node, "antialias", 0)
    policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":  # its one scale for all axes is not what older forms compute from rounded sizes
        raise NoFormError(f"keep_aspect_ratio_policy={policy} does not exist there")
    if not axes and not antialias:
        return None
    data = required(node, 0)
    rank = rank_of(data)
    if rank is None:
        raise NoFormError("the rank of its input is unknown")
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise NoFormError("it crops (tf_crop_and_resize) and has a new attribute as well")
    chosen = [axis % rank for axis in axes] or list(range(rank))
    scales, sizes = input_at(node, 2), input_at(node, 3)
    if antialias:
        return resize_antialiased(node, op, chosen, scales, sizes)
    if scales is not None:
        scales = _spread(op, scales, chosen, [op.constant([1.0], ir.DataType.FLOAT)] * rank)
    if sizes is not None:
        sizes = _spread(op, sizes, chosen, [op.extent(data, a) for a in range(rank)])
    return op.same(inputs=[data, None, scales, sizes], drop=_NEW)


def _spread(op: Builder, part: ir.Value, axes: list[int], others: list[ir.Value]) -> ir.Value:
    """A value for each axis, from the values of some axes and what the other axes have."""
    if axes == list(range(len(others))):
        return part
    each = [
        op("Gather", part, op.ints([axes.index(a)]), axis=0) if a in axes else other for a, other in enumerate(others)
    ]
    return op("Concat", *each, axis=0)


def _symmetric(node: ir.Node, op: Builder) -> Replacement:
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "half_pixel_symmetric":
        return None
    if input_at(node, 3) is None:
        raise NoFormError("coordinate_transformation_mode=half_pixel_symmetric does not exist there")
    return op.same(coordinate_transformation_mode="half_pixel")  # the same where the output sizes are given


RULES = (
    *down("Resize", 18, "new attributes written out", _plain),
    *down("Resize", 19, "half_pixel_symmetric as half_pixel", _symmetric),
)
