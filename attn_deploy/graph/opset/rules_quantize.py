"""QuantizeLinear and DequantizeLinear: the output type became an attribute at opsets 21 and 23."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, input_at, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down

_PLAIN = int(ir.DataType.UINT8)


def _type_by_zero_point(node: ir.Node, op: Builder) -> Replacement:
    wanted = attribute(node, "output_dtype", 0)
    if not wanted:
        return None
    if input_at(node, 2) is not None or wanted == _PLAIN:
        return op.same(drop=("output_dtype",))
    scale = required(node, 1)
    if scale.shape is None or not all(isinstance(d, int) for d in scale.shape):
        raise NoFormError("its output_dtype needs a zero point there, and the shape of its scale is unknown")
    shape = [int(d) for d in scale.shape if isinstance(d, int)]
    zero = op.constant(np.zeros(shape), ir.DataType(wanted))
    return op.same(inputs=[required(node, 0), scale, zero], drop=("output_dtype",))


def _type_by_scale(node: ir.Node, op: Builder) -> Replacement:
    wanted, scale = attribute(node, "output_dtype", 0), required(node, 1)
    if not wanted:
        return None
    if scale.dtype is None:
        raise NoFormError("the element type of its scale cannot be inferred")
    if wanted == int(scale.dtype):
        return op.same(drop=("output_dtype",))
    return op("Cast", op.same(drop=("output_dtype",))[0], to=wanted)


RULES = (
    *down("QuantizeLinear", 21, "type from the zero point", _type_by_zero_point),
    *down("DequantizeLinear", 23, "type from the scale", _type_by_scale),
)
