"""Whether a graph can be run at all: nothing runs that says, before it is run, that it will not fit or not end."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray

from attn_deploy.errors import InvalidGraphError
from attn_deploy.graph.operators import all_nodes
from attn_deploy.graph.shape_inference import infer_shapes
from attn_deploy.processes import memory_allowance

_LARGEST_CONSTANT = 1 << 30  # bytes; nothing that an exporter writes comes near, and a file of 130 bytes can ask for it
_MOST_ITERATIONS = 10_000_000
_BY_ZERO = re.compile(
    r"[/%]\s*\(*\s*0+\s*\)*(?![\w.])"
)  # in the name of an axis, which exporters write as an expression
_LONGEST_LIST = 1 << 20  # elements of a tensor of one axis whose numbers inference may follow
_FEW = 16  # elements of a constant that arithmetic is followed through
_SMALL = 4096  # elements of a constant that can be a shape, a size or a count
_DEFAULT_MEMORY = 64 << 30

# What makes a tensor larger than its inputs, with the input that says how large.
_SHAPED = {
    "ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1, "OneHot": 1, "Pad": 1, "Resize": 3, "Upsample": 1,
    "MaxUnpool": 2,
}  # fmt: skip
# Arithmetic on constants by which a file gives a size or a count.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum, "Neg": np.negative,
    "Identity": np.asarray, "Cast": np.asarray, "Abs": np.abs,
    "Squeeze": lambda a, *_: a, "Unsqueeze": lambda a, *_: a, "Reshape": lambda a, *_: a,
}  # fmt: skip
_DRAWN = ("RandomNormal", "RandomUniform", "EyeLike")


def refuse_unbounded(model: onnx.ModelProto, what: str) -> None:
    """Refuse a graph whose inputs, constants or loops are beyond what a machine can hold or wait for.

    Only what shows without running anything: extents in the file, shapes that constants give, counts of loops.

    Args:
        model: the graph.
        what: it is, for messages.

    Raises:
        InvalidGraphError: with the number and where it stands.
    """
    memory = memory_allowance() or _DEFAULT_MEMORY
    for value in (*model.graph.input, *model.graph.output):
        _check_value(value, what, memory)
    fixed = {i.name for i in model.graph.initializer}
    model = _skeleton(model)
    constants = _constants(model.graph)
    for node in all_nodes(model.graph):
        if node.op_type in _SHAPED or node.op_type in _DRAWN:
            _check_shaped(node, constants, what)
    _check_loops(model.graph, constants, 1, what)
    _check_inferred(model, fixed, what, memory)


def refuse_undecodable(model: onnx.ModelProto, what: str) -> None:
    """Refuse a graph with a name that is not text: protobuf hands it out as bytes, which nothing here expects.

    Raises:
        InvalidGraphError: naming the kind of thing that has it.
    """
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    texts: tuple[tuple[str, Iterable[object]], ...] = (
        ("the metadata", (t for p in model.metadata_props for t in (p.key, p.value))),
        ("an opset's domain", (o.domain for o in model.opset_import)),
        ("the producer", (model.producer_name, model.producer_version, model.domain, model.doc_string)),
        ("the graph's name", (model.graph.name, model.graph.doc_string)),
        ("the name of an input or output", (v.name for v in values)),
        ("the name of an axis", (d.dim_param for v in values for d in v.type.tensor_type.shape.dim)),
        ("the name of a weight", (i.name for i in model.graph.initializer)),
        ("a node", (t for n in all_nodes(model.graph) for t in (n.name, n.op_type, n.domain, *n.input, *n.output))),
        ("an attribute's name", (a.name for n in all_nodes(model.graph) for a in n.attribute)),
    )
    for place, words in texts:
        if any(isinstance(word, bytes) for word in words):
            raise InvalidGraphError(f"{what} is not a valid ONNX model: {place} holds bytes that are not UTF-8 text.")


def _check_value(value: onnx.ValueInfoProto, what: str, memory: int) -> None:
    divided = next((d.dim_param for d in value.type.tensor_type.shape.dim if _BY_ZERO.search(d.dim_param)), None)
    if divided is not None:
        raise InvalidGraphError(
            f"{what} cannot be run: {value.name!r} has the axis {divided[:80]!r}, which has no extent: it divides by zero. "
            "Name the axis N or another word, and write the file again."
        )
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
    dims = [d for d in dims if d != -1]  # what some exporters write for an unknown size; see attn_deploy.graph.repair
    negative = next((d for d in dims if d < 0), None)
    if negative is not None:
        raise InvalidGraphError(f"{what} is not a valid ONNX model: {value.name!r} has an axis of extent {negative}.")
    size = math.prod(dims) * _bytes_of(value.type.tensor_type.elem_type)
    if size > memory:
        raise InvalidGraphError(
            f"{what} cannot be run: {value.name!r} has the shape {' x '.join(map(str, dims))}, which takes {size:,} bytes; "
            f"{memory:,} can be used. Make its axes dynamic, or smaller (more memory: --memory-limit)."
        )


def _check_shaped(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]], what: str) -> None:
    """Refuse a node whose constant shape alone gives more than any model's constant holds."""
    if node.op_type in _DRAWN:
        shape = next((list(a.ints) for a in node.attribute if a.name == "shape"), [])
    elif node.op_type == "Range":
        ends = [constants.get(n) for n in node.input[:3]]
        if any(e is None or e.size != 1 for e in ends):
            return
        start, limit, delta = (float(e.reshape(-1)[0]) for e in ends if e is not None)
        shape = [math.ceil((limit - start) / delta)] if delta and math.isfinite((limit - start) / delta) else [2**62]
    else:
        index = 2 if node.op_type == "Resize" and len(node.input) < 4 else _SHAPED[node.op_type]
        operand = constants.get(node.input[index]) if len(node.input) > index else None
        if operand is None or operand.size == 0 or operand.dtype.kind not in "iuf":
            return
        with np.errstate(all="ignore"):
            shape = [int(min(max(v, -(2.0**62)), 2.0**62)) for v in operand.reshape(-1).astype(np.float64)]
        if node.op_type == "Pad":
            shape = [sum(max(0, v) for v in shape) or 1]
    if node.op_type == "ConstantOfShape" and min(shape, default=0) < 0:
        raise InvalidGraphError(f"{what} is not a valid ONNX model: {_name(node)} has the shape {shape}.")
    _refuse_large(math.prod(max(1, abs(v)) for v in shape), 4, _name(node), what)


def _check_loops(graph: onnx.GraphProto, constants: Mapping[str, NDArray[np.generic]], outer: int, what: str) -> None:
    """Refuse loops that go round too often, those around them counted in, or for ever."""
    for node in graph.node:
        times = outer * (_rounds(node, constants) if node.op_type == "Loop" else 1)
        if node.op_type == "Loop" and times > _MOST_ITERATIONS:
            raise InvalidGraphError(
                f"{what} cannot be run: {_name(node)} goes round {times:,} times; at most {_MOST_ITERATIONS:,} are run."
            )
        if node.op_type == "Loop":
            _refuse_endless(node, what)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_loops(attribute.g, constants, max(1, times), what)


def _rounds(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> int:
    """How often a loop goes round, as far as constants say; 1 where they do not."""
    count = constants.get(node.input[0]) if node.input and node.input[0] else None
    known = count is not None and count.size == 1 and count.dtype.kind in "iu"
    return int(count.reshape(-1)[0]) if count is not None and known else 1


def _refuse_endless(node: onnx.NodeProto, what: str) -> None:
    if node.input and node.input[0]:
        return
    body = next((a.g for a in node.attribute if a.name == "body"), None)
    if body is None or len(body.input) < 2 or not body.output:
        return
    source = {o: n for n in body.node for o in n.output}.get(body.output[0].name)
    inner = _constants(body).get(body.output[0].name)
    forever = (inner is not None and inner.size == 1 and bool(inner.reshape(-1)[0])) or (
        source is not None and source.op_type == "Identity" and source.input[0] == body.input[1].name
    )
    if forever:
        raise InvalidGraphError(
            f"{what} cannot be run: {_name(node)} has no end: no count, and a condition that stays."
        )


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with small constants alone, large ones as inputs, and without functions of its own.

    What is in a function counts as what is not.
    """
    bones = onnx.ModelProto(ir_version=model.ir_version)
    bones.opset_import.extend(model.opset_import)
    bones.functions.extend(model.functions)
    graph = bones.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    known = {v.name for v in graph.input}
    for tensor in model.graph.initializer:
        if _is_small(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    if not model.functions:
        return bones
    try:
        return onnx.inliner.inline_local_functions(bones)
    except Exception:  # the checker says what is wrong with them, in better words
        return bones


def _is_small(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL


def _check_inferred(model: onnx.ModelProto, fixed: set[str], what: str, memory: int) -> None:
    """Look at the shapes that inference finds, then at those that it follows through arithmetic on constants.

    The second takes a number apart for each element of a long list, and for ever with a list that is never to be made.
    """
    graph = _inferred(model, follow=False)
    _check_values(graph, fixed, what, memory)
    lists = [v for v in (*graph.input, *_value_infos(graph)) if len(v.type.tensor_type.shape.dim) == 1]
    long = any(v.type.tensor_type.shape.dim[0].dim_value > _LONGEST_LIST for v in lists)
    if not long and any(n.op_type in _SHAPED or n.op_type in _DRAWN for n in all_nodes(model.graph)):
        _check_values(_inferred(model, follow=True), fixed, what, memory)


def _inferred(model: onnx.ModelProto, *, follow: bool) -> onnx.GraphProto:
    """The graph with the shapes of its tensors; without them where there can be none."""
    if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        with contextlib.suppress(
            onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError
        ):  # the checker says so, in better words
            return infer_shapes(model, data_prop=follow).graph
    return model.graph


def _check_values(graph: onnx.GraphProto, fixed: set[str], what: str, memory: int) -> None:
    """What grows a tensor, and what no input goes into, is held to the size of a constant; the rest to the memory."""
    makers = {o: n for n in all_nodes(graph) for o in n.output}
    constant = _without_inputs(graph, fixed)
    for value in (*graph.output, *_value_infos(graph)):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        node = makers.get(value.name)
        if node is None or not dims:
            continue
        whole = len(dims) == len(value.type.tensor_type.shape.dim)
        grows = node.op_type in _SHAPED or node.op_type in _DRAWN
        most = _LARGEST_CONSTANT if whole and (grows or value.name in constant) else memory
        _refuse_large(math.prod(dims), _bytes_of(value.type.tensor_type.elem_type), _name(node), what, most)


def _value_infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.value_info
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _value_infos(attribute.g)


def _without_inputs(graph: onnx.GraphProto, weights: set[str]) -> set[str]:
    """The tensors of a graph that depend on nothing that is given to it."""
    fixed = {*weights, ""}
    for node in graph.node:  # in order, as the checker wants them
        if fixed.issuperset(node.input) and not any(a.HasField("g") for a in node.attribute):
            fixed.update(node.output)
    return fixed


def _refuse_large(elements: int, width: int, node: str, what: str, most: int = _LARGEST_CONSTANT) -> None:
    if elements * width > most:
        raise InvalidGraphError(
            f"{what} cannot be run: {node} makes a tensor of {elements:,} elements; at most {most:,} bytes of it are made."
        )


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """The small constants of a graph and of its subgraphs, by name."""
    constants: dict[str, NDArray[np.generic]] = {}
    for tensor in _tensors(graph):
        if _is_small(tensor):
            try:
                constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
            except (ValueError, TypeError, KeyError):
                continue  # the checker says so, in better words
    for node in all_nodes(graph):
        operation = _ARITHMETIC.get(node.op_type)
        values = [constants.get(n) for n in node.input]
        if operation is None or not node.output or not values or any(v is None or v.size > _FEW for v in values):
            continue
        with contextlib.suppress(ValueError, TypeError), np.errstate(all="ignore"):
            constants.setdefault(node.output[0], np.asarray(operation(*values)))
    return constants


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                named = onnx.TensorProto()
                named.CopyFrom(attribute.t)
                named.name = node.output[0] if node.output else ""
                yield named
            elif node.op_type == "Constant" and attribute.name in ("value_int", "value_ints") and node.output:
                values = list(attribute.ints) or [attribute.i]
                yield onnx.numpy_helper.from_array(np.array(values, np.int64), node.output[0])
            elif attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _bytes_of(element: int) -> int:
    try:
        return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).itemsize)
    except (KeyError, ValueError, TypeError):
        return 1


def _name(node: onnx.NodeProto) -> str:
    return f"the {node.op_type} {node.name or (node.output[0] if node.output else '')!r}"
