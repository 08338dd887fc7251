"""Files that the checker refuses and runtimes run: what is wrong with them is put right in a copy, and named."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from attn_deploy.graph.shape_inference import infer_shapes

GROUP_NORM_WITHDRAWN = range(18, 21)  # opsets whose GroupNormalization has scales by group; 21 brought it anew


@dataclass(frozen=True, slots=True)
class Repaired:
    """A graph to go on with.

    Attributes:
        model: the repaired copy, or the graph itself where nothing was wrong.
        repairs: what was changed, in words.
    """

    model: onnx.ModelProto
    repairs: tuple[str, ...]


def constants_for_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the inputs that only repeat its weights, as files of IR version 3 list them."""
    weights = {i.name for i in model.graph.initializer}
    if not any(i.name in weights for i in model.graph.input):
        return model
    copy = _copy(model)
    kept = [i for i in copy.graph.input if i.name not in weights]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.ir_version = max(4, copy.ir_version)
    return copy


def repaired(model: onnx.ModelProto) -> Repaired:
    """Repair what is known to go wrong in files of other tools.

    Sizes of -1 become symbolic ones; nodes are sorted; GroupNormalization of opset 18 to 20, which the
    standard has withdrawn, is written with InstanceNormalization; declared shapes that contradict the graph are inferred
    anew.
    """
    copy = _copy(model)
    repairs = [
        *_negative_sizes(copy.graph),
        *_unsorted(copy.graph),
        *_group_norms(copy),
    ]
    if _contradicts(copy):
        repairs += _declared_shapes(copy)
    return Repaired(copy, tuple(repairs)) if repairs else Repaired(model, ())


def has_negative_size(model: onnx.ModelProto) -> bool:
    """Whether an axis of the interface has the size -1, as some exporters write for an unknown one."""
    return any(d.dim_value == -1 for v in _interface(model.graph) for d in v.type.tensor_type.shape.dim)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _interface(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output]


def _negative_sizes(graph: onnx.GraphProto) -> list[str]:
    names = []
    for value in (*_interface(graph), *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == -1:
                dim.Clear()
                names.append(value.name)
    return [f"sizes of -1 in {', '.join(dict.fromkeys(names))} read as unknown"] if names else []


def _unsorted(graph: onnx.GraphProto) -> list[str]:
    """Sort the nodes, keeping the order of those that are free of each other."""
    makers = {o: k for k, n in enumerate(graph.node) for o in n.output if o}
    needs = [{makers[i] for i in _reads(n) if i in makers and makers[i] != k} for k, n in enumerate(graph.node)]
    if all(max(before, default=-1) < k for k, before in enumerate(needs)):
        return []
    users: dict[int, list[int]] = {}
    for k, before in enumerate(needs):
        for maker in before:
            users.setdefault(maker, []).append(k)
    missing = [len(before) for before in needs]
    ready = [k for k, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        first = heapq.heappop(ready)  # of those that are free, the one that stood first
        order.append(first)
        for user in users.get(first, ()):
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(needs):
        return []  # a circle, which no order repairs: the checker says so
    nodes = [onnx.NodeProto.FromString(graph.node[k].SerializeToString()) for k in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return ["nodes sorted"]


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from (i for i in node.input if i)
    for attribute in node.attribute:
        for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {o for n in sub.node for o in n.output} | {i.name for i in sub.initializer}
            yield from (name for inner in sub.node for name in _reads(inner) if name not in own)


def _group_norms(model: onnx.ModelProto) -> list[str]:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset not in GROUP_NORM_WITHDRAWN:
        return []
    graph, nodes, count = model.graph, [], 0
    for node in graph.node:
        if node.op_type != "GroupNormalization" or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        count += 1
        nodes += _by_group(node, graph, f"attn_deploy_group_norm_{count}")
    if count:
        fresh = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(fresh)
    return [f"GroupNormalization of opset {opset} written with InstanceNormalization ({count})"] if count else []


def _by_group(node: onnx.NodeProto, graph: onnx.GraphProto, stem: str) -> list[onnx.NodeProto]:
    """One scale and one bias for each group: an InstanceNormalization whose channels are the groups."""
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    data, scale, bias = node.input[:3]
    target = numpy_helper.from_array(np.array([0, settings["num_groups"], -1], np.int64), f"{stem}_groups")
    graph.initializer.append(target)
    label = node.name or stem
    made = [
        helper.make_node("Shape", [data], [f"{stem}_shape"], name=f"{label}_Shape"),
        helper.make_node("Reshape", [data, target.name], [f"{stem}_in"], name=f"{label}_Reshape"),
        helper.make_node(
            "InstanceNormalization",
            [f"{stem}_in", scale, bias],
            [f"{stem}_out"],
            name=node.name,
            epsilon=settings.get("epsilon", 1e-5),
        ),
        helper.make_node("Reshape", [f"{stem}_out", f"{stem}_shape"], list(node.output), name=f"{label}_Back"),
    ]
    for fresh in made:
        fresh.metadata_props.extend(node.metadata_props)
    return made


def _contradicts(model: onnx.ModelProto) -> bool:
    try:
        infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        return "shape" in str(error) or "rank" in str(error)
    return False


def _declared_shapes(model: onnx.ModelProto) -> list[str]:
    """Infer the declared shapes anew, where inference without them succeeds."""
    free = _copy(model)
    del free.graph.value_info[:]
    for value in free.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = infer_shapes(free, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return []
    names = []
    for before, after in zip(model.graph.output, inferred.graph.output, strict=True):
        declared, shape = before.type.tensor_type.shape, after.type.tensor_type.shape
        if after.type.tensor_type.HasField("shape") and not _agree(declared, shape):
            before.type.tensor_type.shape.CopyFrom(shape)
            names.append(before.name)
    stale = len(model.graph.value_info)
    del model.graph.value_info[:]
    if names:
        return [f"the declared shape of {', '.join(names)} replaced by the inferred one"]
    return ["declared shapes of inner tensors dropped"] if stale else []


def _agree(declared: onnx.TensorShapeProto, inferred: onnx.TensorShapeProto) -> bool:
    if len(declared.dim) != len(inferred.dim):
        return False
    pairs = zip(declared.dim, inferred.dim, strict=True)
    return all(a.dim_value == b.dim_value for a, b in pairs if a.HasField("dim_value") and b.HasField("dim_value"))
