"""Whether a graph can be run at all: nothing runs that says, before it is run, that it will not fit or not end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from attn_deploy.errors import InvalidGraphError
from attn_deploy.graph.operators import all_nodes
from attn_deploy.graph.placed import hollow
from attn_deploy.isolate import memory_allowance

_LARGEST_CONSTANT = 1 << 30  # bytes; nothing that an exporter writes comes near, and a file of 130 bytes can ask for it
_MOST_ITERATIONS = 10_000_000
_BY_ZERO = re.compile(
    r"[/%]\s*\(*\s*0+\s*\)*(?![\w.])"
)  # in the name of an axis, which exporters write as an expression
_SMALL = 4096  # elements of a constant that can be a shape, a size or a count
_DEFAULT_MEMORY = 64 << 30

# What makes a tensor larger than its inputs, with the input that says how large.
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1, "OneHot": 1, "Pad": 1, "Resize": 3, "Upsample": 1}
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
    constants = _constants(model.graph)
    suspects = False
    for node in all_nodes(model.graph):
        if node.op_type in _SHAPED or node.op_type in _DRAWN:
            suspects = True
            _check_shaped(node, constants, what)
        elif node.op_type == "Loop":
            _check_loop(node, constants, what)
    if suspects:
        _check_inferred(model, what)


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


def _check_loop(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]], what: str) -> None:
    count = constants.get(node.input[0]) if node.input and node.input[0] else None
    if count is not None and count.size == 1 and count.dtype.kind in "iu":
        times = int(count.reshape(-1)[0])
        if times > _MOST_ITERATIONS:
            raise InvalidGraphError(
                f"{what} cannot be run: {_name(node)} goes round {times:,} times; at most {_MOST_ITERATIONS:,} are run."
            )
        return
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


def _check_inferred(model: onnx.ModelProto, what: str) -> None:
    """Look at the shapes that inference follows through arithmetic on constants."""
    model = hollow(model)
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError):
        return  # the checker says so, in better words
    makers = {o: n for n in all_nodes(inferred.graph) for o in n.output}
    for value in inferred.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        node = makers.get(value.name)
        grows = node is not None and (node.op_type in _SHAPED or node.op_type in _DRAWN)
        if node is not None and grows and dims and all(d.HasField("dim_value") for d in dims):
            size = math.prod(d.dim_value for d in dims)
            _refuse_large(size, _bytes_of(value.type.tensor_type.elem_type), _name(node), what)


def _refuse_large(elements: int, width: int, node: str, what: str) -> None:
    if elements * width > _LARGEST_CONSTANT:
        raise InvalidGraphError(
            f"{what} cannot be run: {node} makes a tensor of {elements:,} elements; at most {_LARGEST_CONSTANT:,} bytes of it "
            "are made."
        )


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """The small constants of a graph and of its subgraphs, by name."""
    constants: dict[str, NDArray[np.generic]] = {}
    for tensor in _tensors(graph):
        if math.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            try:
                constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
            except (ValueError, TypeError, KeyError):
                continue  # the checker says so, in better words
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
