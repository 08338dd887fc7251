"""Resize: axes, antialiasing and aspect ratio came at opset 18, half_pixel_symmetric at 19."""

from __future__ import annotations

import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder, attribute, input_at, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down

_NEW = ("antialias", "axes", "keep_aspect_ratio_policy")


def _plain(node: ir.Node, op: Builder) -> Replacement:
    if attribute(node, "antialias", 0):
        raise NoFormError("antialias=1 does not exist there")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NoFormError("keep_aspect_ratio_policy does not exist there")
    axes = attribute(node, "axes", [])
    if not axes:
        return None
    data = required(node, 0)
    roi, scales, sizes = (input_at(node, i) for i in (1, 2, 3))
    rank = rank_of(data)
    if rank is None:
        raise NoFormError("it resizes some axes only, and the rank of its input is unknown")
    place = {axis % rank: k for k, axis in enumerate(axes)}

    def spread(part: ir.Value | None, other: list[ir.Value]) -> ir.Value | None:
        if part is None:
            return None
        chosen = [op("Gather", part, op.ints([place[a]]), axis=0) if a in place else other[a] for a in range(rank)]
        return op("Concat", *chosen, axis=0)

    full_scales = spread(scales, [op.constant([1.0], ir.DataType.FLOAT)] * rank)
    full_sizes = spread(sizes, [op.extent(data, a) for a in range(rank)]) if sizes is not None else None
    if roi is not None and attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise NoFormError("it crops some axes only (tf_crop_and_resize with axes)")
    return op.same(inputs=[data, None, full_scales, full_sizes], drop=_NEW)


def _symmetric(node: ir.Node, op: Builder) -> Replacement:
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "half_pixel_symmetric":
        return None
    if input_at(node, 3) is None:
        raise NoFormError("coordinate_transformation_mode=half_pixel_symmetric does not exist there")
    return op.same(coordinate_transformation_mode="half_pixel")  # the same where the output sizes are given


RULES = (
    *down("Resize", 18, "all axes, no antialiasing", _plain),
    *down("Resize", 19, "half_pixel_symmetric as half_pixel", _symmetric),
)
