"""Types and shapes of all values of a graph, sequences and optional values among them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from attn_deploy.graph.shape_inference import infer_shapes, inferred_as

# What makes or takes apart a value that is no tensor.
_COMPOUND = frozenset(
    {"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence"}
) | {"Optional", "OptionalGetElement"}


def holds_sequences(model: onnx.ModelProto) -> bool:
    """Whether a node of a graph, its bodies left out, makes a sequence."""
    return any(n.op_type in _COMPOUND for n in model.graph.node)


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
    unknown = [(n, n.op_type) for n in model.graph.all_nodes() if inferred_as(n)]
    for node, _ in unknown:
        node.op_type = inferred_as(node)
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
