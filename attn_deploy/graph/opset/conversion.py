"""From any opset to any other, one opset at a time."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from attn_deploy.errors import GraphError, OpsetError
from attn_deploy.graph.inference import infer_types
from attn_deploy.graph.opset import schemas
from attn_deploy.graph.opset.builder import Builder, Workspace
from attn_deploy.graph.opset.functions import expand
from attn_deploy.graph.opset.rule import Direction, NoFormError
from attn_deploy.graph.opset.table import rule_for
from attn_deploy.graph.placed import hollow
from attn_deploy.graph.scopes import NAME_SCOPES, module_path
from attn_deploy.graph.versions import IR_VERSIONS, MAX_OPSET, MIN_OPSET

_BY_DEFINITION = "by its definition in the standard"


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """A converted model and what was done to it.

    Attributes:
        model: the model at the target opset; the given one is left alone.
        source, target: the opsets.
        applied: what was changed, and at how many nodes; nodes that only needed the new number are not in it.
    """

    model: onnx.ModelProto
    source: int
    target: int
    applied: Mapping[str, int]


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that a model imports.

    Raises:
        GraphError: if it imports none.
    """
    for entry in model.opset_import:
        if entry.domain in schemas.STANDARD_DOMAINS:
            return int(entry.version)
    raise GraphError("the model imports no version of the standard operators; export it again.")


def convert_opset(model: onnx.ModelProto, target: int) -> ConversionResult:
    """Rewrite a model for another version of the standard operators.

    Every node is brought to a form of the target opset that computes the same: operators that changed their inputs or
    attributes are rewritten, operators that the target lacks are written out in others, and the rest is checked
    against the standard's schema with the element types of the graph. Functions of the model are inlined. Other domains
    stay as they are.

    Args:
        model: at an opset from 13 to 25; it is not changed.
        target: 13 to 25.

    Raises:
        OpsetError: if an operator, an attribute or an element type has no equivalent in the target; the message names
            the node, its module and the first opset that has it.
        GraphError: if the model is not valid, whatever the opset.
    """
    source = standard_opset(model)
    for number, what in ((source, "the model's opset"), (target, "the asked opset")):
        if not MIN_OPSET <= number <= MAX_OPSET:
            raise OpsetError(
                f"{what} is {number}; opsets {MIN_OPSET} to {MAX_OPSET} can be converted into each other.", exit_code=2
            )
    working = ir.from_proto(model)
    if working.functions:
        working = _inlined(working)
    interface = [(o.type, o.shape) for o in working.graph.outputs]
    working.opset_imports.pop("ai.onnx", None)
    working.opset_imports[""] = source
    applied = _walk(working, source, target)
    _check_nodes(working, target)
    for output, (kind, shape) in zip(working.graph.outputs, interface, strict=True):
        output.type, output.shape = kind, shape  # inference knows more by now; the interface is not ours to change
    converted = ir.to_proto(working)
    converted.ir_version = IR_VERSIONS[target]
    _check(converted, target)
    return ConversionResult(converted, source, target, dict(applied))


def _inlined(model: ir.Model) -> ir.Model:
    defined = {domain for domain, _, _ in model.functions}
    flat = InlinePass()(model).model
    for domain in defined - {node.domain for node in flat.graph.all_nodes()}:
        flat.opset_imports.pop(domain, None)
    return flat


def _walk(model: ir.Model, source: int, target: int) -> collections.Counter[str]:
    applied: collections.Counter[str] = collections.Counter()
    if source == target:
        return applied
    workspace = Workspace(model)
    _infer(model)
    if target < source:
        steps = [(Direction.DOWN, version, version - 1) for version in range(source, target, -1)]
    else:
        steps = [(Direction.UP, version, version) for version in range(source + 1, target + 1)]
    for direction, version, written in steps:
        done = _step(workspace, direction, version, written, target)
        model.opset_imports[""] = written
        if done:
            _infer(model)
        applied += done
    return applied


def _step(
    workspace: Workspace, direction: Direction, version: int, written: int, target: int
) -> collections.Counter[str]:
    """Carry every node over the border at ``version``; ``written`` is the opset on the far side."""
    done: collections.Counter[str] = collections.Counter()
    pending = collections.deque(workspace.model.graph.all_nodes())
    while pending:
        node = pending.popleft()
        if node.domain not in schemas.STANDARD_DOMAINS or node.graph is None:  # None: removed since
            continue
        builder = Builder(workspace, node, written)
        try:
            what, values = _rewritten(node, builder, version, direction)
        except NoFormError as error:
            raise _no_form(node, target, version, direction, str(error)) from error
        if values is not None:
            if what == _BY_DEFINITION:
                pending.extend(builder.nodes)  # in forms of this side of the border, which they have to cross as well
            for fresh in builder.nodes:
                _drop_defaults(fresh, written)
            _replace(node, builder, values)
            done[f"{node.op_type}: {what}"] += 1
        elif schemas.changes_at(node.op_type, version):
            _drop_defaults(node, written)
            schema = schemas.schema_at(node.op_type, written)
            reason = "the operator does not exist there" if schema is None else schemas.misfit(node, schema)
            if reason is not None:
                raise _no_form(node, target, version, direction, reason)
    return done


def _rewritten(
    node: ir.Node, builder: Builder, version: int, direction: Direction
) -> tuple[str, Sequence[ir.Value] | None]:
    """What a rule, or the standard's own definition, makes of a node; None where neither has to do anything."""
    rule = rule_for(node.op_type, version, direction)
    if rule is not None:
        results = rule.apply(node, builder)
        return rule.what, [results] if isinstance(results, ir.Value) else results
    if direction is Direction.DOWN and schemas.schema_at(node.op_type, builder.version) is None:
        return _BY_DEFINITION, expand(node, builder, version)
    return "", None


def _drop_defaults(node: ir.Node, opset: int) -> None:
    """Remove what goes without saying at ``opset``, where it does not exist: default attributes, inputs left out."""
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)
    schema = schemas.schema_at(node.op_type, opset)
    if schema is not None:
        for name in schemas.superfluous_attributes(node, schema):
            node.attributes.pop(name)


def _replace(node: ir.Node, builder: Builder, values: Sequence[ir.Value]) -> None:
    graph = node.graph
    if graph is None:
        raise GraphError(f"the node {node.name!r} belongs to no graph.")
    givers = [v for v in node.inputs if v is not None]
    wanted = [(old, new) for old, new in zip(node.outputs, values, strict=False) if old.name]  # "" is left out
    old, new = [o for o, _ in wanted], [n for _, n in wanted]
    ir.convenience.replace_nodes_and_values(graph, node, [node], builder.nodes, old, new)
    for added in reversed(builder.nodes):  # optional outputs that nobody reads
        if not any(o.uses() or o.is_graph_output() for o in added.outputs):
            graph.remove(added, safe=True)
    _remove_unused(givers)


def _remove_unused(values: Iterable[ir.Value]) -> None:
    """Drop constants, and what computed them, that nothing reads since their reader was replaced."""
    pending = list(values)
    while pending:
        value = pending.pop()
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        producer = value.producer()
        if producer is None:
            owner = value.graph
            if owner is not None and value.name is not None and value.name in owner.initializers:
                owner.initializers.pop(value.name)
            continue
        if producer.graph is None or any(o.uses() or o.is_graph_output() for o in producer.outputs):
            continue
        pending.extend(v for v in producer.inputs if v is not None)
        producer.graph.remove(producer, safe=True)


def _infer(model: ir.Model) -> None:
    # Lenient: the check at the end refuses a graph that contradicts itself, with a better message.
    infer_types(model)


def _check_nodes(model: ir.Model, target: int) -> None:
    """Find what the standard does not allow at the target, nodes made by rules included."""
    for node in model.graph.all_nodes():
        if node.domain not in schemas.STANDARD_DOMAINS:
            continue
        schema = schemas.schema_at(node.op_type, target)
        reason = "the operator does not exist there" if schema is None else schemas.misfit(node, schema)
        if reason is not None:
            first = schemas.first_opset_with(node, target, MAX_OPSET)
            if first is None:
                raise GraphError(f"{_describe(node)} is not valid at opset {target}, nor above: {reason}.")
            raise OpsetError(
                f"{_describe(node)} is not legal at opset {target}: {reason}. The first opset that has it is {first}: "
                f"use --opset {first} or higher."
            )


def _check(model: onnx.ModelProto, target: int) -> None:
    try:
        bare = hollow(model)
        onnx.checker.check_model(bare, full_check=bare.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(f"the graph is not valid at opset {target}: {first}") from error


def _no_form(node: ir.Node, target: int, border: int, direction: Direction, reason: str) -> OpsetError:
    if direction is Direction.DOWN:
        limit = f"The first opset that has it is {border}: use --opset {border} or higher, or change the module."
    else:
        limit = f"The last opset that has it is {border - 1}: use --opset {border - 1} or lower, or change the module."
    return OpsetError(f"{_describe(node)} has no equivalent in opset {target}: {reason}. {limit}")


def _describe(node: ir.Node) -> str:
    module = module_path(node.name or "", node.metadata_props.get(NAME_SCOPES))
    place = f"node {node.name!r}" + (f" in module {module!r}" if module else "")
    return f"{node.op_type} ({schemas.element_type(node)}; {place})"
