"""Types and shapes of all values of a graph, sequences and optional values among them, and where onnx infers nothing."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

# What makes or takes apart a value that is no tensor.
_COMPOUND = frozenset(
    {"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence"}
) | {"Optional", "OptionalGetElement"}


def holds_sequences(model: onnx.ModelProto) -> bool:
    """Whether a node of a graph, its bodies left out, makes a sequence."""
    return any(n.op_type in _COMPOUND for n in model.graph.node)


# Of what onnx infers nothing, and what is inferred alike: it takes the same inputs and gives the first one's type and shape.
_INFERRED_AS = {"GroupNormalization": "InstanceNormalization"}


def infer_shapes(model: onnx.ModelProto, *, data_prop: bool = False, strict_mode: bool = False) -> onnx.ModelProto:
    """As `onnx.shape_inference.infer_shapes`, and through the operators that it stops at; the model is left alone.

    Raises:
        InferenceError: of onnx, in strict mode.
    """
    if not any(_inferred_as(n) for n in _nodes(model.graph)):
        return onnx.shape_inference.infer_shapes(model, data_prop=data_prop, strict_mode=strict_mode)
    working = onnx.ModelProto()
    working.CopyFrom(model)
    for node in _nodes(working.graph):
        node.op_type = _inferred_as(node) or node.op_type
    inferred = onnx.shape_inference.infer_shapes(working, data_prop=data_prop, strict_mode=strict_mode)
    for node, given in zip(_nodes(inferred.graph), _nodes(model.graph), strict=True):
        node.op_type = given.op_type
    return inferred


def _inferred_as(node: onnx.NodeProto | ir.Node) -> str:
    """Another operator in whose place a node is inferred; empty where onnx knows it."""
    return _INFERRED_AS.get(node.op_type, "") if node.domain in ("", "ai.onnx") else ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(body)


def infer_types(model: ir.Model) -> None:
    """Infer what onnx can, leniently; the model is changed.

    The pass of onnx_ir knows tensors alone, and would make one of a sequence that no one has declared.
    """
    kinds: dict[str, ir.TypeProtocol] = {}
    if any(n.op_type in _COMPOUND for n in model.graph.all_nodes()):
        proto = infer_shapes(ir.to_proto(model), data_prop=True)
        for declared in _values(proto.graph):
            if declared.type.WhichOneof("value") in ("sequence_type", "optional_type"):
                inferred = ir.serde.deserialize_type_proto_for_type(declared.type)
                if inferred is not None:
                    kinds[declared.name] = inferred
    unknown = [(n, n.op_type) for n in model.graph.all_nodes() if _inferred_as(n)]
    for node, kind in unknown:
        node.op_type = _INFERRED_AS[kind]
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        for node, kind in unknown:
            node.op_type = kind
    for value in (v for n in model.graph.all_nodes() for v in n.outputs):
        if value.name in kinds:
            value.type, value.shape = kinds[value.name], None


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Of a graph and of the bodies in it."""
    yield from (*graph.value_info, *graph.output)
    for attribute in (a for n in graph.node for a in n.attribute):
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from _values(body)


def is_tensor(value: ir.Value | None) -> bool:
    """Whether a value is a tensor, as far as is known; sequences have an element type too."""
    return value is not None and (value.type is None or isinstance(value.type, ir.TensorType))
