"""Antialiased resizing (opset 18) as two matrix products, one for each image axis."""

from __future__ import annotations

import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, data_of, known_floats, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_IMAGE_AXES = (2, 3)


def resize_antialiased(
    node: ir.Node, op: Builder, axes: list[int], scales: ir.Value | None, sizes: ir.Value | None
) -> ir.Value:
    """The resized image: a weight matrix for each axis, made in the graph so that any input size goes through.

    Args:
        node: a Resize with antialias=1 on an image (N, C, H, W).
        op: the builder.
        axes: the axes that ``scales`` or ``sizes`` speak of. Batch and channels are taken as kept, as no runtime can
            resize them with antialiasing.
        scales: how much larger each axis becomes, or None.
        sizes: how large each axis becomes, or None.

    Raises:
        NoFormError: if the input is no image, or its batch or channels are resized.
    """
    data, dtype = data_of(node)
    if rank_of(data) != 4:
        raise NoFormError("antialias=1 does not exist there, and its input is not an image (4-D)")
    factors = known_floats(scales)
    if factors is not None and any(s != 1 for a, s in zip(axes, factors, strict=True) if a not in _IMAGE_AXES):
        raise NoFormError("antialias=1 does not exist there, and it resizes batch or channels")
    result = data
    for axis in (a for a in _IMAGE_AXES if a in axes):
        weights = _Weights(node, op, axis).matrix(axes.index(axis), scales, sizes)
        weights = weights if dtype == _FLOAT else op("Cast", weights, to=int(dtype))
        left, right = (weights, result) if axis == 2 else (result, op("Transpose", weights, perm=[1, 0]))
        result = op("MatMul", left, right)
    return result


class _Weights:
    """The matrix (out, in) of one axis."""

    def __init__(self, node: ir.Node, op: Builder, axis: int) -> None:
        self.op = op
        self.extent = op.extent(required(node, 0), axis)
        self.coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
        self.cubic = attribute(node, "mode", "nearest") == "cubic"
        self.coefficient = attribute(node, "cubic_coeff_a", -0.75)
        self.exclude_outside = bool(attribute(node, "exclude_outside", 0))

    def number(self, value: float) -> ir.Value:
        return self.op.constant(value, _FLOAT)

    def to_float(self, value: ir.Value) -> ir.Value:
        return self.op("Cast", value, to=int(_FLOAT))

    def count(self, start: ir.Value, stop: ir.Value) -> ir.Value:
        """The whole numbers from start to stop, both one-element tensors, in float32."""
        op = self.op
        first = op.ints([0])
        return self.to_float(op("Range", op("Squeeze", start, first), op("Squeeze", stop, first), op.index(1)))

    def matrix(self, position: int, scales: ir.Value | None, sizes: ir.Value | None) -> ir.Value:
        op = self.op
        now = self.to_float(self.extent)
        chosen = op.ints([position])
        if sizes is not None:
            out = op("Gather", sizes, chosen, axis=0)
            scale = op("Div", self.to_float(out), now)
        elif scales is not None:
            scale = op("Gather", scales, chosen, axis=0)
            out = op("Cast", op("Floor", op("Mul", now, scale)), to=int(_INT64))
        else:
            raise NoFormError("it has neither scales nor sizes")
        stretch = op("Max", op("Reciprocal", scale), self.number(1.0))  # of the filter, where it shrinks the image
        centres = op(
            "Add", self.source(self.count(op.ints([0]), out), scale, self.to_float(out), now), self.number(0.5)
        )
        margin = None if self.exclude_outside else self.margin(stretch)
        if margin is None:
            pixels = self.count(op.ints([0]), self.extent)
        else:
            pixels = self.count(op("Neg", margin), op("Add", self.extent, margin))
        middles = op("Add", pixels, self.number(0.5))
        distance = op("Abs", op("Sub", op("Unsqueeze", middles, op.ints([0])), op("Unsqueeze", centres, op.ints([1]))))
        weights = self.kernel(op("Div", distance, stretch))
        weights = op("Div", weights, op.reduce("ReduceSum", weights, [1]))
        return weights if margin is None else op("MatMul", weights, self.fold(pixels, now))

    def source(self, index: ir.Value, scale: ir.Value, out: ir.Value, now: ir.Value) -> ir.Value:
        """The place in the input that output pixel ``index`` comes from."""
        op = self.op
        half, one = self.number(0.5), self.number(1.0)
        if self.coordinates == "asymmetric":
            return op("Div", index, scale)
        if self.coordinates == "align_corners":
            steps = op("Max", op("Sub", out, one), one)
            return op("Div", op("Mul", index, op("Sub", now, one)), steps)
        centred = op("Sub", op("Div", op("Add", index, half), scale), half)
        if self.coordinates == "pytorch_half_pixel":
            return op("Where", op("Greater", out, one), centred, op("Mul", index, self.number(0.0)))
        if self.coordinates != "half_pixel":
            raise NoFormError(
                f"antialias=1 with coordinate_transformation_mode={self.coordinates} does not exist there"
            )
        return centred

    def margin(self, stretch: ir.Value) -> ir.Value:
        """How many pixels beyond the border the filter reaches."""
        op = self.op
        reach = op("Ceil", op("Mul", stretch, self.number(2.0 if self.cubic else 1.0)))
        return op("Add", op("Cast", reach, to=int(_INT64)), op.ints([1]))

    def fold(self, pixels: ir.Value, now: ir.Value) -> ir.Value:
        """Gives the weight of pixels outside to the nearest pixel inside, as a matrix (pixels, in)."""
        op = self.op
        inside = op("Max", op("Min", pixels, op("Sub", now, self.number(1.0))), self.number(0.0))
        real = self.count(op.ints([0]), self.extent)
        same = op("Equal", op("Unsqueeze", inside, op.ints([1])), op("Unsqueeze", real, op.ints([0])))
        return self.to_float(same)

    def kernel(self, t: ir.Value) -> ir.Value:
        """The filter at distance ``t``: a triangle, or the cubic of Keys with coefficient a."""
        op = self.op
        one, zero = self.number(1.0), self.number(0.0)
        if not self.cubic:
            return op("Max", op("Sub", one, t), zero)
        a = self.coefficient
        near = op("Sub", op("Mul", t, self.number(a + 2)), self.number(a + 3))
        near = op("Add", op("Mul", op("Mul", near, t), t), one)
        far = op("Sub", op("Mul", t, self.number(a)), self.number(5 * a))
        far = op("Sub", op("Mul", op("Add", op("Mul", far, t), self.number(8 * a)), t), self.number(4 * a))
        beyond = op("Where", op("Less", t, self.number(2.0)), far, zero)
        return op("Where", op("LessOrEqual", t, one), near, beyond)
