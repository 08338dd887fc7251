"""Simplifying a graph in a child process, with the unsimplified graph kept whenever anything is wrong.

Simplifiers are native code that has crashed on, and changed the numbers of, valid models: the child may die, and its
result is checked. Whether the numbers stayed the same is for the caller to verify.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import onnx

from attn_deploy.errors import AttnDeployError, GraphError
from attn_deploy.files import scratch_folder
from attn_deploy.graph.artifact import check_model, load_model
from attn_deploy.graph.placed import filled, hollow
from attn_deploy.graph.shape_arithmetic import shorten_shape_arithmetic
from attn_deploy.graph.softmax_memory import name_softmax_extents_
from attn_deploy.isolate import run_isolated

TOOLS = ("onnxsim", "onnxslim")
TIMEOUT_SECONDS = 300.0
# What the child process runs, as `attn_deploy.isolate` names it.
SIMPLIFIER = "attn_deploy.graph.simplifier:simplify_file"


@dataclass(frozen=True, slots=True)
class Simplified:
    """The graph to go on with.

    Attributes:
        model: the simplified graph, or the given one.
        tool: onnxsim or onnxslim; empty when the given graph was kept.
        nodes_before, nodes_after: node counts.
        reason: why a tool was not used, or its graph not kept.
    """

    model: onnx.ModelProto
    tool: str
    nodes_before: int
    nodes_after: int
    reason: str = ""


def simplify_model(model: onnx.ModelProto, *, timeout: float = TIMEOUT_SECONDS) -> Simplified:
    """Simplify with the first tool that is installed and gives a valid graph with the same interface.

    Weights that lie in a file stay there: the tool sees inputs in their place.
    """
    before = len(model.graph.node)
    reasons = []
    for tool in TOOLS:
        if importlib.util.find_spec(tool) is None:
            reasons.append(f"{tool} is not installed")
            continue
        try:
            shortened = shorten_shape_arithmetic(_run(hollow(model), tool, timeout))
            name_softmax_extents_(shortened)
            simplified = filled(shortened, model)
            _keep_module_paths(model, simplified)
            _same_interface(model, simplified, tool)
            check_model(simplified, f"the graph simplified by {tool}")
        except AttnDeployError as error:
            reasons.append(str(error))
            continue
        if _computing(simplified) > _computing(model):
            reasons.append(f"{tool} made the graph larger ({_computing(model)} to {_computing(simplified)} nodes)")
            continue
        return Simplified(simplified, tool, before, len(simplified.graph.node), "; ".join(reasons))
    return Simplified(model, "", before, before, "; ".join(reasons))


def _keep_module_paths(model: onnx.ModelProto, simplified: onnx.ModelProto) -> None:
    """Give nodes their metadata back, which names the module that they came from: simplifiers drop it."""
    by_name = {n.name: n for n in model.graph.node if n.name and n.metadata_props}
    by_output = {o: n for n in model.graph.node for o in n.output if n.metadata_props}
    for node in simplified.graph.node:
        source = by_name.get(node.name) or next((by_output[o] for o in node.output if o in by_output), None)
        if source is not None and not node.metadata_props:
            node.metadata_props.extend(source.metadata_props)


def _computing(model: onnx.ModelProto) -> int:
    """Number of nodes that run: simplifiers write numbers that they folded as Constant nodes."""
    return sum(n.op_type != "Constant" for n in model.graph.node)


def _run(model: onnx.ModelProto, tool: str, timeout: float) -> onnx.ModelProto:
    with scratch_folder() as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        source.write_bytes(model.SerializeToString())
        run_isolated(
            SIMPLIFIER,
            {"source": str(source), "target": str(target), "tool": tool},
            what=f"simplifying with {tool}",
            timeout=timeout,
        )
        return load_model(target, check_seal=False)


def _same_interface(model: onnx.ModelProto, simplified: onnx.ModelProto, tool: str) -> None:
    """Refuse another interface; what a tool came to know of axes without a name is put back as it was."""

    def opsets(m: onnx.ModelProto) -> dict[str, int]:
        return {o.domain: o.version for o in m.opset_import if o.domain in ("", "ai.onnx")}

    if opsets(model) != opsets(simplified):
        raise GraphError(f"{tool} changed the opset from {opsets(model)} to {opsets(simplified)}")
    before, after = _interface(model), _interface(simplified)
    same = [(v.name, v.type.tensor_type.elem_type) for v in before] == [
        (v.name, v.type.tensor_type.elem_type) for v in after
    ]
    named = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    if not same or not all(_known_axes_agree(a, b, named) for a, b in zip(before, after, strict=True)):
        shown = ([(v.name, v.type.tensor_type.elem_type, _axes(v)) for v in values] for values in (before, after))
        raise GraphError(f"{tool} changed the inputs or outputs from {next(shown)} to {next(shown)}")
    for old, new in zip(before, after, strict=True):
        new.type.CopyFrom(old.type)


def _interface(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {i.name for i in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in constants] + list(model.graph.output)


def _axes(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


def _known_axes_agree(before: onnx.ValueInfoProto, after: onnx.ValueInfoProto, named: set[str]) -> bool:
    """Whether numbers and the names of the inputs' axes stayed; other names are inventions of an inference."""
    if not before.type.tensor_type.HasField("shape"):
        return True
    one, other = _axes(before), _axes(after)
    held = [(a, b) for a, b in zip(one, other, strict=False) if a in named or (a and isinstance(a, int))]
    return len(one) == len(other) and all(a == b for a, b in held)
