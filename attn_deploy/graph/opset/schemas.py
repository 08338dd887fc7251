"""What the ONNX standard says of an operator at an opset: is a node legal there, as it stands?"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
from onnx import defs

STANDARD_DOMAINS = ("", "ai.onnx")


@functools.lru_cache(maxsize=4096)
def schema_at(operator: str, opset: int) -> defs.OpSchema | None:
    """The form of an operator that is in force at ``opset``; None if there is none."""
    try:
        schema = defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return None
    return None if schema.deprecated else schema


@functools.lru_cache(maxsize=4096)
def changes_at(operator: str, opset: int) -> bool:
    """Whether a new form of the operator begins at ``opset``."""
    schema = schema_at(operator, opset)
    return schema is not None and schema.since_version == opset


def first_opset_with(node: ir.Node, after: int, last: int) -> int | None:
    """The first opset above ``after`` at which the node is legal as it stands."""
    for opset in range(after + 1, last + 1):
        schema = schema_at(node.op_type, opset)
        if schema is not None and misfit(node, schema) is None:
            return opset
    return None


def superfluous_attributes(node: ir.Node, schema: defs.OpSchema) -> list[str]:
    """Attributes that ``schema`` does not know and that the node leaves at their default in its own form."""
    unknown = [n for n in node.attributes if n not in schema.attributes]
    if not unknown:
        return []
    return [n for n in unknown if _is_default(node, n, schema.since_version)]


def _is_default(node: ir.Node, name: str, below: int) -> bool:
    for opset in range(below + 1, defs.onnx_opset_version() + 1):
        newer = schema_at(node.op_type, opset)
        if newer is not None and name in newer.attributes:
            default = newer.attributes[name].default_value
            if default.type == onnx.AttributeProto.UNDEFINED:
                return False
            value = onnx.helper.get_attribute_value(default)
            present = node.attributes[name].value
            return bool(present == (value.decode() if isinstance(value, bytes) else value))
    return False


def misfit(node: ir.Node, schema: defs.OpSchema) -> str | None:
    """Why the node is not legal under ``schema``, in words; None if it is legal, as far as element types are known."""
    for name, entry in node.attributes.items():
        if name not in schema.attributes:
            value = entry.value if entry.type in (ir.AttributeType.INT, ir.AttributeType.STRING) else "..."
            return f"the attribute {name}={value} does not exist there"
    if len(node.inputs) > schema.max_input:
        return f"its input {len(node.inputs)} does not exist there"
    if sum(1 for o in node.outputs if o.uses() or o.is_graph_output()) > schema.max_output:
        return f"its {len(node.outputs)} outputs do not exist there"
    bound: dict[str, str] = {}
    for value, formal in [*_pair(node.inputs, schema.inputs), *_pair(node.outputs, schema.outputs)]:
        kind = type_string(value)
        if value is None or kind is None:
            continue
        if kind not in formal.types:
            return f"{formal.name or value.name} may not be {kind.removeprefix('tensor(').removesuffix(')')} there"
        if not formal.is_homogeneous:
            continue
        first_kind = bound.setdefault(formal.type_str, kind)
        if first_kind != kind:
            return f"{formal.name or value.name} is {kind} where {first_kind} is needed"
    return None


def _pair(
    values: Sequence[ir.Value | None], formals: Sequence[defs.OpSchema.FormalParameter]
) -> Iterator[tuple[ir.Value | None, defs.OpSchema.FormalParameter]]:
    for index, value in enumerate(values):
        if formals:
            yield value, formals[min(index, len(formals) - 1)]  # the last one may be variadic


def type_string(value: ir.Value | None) -> str | None:
    """The type of a value as schemas write it, such as ``tensor(float)``; None if it is unknown."""
    return None if value is None or value.type is None else _type_string(value.type)


def _type_string(kind: ir.TypeProtocol) -> str | None:
    if isinstance(kind, ir.SequenceType):
        inner = _type_string(kind.elem_type)
        return None if inner is None else f"seq({inner})"
    if isinstance(kind, ir.OptionalType):
        inner = _type_string(kind.elem_type)
        return None if inner is None else f"optional({inner})"
    if isinstance(kind, ir.TensorType) and kind.dtype != ir.DataType.UNDEFINED:
        return f"tensor({kind.dtype.name.lower()})"
    return None


def element_type(node: ir.Node) -> str:
    """The element type a node works on, in words, for messages."""
    for value in (*node.inputs[:1], *node.outputs[:1]):
        if value is not None and value.dtype is not None:
            name = value.dtype.name.lower()
            return {"float": "float32", "double": "float64"}.get(name, name)
    return "unknown element type"
