"""Operators that the standard itself defines as functions of others, for those that no rule writes out better."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx import defs

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import input_at
from attn_deploy.graph.opset.schemas import schema_at


def standard_function(node: ir.Node, version: int) -> onnx.FunctionProto | None:
    """The standard's own definition of a node's operator, in operators of opset ``version`` or older."""
    schema: Any = schema_at(node.op_type, version)  # the stubs of onnx lack the four members used here
    if schema is None:
        return None
    plain = [v for v in schema.function_opset_versions if v <= version]
    by_context = [v for v in schema.context_dependent_function_opset_versions if v <= version]
    if plain:
        body = schema.get_function_with_opset_version(max(plain))
    elif by_context:
        types = [onnx.TypeProto() if v is None else _type_proto(v) for v in node.inputs]
        body = schema.get_context_dependent_function_with_opset_version(
            max(by_context), ir.to_proto(node).SerializeToString(), [t.SerializeToString() for t in types]
        )
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(body)
    return function if function.node else None


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    ir.serde.serialize_value_into(info := onnx.ValueInfoProto(), value)
    proto.CopyFrom(info.type)
    return proto


def expand(node: ir.Node, op: Builder, version: int) -> list[ir.Value] | None:
    """The outputs of the standard's body for a node, in forms of ``version``; None if there is none, or it branches.

    Bodies with subgraphs are left out: runtimes for devices take no If.
    """
    schema, function = schema_at(node.op_type, version), standard_function(node, version)
    if schema is None or function is None:
        return None
    if any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for n in function.node for a in n.attribute
    ):
        return None
    values: dict[str, ir.Value | None] = {"": None}
    for index, name in enumerate(function.input):
        values[name] = input_at(node, index)
    for inner in function.node:
        attributes = {}
        for attribute in inner.attribute:
            value = _resolved(attribute, node, schema)
            if value is not None:
                attributes[attribute.name] = value
        inputs = [values[name] for name in inner.input]
        results = op.many(inner.op_type, inputs, len(inner.output), attributes)
        values.update(zip(inner.output, results, strict=True))
    outputs = [values[name] for name in function.output][: len(node.outputs)]
    return [v for v in outputs if v is not None]


def _resolved(attribute: onnx.AttributeProto, node: ir.Node, schema: defs.OpSchema) -> ir.Attr | None:
    """An attribute of the body; where it refers to one of the node, that one, its default, or None."""
    if not attribute.ref_attr_name:
        return ir.serde.deserialize_attribute(attribute)
    name = attribute.ref_attr_name
    if name in node.attributes:
        value = node.attributes[name]
        return ir.Attr(attribute.name, value.type, value.value)
    default = schema.attributes[name].default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        return None
    fallback = ir.serde.deserialize_attribute(default)
    return ir.Attr(attribute.name, fallback.type, fallback.value)
