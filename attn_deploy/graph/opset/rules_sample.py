"""GridSample (16, 20), AffineGrid (20), RoiAlign (16) and DFT (17, 20): sampling at computed places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, data_of, input_at, known_ints, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down, up

_OLD_MODES = {"linear": "bilinear", "cubic": "bicubic"}
_NEW_MODES = {old: new for new, old in _OLD_MODES.items()}
_CUBIC = -0.75
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def _old_mode_names(node: ir.Node, op: Builder) -> Replacement:
    if rank_of(required(node, 0)) not in (None, 4):
        raise NoFormError("it samples a volume, and only images (4-D) can be sampled there")
    mode = attribute(node, "mode", "linear")
    return op.same(mode=_OLD_MODES.get(mode, mode))


def _new_mode_names(node: ir.Node, op: Builder) -> Replacement:
    mode = attribute(node, "mode", "bilinear")
    return op.same(mode=_NEW_MODES.get(mode, mode))


@dataclass(frozen=True, slots=True)
class _Axis:
    """One image axis: its extent as an integer and as a float scalar-like tensor, and where the grid points to."""

    extent: ir.Value
    size: ir.Value
    place: ir.Value


@dataclass(frozen=True, slots=True)
class _Tap:
    """One neighbour along an axis: its position (a whole number in float32) and its weight."""

    position: ir.Value
    weight: ir.Value | None


class _Sampler:
    """GridSample by gathers: neighbours along each axis, their weights, and a sum over all pairs."""

    def __init__(self, node: ir.Node, op: Builder) -> None:
        self.op = op
        self.padding = attribute(node, "padding_mode", "zeros")
        self.mode = attribute(node, "mode", "bilinear")
        self.aligned = bool(attribute(node, "align_corners", 0))
        self.image, self.dtype = data_of(node)
        self.grid = op("Cast", required(node, 1), to=int(_FLOAT))

    def number(self, value: float) -> ir.Value:
        return self.op.constant(value, _FLOAT)

    def axis(self, image_axis: int, component: int) -> _Axis:
        op = self.op
        extent = op.extent(self.image, image_axis)
        size = op("Cast", extent, to=int(_FLOAT))
        unit = op("Add", op("Gather", self.grid, op.index(component), axis=3), self.number(1.0))
        half = self.number(0.5)
        if self.aligned:
            place = op("Mul", op("Mul", unit, half), op("Sub", size, self.number(1.0)))
        else:
            place = op("Mul", op("Sub", op("Mul", unit, size), self.number(1.0)), half)
        if self.mode != "bicubic":  # the bicubic neighbours are brought inside one by one
            place = self.inside(place, size)
        return _Axis(extent, size, place)

    def inside(self, place: ir.Value, size: ir.Value) -> ir.Value:
        """A position brought into the image by the padding mode; unchanged where zeros lie outside."""
        if self.padding == "zeros":
            return place
        if self.padding == "reflection":
            place = self.reflect(place, size)
        return self.clip(place, size)

    def clip(self, place: ir.Value, size: ir.Value) -> ir.Value:
        op = self.op
        return op("Max", op("Min", place, op("Sub", size, self.number(1.0))), self.number(0.0))

    def reflect(self, place: ir.Value, size: ir.Value) -> ir.Value:
        """Mirrored at both borders, as often as needed: a triangular wave of the distance from the lower border."""
        op = self.op
        low = self.number(0.0 if self.aligned else -0.5)
        span = op("Sub", size, self.number(1.0)) if self.aligned else size
        span = op("Max", span, self.number(1e-6))  # an extent of 1 with aligned corners; clipped to 0 afterwards
        turns = op("Div", op("Sub", place, low), span)
        nearest_even = op("Mul", op("Round", op("Mul", turns, self.number(0.5))), self.number(2.0))
        return op("Add", op("Mul", op("Abs", op("Sub", turns, nearest_even)), span), low)

    def taps(self, axis: _Axis) -> list[_Tap]:
        op = self.op
        if self.mode == "nearest":
            return [_Tap(op("Round", axis.place), None)]
        floor = op("Floor", axis.place)
        rest = op("Sub", axis.place, floor)
        one = self.number(1.0)
        left = op("Sub", one, rest)
        if self.mode == "bilinear":
            return [_Tap(floor, left), _Tap(op("Add", floor, one), rest)]
        distances: list[tuple[float, ir.Value, Callable[[ir.Value], ir.Value]]] = [
            (-1.0, op("Add", rest, one), self.cubic_far),
            (0.0, rest, self.cubic_near),
            (1.0, left, self.cubic_near),
            (2.0, op("Add", left, one), self.cubic_far),
        ]
        pairs = []
        for offset, distance, weight in distances:
            position = op("Add", floor, self.number(offset))
            if self.padding != "zeros":  # reflecting leaves 6.9999995 where 7 is meant
                position = op("Round", self.inside(position, axis.size))
            pairs.append(_Tap(position, weight(distance)))
        return pairs

    def cubic_near(self, t: ir.Value) -> ir.Value:
        """The cubic kernel at distances up to 1: (a+2) t^3 - (a+3) t^2 + 1."""
        op = self.op
        inner = op("Sub", op("Mul", t, self.number(_CUBIC + 2)), self.number(_CUBIC + 3))
        return op("Add", op("Mul", op("Mul", inner, t), t), self.number(1.0))

    def cubic_far(self, t: ir.Value) -> ir.Value:
        """The cubic kernel at distances from 1 to 2: a t^3 - 5a t^2 + 8a t - 4a."""
        op = self.op
        inner = op("Sub", op("Mul", t, self.number(_CUBIC)), self.number(5 * _CUBIC))
        inner = op("Add", op("Mul", inner, t), self.number(8 * _CUBIC))
        return op("Sub", op("Mul", inner, t), self.number(4 * _CUBIC))

    def sample(self) -> ir.Value:
        op = self.op
        across, along = self.axis(3, 0), self.axis(2, 1)
        points = op("Transpose", op("Reshape", self.image, op.ints([0, 0, -1])), perm=[0, 2, 1])
        total: ir.Value | None = None
        columns, rows = self.taps(across), self.taps(along)
        for row in rows:
            for column in columns:
                part = self.pixel(points, row, column, along, across)
                total = part if total is None else op("Add", total, part)
        if total is None:
            raise NoFormError(f"its mode {self.mode!r} is unknown")
        out_size = op("Slice", op("Shape", self.grid), op.ints([1]), op.ints([3]), op.ints([0]))
        shape = op("Concat", op.ints([0, 0]), out_size, axis=0)
        return op("Reshape", op("Transpose", total, perm=[0, 2, 1]), shape)

    def pixel(self, points: ir.Value, row: _Tap, column: _Tap, along: _Axis, across: _Axis) -> ir.Value:
        """One neighbour's pixels, (N, P, C), times its weight, (N, P, 1)."""
        op = self.op
        y, x = (self.clip(t.position, a.size) for t, a in ((row, along), (column, across)))
        flat = op("Add", op("Mul", op("Cast", y, to=int(_INT64)), across.extent), op("Cast", x, to=int(_INT64)))
        index = op("Reshape", flat, op.ints([0, -1, 1]))
        values = op("GatherND", points, index, batch_dims=1)
        weight = row.weight if column.weight is None else column.weight
        if row.weight is not None and column.weight is not None:
            weight = op("Mul", row.weight, column.weight)
        if self.padding == "zeros":
            kept = op("And", op("Equal", y, row.position), op("Equal", x, column.position))
            seen = op("Cast", kept, to=int(_FLOAT))
            weight = seen if weight is None else op("Mul", weight, seen)
        if weight is None:
            return values
        column_weight = op("Reshape", weight, op.ints([0, -1, 1]))
        return op("Mul", values, op("Cast", column_weight, to=int(self.dtype)))


def _by_gather(node: ir.Node, op: Builder) -> Replacement:
    if rank_of(required(node, 0)) != 4:
        raise NoFormError("the rank of its input is unknown")
    return _Sampler(node, op).sample()


def _affine_grid(node: ir.Node, op: Builder) -> Replacement:
    """The base grid of x, y and 1 for each pixel, times the transposed matrix."""
    theta, dtype = data_of(node)
    size = required(node, 1)
    if theta.shape is None or theta.shape[1] != 2:
        raise NoFormError("it is not known to make a grid for images (theta of 2 x 3)")
    aligned = bool(attribute(node, "align_corners", 0))
    one, two = op.constant(1.0, _FLOAT), op.constant(2.0, _FLOAT)
    lines = []
    for axis in (3, 2):
        extent = op("Gather", size, op.ints([axis]), axis=0)
        count = op("Cast", extent, to=int(_FLOAT))
        index = op("Cast", op("Range", op.index(0), op("Squeeze", extent, op.ints([0])), op.index(1)), to=int(_FLOAT))
        if aligned:
            unit = op("Div", op("Mul", index, two), op("Max", op("Sub", count, one), one))
        else:
            unit = op("Div", op("Add", op("Mul", index, two), one), count)
        lines.append(op("Sub", unit, one))
    image = op("Gather", size, op.ints([2, 3]), axis=0)
    across = op("Expand", lines[0], image)
    along = op("Expand", op("Unsqueeze", lines[1], op.ints([1])), image)
    ones = op("Expand", one, image)
    planes = [op("Unsqueeze", plane, op.ints([2])) for plane in (across, along, ones)]
    base = op("Reshape", op("Concat", *planes, axis=2), op.ints([-1, 3]))
    base = base if dtype == _FLOAT else op("Cast", base, to=int(dtype))
    places = op("MatMul", base, op("Transpose", theta, perm=[0, 2, 1]))
    return op("Reshape", places, op("Concat", op.ints([0]), image, op.ints([2]), axis=0))


def _roi_align_old(node: ir.Node, op: Builder) -> Replacement:
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode != "output_half_pixel":
        raise NoFormError(f"coordinate_transformation_mode={mode} does not exist there")
    return op.same(drop=("coordinate_transformation_mode",))


def _roi_align_new(node: ir.Node, op: Builder) -> Replacement:
    return op.same(coordinate_transformation_mode="output_half_pixel")


def _dft_axis_attribute(node: ir.Node, op: Builder) -> Replacement:
    vector = input_at(node, 2)
    axis = [-2] if vector is None else known_ints(vector)
    rank = rank_of(required(node, 0))
    if axis is None or rank is None:
        raise NoFormError("its axis is computed while the model runs, and is an attribute there")
    return op.same(inputs=node.inputs[:2], axis=axis[0] % rank)


def _dft_axis_input(node: ir.Node, op: Builder) -> Replacement:
    axis = op.index(attribute(node, "axis", 1))
    return op.same(inputs=[required(node, 0), input_at(node, 1), axis], drop=("axis",))


RULES = (
    *down("GridSample", 20, "old mode names", _old_mode_names),
    *up("GridSample", 20, "new mode names", _new_mode_names),
    *down("AffineGrid", 20, "written out", _affine_grid),
    *down("GridSample", 16, "by gathers", _by_gather),
    *down("RoiAlign", 16, "output_half_pixel", _roi_align_old),
    *up("RoiAlign", 16, "output_half_pixel", _roi_align_new),
    *down("DFT", 20, "axis from input to attribute", _dft_axis_attribute),
    *up("DFT", 20, "axis from attribute to input", _dft_axis_input),
)
