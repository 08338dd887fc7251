"""The interface of a graph changed on request: axes fixed, inputs and outputs renamed, bytes cast before they are moved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto

from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import check_model
from attn_deploy.graph.shape_inference import infer_shapes

_MOVING = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Identity"})
_BYTES = (TensorProto.UINT8,)


def fix_axes(model: onnx.ModelProto, extents: Mapping[str, int], what: str) -> onnx.ModelProto:
    """A copy of a graph whose axes of these names have one extent.

    Args:
        model: the graph.
        extents: by symbol, as the file names it, or by input and place, as ``images[2]``.
        what: the model's name in messages.

    Raises:
        InvalidRequestError: if no axis has such a name, or an extent is below 1.
        GraphError: if the graph does not take these extents.
    """
    copy = _copy(model)
    weights = {i.name for i in model.graph.initializer}
    inputs = {i.name: i for i in copy.graph.input if i.name not in weights}
    for key, extent in extents.items():
        if extent < 1:
            raise InvalidRequestError(f"--fix {key}={extent}: an axis has at least the length 1.")
        place = re.fullmatch(r"(.+)\[(\d+)\]", key)
        if place and place[1] in inputs and int(place[2]) < len(inputs[place[1]].type.tensor_type.shape.dim):
            dims = [inputs[place[1]].type.tensor_type.shape.dim[int(place[2])]]
        else:
            dims = [d for i in inputs.values() for d in i.type.tensor_type.shape.dim if d.dim_param == key]
        if not dims or any(d.HasField("dim_value") and d.dim_value != extent for d in dims):
            raise InvalidRequestError(
                f"{what}: --fix {key} names no axis that moves; those are {_moving(inputs.values())}."
            )
        for dim in dims:
            dim.Clear()
            dim.dim_value = extent
    _infer_outputs(copy)
    check_model(copy, f"{what} with fixed axes")
    return copy


def rename_values(model: onnx.ModelProto, names: Mapping[str, str], what: str) -> onnx.ModelProto:
    """A copy of a graph whose inputs and outputs have other names.

    Raises:
        InvalidRequestError: if a name is not of an input or output, or is taken.
    """
    copy = _copy(model)
    interface = [v.name for v in (*copy.graph.input, *copy.graph.output)]
    taken = {*interface, *(o for n in copy.graph.node for o in n.output), *(i.name for i in copy.graph.initializer)}
    for old, new in names.items():
        if old not in interface:
            raise InvalidRequestError(
                f"{what}: --rename {old}={new}: the inputs and outputs are {', '.join(interface)}."
            )
        if new in taken and new not in names:
            raise InvalidRequestError(f"{what}: --rename {old}={new}: the graph has a tensor {new!r} already.")
    _rename(copy.graph, names)
    check_model(copy, f"{what} with other names")
    return copy


_ANY = frozenset({"", "?", "-1", "none", "null", "unk", "unknown", "dynamic"})


def free_axes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A graph whose axes are not tied by a name that only says that they move, and the names that went.

    TensorRT takes axes of one name to be equal. ``?``, or one name at several places of an input, says no such thing.
    """
    gone: set[str] = set()
    for value in model.graph.input:
        names = [d.dim_param for d in value.type.tensor_type.shape.dim if d.dim_param]
        gone |= {
            n for n in names if n.strip().lower() in _ANY or (names.count(n) > 1 and not re.fullmatch(r"[A-Z]\d?", n))
        }
    if not gone:
        return model, ()
    copy = _copy(model)
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in gone:
                dim.Clear()
    return copy, tuple(sorted(gone))


def cast_bytes_first(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A graph in which bytes are cast before they are moved, which is exact; and how many nodes changed places.

    TensorRT moves no bytes: a camera's image that is transposed first and cast then is refused.
    """
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    outputs = {o.name for o in graph.output}
    copy: onnx.ModelProto | None = None
    changed = 0
    for index, node in enumerate(graph.node):
        if node.op_type not in _MOVING or types.get(node.input[0]) not in _BYTES:
            continue
        types[node.output[0]] = types[node.input[0]]
        users = readers.get(node.output[0], [])
        if len(users) != 1 or node.output[0] in outputs or graph.node[users[0]].op_type != "Cast":
            continue
        copy = copy or _copy(model)
        moving, cast = copy.graph.node[index], copy.graph.node[users[0]]
        source, middle, result = node.input[0], node.output[0], graph.node[users[0]].output[0]
        attributes, name, rest = list(moving.attribute), moving.name, list(moving.input)[1:]
        operator = moving.op_type
        first, second = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(cast)
        second.CopyFrom(moving)
        first.input[:], first.output[:] = [source], [middle]
        second.ClearField("attribute")
        second.attribute.extend(attributes)
        second.op_type, second.name = operator, name
        second.input[:], second.output[:] = [middle, *rest], [result]
        moving.CopyFrom(first)
        cast.CopyFrom(second)
        changed += 1
    if copy is None:
        return model, 0
    del copy.graph.value_info[:]
    deeper, more = cast_bytes_first(copy)
    return deeper, changed + more


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(i, i) for i in node.input]
        node.output[:] = [names.get(o, o) for o in node.output]
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(sub, names)


def _infer_outputs(model: onnx.ModelProto) -> None:
    """Give the outputs the shapes that the fixed inputs lead to."""
    del model.graph.value_info[:]
    bare = _copy(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = infer_shapes(bare, data_prop=True)
    for before, after in zip(model.graph.output, inferred.graph.output, strict=True):
        if after.type.tensor_type.HasField("shape"):
            before.type.tensor_type.shape.CopyFrom(after.type.tensor_type.shape)


def _moving(inputs: Iterable[onnx.ValueInfoProto]) -> str:
    names = []
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                names.append(dim.dim_param or f"{value.name}[{axis}]")
    return ", ".join(dict.fromkeys(names)) or "none"


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
