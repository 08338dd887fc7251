"""Shorter arithmetic for the sizes that a graph computes while it runs.

Exporters write ``x.flatten(2)`` as Shape, Slice, Concat and Reshape, and a size in Python as Shape, Gather and Unsqueeze
for each axis. Each of these tiny nodes costs a runtime a microsecond or more, which is a third of the time of a small
module. Two rules, both exact:

- A Reshape whose target repeats an axis of its input says 0 there (copy), and says -1 for the one size that is left:
  most targets become constants. Which axes are equal is known from ONNX's own inference over the symbolic axes.
- What is left of a Concat of sizes takes neighbouring axes of one tensor in one Slice of its Shape.

Shape is never given a start and an end where the exporter had not: engines of older libraries pass over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.opset.facts import attribute, input_at, known_ints
from attn_deploy.graph.shape_inference import infer_shapes

_COPY, _REST = 0, -1


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a tensor; ``ranged`` where it was read by a Shape with start and end."""

    tensor: ir.Value
    axis: int
    ranged: bool


@dataclass(frozen=True, slots=True)
class _Computed:
    """A piece of a target that is neither a constant nor an axis: a vector of one element."""

    value: ir.Value


_Element = int | _Axis | _Computed


def shorten_shape_arithmetic(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes the same with fewer nodes that compute sizes; the given one is left alone."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # symbols that a simplifier made up would stand in the way of those that are inferred
    working = ir.from_proto(infer_shapes(bare, data_prop=True))
    rewriter = _Rewriter(working)
    changed = [rewriter.visit(node) for node in list(working.graph)]
    if not any(changed):
        return model
    RemoveUnusedNodesPass()(working)
    shortened = ir.to_proto(working)
    del shortened.graph.value_info[:]  # inference restores it where it is wanted
    del shortened.graph.output[:]  # inference adds shapes to them; the interface is not ours to change
    shortened.graph.output.extend(model.graph.output)
    return shortened


class _Rewriter:
    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._workspace = Workspace(model)
        self._shapes: dict[int, ir.Value] = {}
        self._runs: dict[tuple[int, int, int], ir.Value] = {}

    def visit(self, node: ir.Node) -> bool:
        """Rewrite the target of a Reshape, or a Concat that others read; whether something changed."""
        if node.op_type == "Reshape":
            return self._visit_reshape(node)
        if node.op_type == "Concat" and attribute(node, "axis", 0) in (0, -1):
            return self._visit_concat(node)
        return False

    def _visit_reshape(self, node: ir.Node) -> bool:
        data, target = input_at(node, 0), input_at(node, 1)
        if data is None or target is None or known_ints(target) is not None:
            return False
        elements = _elements(target)
        if elements is None:
            return False
        literal_zero = bool(attribute(node, "allowzero", 0))
        if literal_zero and 0 in elements:
            return False
        shorter = _relative_to(elements, data)
        if shorter == elements and not _is_long(target, elements):
            return False
        value = self._vector(shorter, node, target)
        node.replace_input_with(1, value)
        if literal_zero:
            node.attributes.pop("allowzero")
        return True

    def _visit_concat(self, node: ir.Node) -> bool:
        output = node.outputs[0]
        if output.is_graph_output() or all(user.op_type == "Reshape" for user, _ in output.uses()):
            return False  # the interface stays; Reshapes are given targets of their own
        elements = _elements(output)
        if elements is None or not _is_long(output, elements):
            return False
        value = self._vector(elements, node, output)
        ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=False)
        return True

    def _vector(self, elements: Sequence[_Element], before: ir.Node, like: ir.Value) -> ir.Value:
        """The value that holds these elements, made in front of a node."""
        parts = [self._piece(piece, before) for piece in _pieces(elements)]
        if len(parts) == 1:
            return parts[0]
        return self._node("Concat", parts, before, f"{like.name}_short", axis=0)

    def _piece(self, piece: Sequence[_Element], before: ir.Node) -> ir.Value:
        first = piece[0]
        if isinstance(first, _Computed):
            return first.value
        if isinstance(first, int):
            return self._constant([e for e in piece if isinstance(e, int)])
        start, end = first.axis, first.axis + len(piece)
        key = (id(first.tensor), start, end)
        if key not in self._runs:
            name = f"{first.tensor.name}_sizes_{start}_{end}"
            if first.ranged:
                result = self._node("Shape", [first.tensor], first.tensor, name, start=start, end=end)
            else:
                bounds = [self._constant([v]) for v in (start, end, 0)]
                result = self._node("Slice", [self._shape_of(first.tensor), *bounds], first.tensor, name)
            self._runs[key] = result
        return self._runs[key]

    def _shape_of(self, tensor: ir.Value) -> ir.Value:
        key = id(tensor)
        if key not in self._shapes:
            self._shapes[key] = self._node("Shape", [tensor], tensor, f"{tensor.name}_shape")
        return self._shapes[key]

    def _constant(self, numbers: Sequence[int]) -> ir.Value:
        return self._workspace.constant(np.array(numbers, np.int64), ir.DataType.INT64)

    def _node(
        self, op_type: str, inputs: Sequence[ir.Value], where: ir.Node | ir.Value, wish: str, **attributes: int
    ) -> ir.Value:
        """A node in front of a node, or right behind the one that makes a tensor."""
        name = self._workspace.unique(wish)
        node = ir.node(op_type, inputs, attributes or None, name=self._workspace.unique(f"{wish}_{op_type}"))
        value = node.outputs[0]
        value.name, value.type = name, ir.TensorType(ir.DataType.INT64)
        if isinstance(where, ir.Node):
            node.metadata_props.update(where.metadata_props)
            self._graph.insert_before(where, node)
            return value
        # A Slice follows the Shape that it reads, which was put there just before.
        behind = where.producer() if inputs[0] is where else inputs[0].producer()
        if behind is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            node.metadata_props.update(behind.metadata_props)
            self._graph.insert_after(behind, node)
        return value


def _is_long(vector: ir.Value, elements: Sequence[_Element]) -> bool:
    """Whether a Concat puts a vector together from more parts than it takes."""
    node = vector.producer()
    return node is not None and node.op_type == "Concat" and len(_pieces(elements)) < len(node.inputs)


def _elements(vector: ir.Value) -> list[_Element] | None:
    """What a vector of sizes is made of, or None where that is not known element by element."""
    numbers = known_ints(vector)
    if numbers is not None:
        return list(numbers) if vector.shape is None or len(vector.shape) == 1 else None
    node = vector.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Concat":
        parts = [_elements(i) if i is not None else None for i in node.inputs]
        if any(p is None for p in parts):
            return None
        return [e for p in parts if p is not None for e in p]
    axes = _axes_read(node)
    if axes is not None:
        return axes
    length = vector.shape[0] if vector.shape is not None and len(vector.shape) == 1 else None
    return [_Computed(vector)] if length == 1 else None


def _axes_read(node: ir.Node) -> list[_Element] | None:
    """The axes that a node reads from a shape as a vector: Shape, Slice or Gather of it, Unsqueeze of one element."""
    first = input_at(node, 0)
    if first is None:
        return None
    if node.op_type == "Shape":
        rank = None if first.shape is None else len(first.shape)
        if rank is None:
            return None
        start, end, _ = slice(attribute(node, "start", 0), attribute(node, "end", rank)).indices(rank)
        ranged = "start" in node.attributes or "end" in node.attributes
        return [_Axis(first, axis, ranged) for axis in range(start, end)]
    producer = first.producer()
    if producer is None:
        return None
    if node.op_type in ("Unsqueeze", "Reshape"):  # a scalar that becomes a vector
        if node.op_type == "Reshape" and known_ints(input_at(node, 1)) not in ([1], [-1]):
            return None
        return _gathered(producer, scalar=True)
    if node.op_type == "Gather":
        return _gathered(node, scalar=False)
    if node.op_type == "Slice":
        return _sliced(node, producer)
    return None


def _gathered(node: ir.Node, *, scalar: bool) -> list[_Element] | None:
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0:
        return None
    source, where = input_at(node, 0), input_at(node, 1)
    indices = known_ints(where)
    shape = source.producer() if source is not None else None
    if indices is None or where is None or shape is None or shape.op_type != "Shape":
        return None
    if scalar and (where.shape is None or len(where.shape) != 0):
        return None
    if not scalar and (where.shape is None or len(where.shape) != 1):
        return None
    axes = _axes_read(shape)
    if axes is None or any(not -len(axes) <= i < len(axes) for i in indices):
        return None
    return [axes[i] for i in indices]


def _sliced(node: ir.Node, producer: ir.Node) -> list[_Element] | None:
    if producer.op_type != "Shape":
        return None
    axes = _axes_read(producer)
    starts, ends = known_ints(input_at(node, 1)), known_ints(input_at(node, 2))
    over = known_ints(input_at(node, 3)) if input_at(node, 3) is not None else [0]
    steps = known_ints(input_at(node, 4)) if input_at(node, 4) is not None else [1]
    if axes is None or starts is None or ends is None or over != [0] or steps is None:
        return None
    return axes[slice(starts[0], ends[0], steps[0])]


def _relative_to(elements: list[_Element], data: ir.Value) -> list[_Element]:
    """The target of a Reshape of ``data``, with what it repeats of the input's axes as 0 and one open size as -1."""
    shape = data.shape
    result = list(elements)
    for i, element in enumerate(elements):
        if isinstance(element, _Axis) and shape is not None and i < len(shape) and _same(element, data, shape, i):
            result[i] = _COPY
    open_places = [i for i, e in enumerate(result) if not isinstance(e, int)]
    if len(open_places) == 1 and _REST not in result:
        result[open_places[0]] = _REST
    return result


def _same(element: _Axis, data: ir.Value, shape: ir.Shape, axis: int) -> bool:
    if element.tensor is data and element.axis == axis:
        return True
    other = element.tensor.shape
    if other is None:
        return False
    mine, theirs = shape[axis], other[element.axis]
    return isinstance(mine, ir.SymbolicDim) and mine.value is not None and mine == theirs


def _pieces(elements: Sequence[_Element]) -> list[list[_Element]]:
    """Runs that one value holds: constants, neighbouring axes of one tensor, single computed sizes."""
    runs: list[list[_Element]] = []
    for element in elements:
        last = runs[-1][-1] if runs else None
        if last is not None and _joins(last, element):
            runs[-1].append(element)
        else:
            runs.append([element])
    return runs


def _joins(last: _Element, element: _Element) -> bool:
    if isinstance(last, int) or isinstance(element, int):
        return isinstance(last, int) and isinstance(element, int)
    if isinstance(last, _Computed) or isinstance(element, _Computed):
        return False
    next_axis = last.tensor is element.tensor and last.axis + 1 == element.axis
    return next_axis and last.ranged == element.ranged
