"""The guard that torch writes behind the softmax of an attention, where no mask can make it needed.

``scaled_dot_product_attention`` decomposes into a softmax whose rows that are masked throughout become zeros:
IsNaN and Where behind every softmax, 13 to 19 % of a ViT's time in ONNX Runtime. Without a mask the scores are products,
which are finite, and so is their softmax.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

_SCALES = ("Mul", "Div")


def drop_needless_guards_(model: onnx.ModelProto) -> int:
    """Take IsNaN and Where away behind softmaxes of plain products, in place; how many were there."""
    graph = model.graph
    makers = {o: n for n in graph.node for o in n.output}
    constants = {i.name for i in graph.initializer}
    constants |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    outputs = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    dropped = set()
    for node in graph.node:
        softmax = _guarded(node, makers)
        if softmax is None or node.output[0] in outputs or not _is_product(softmax.input[0], makers, constants):
            continue
        renamed[node.output[0]] = softmax.output[0]
        dropped.add(node.output[0])
    if not renamed:
        return 0
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    _remove_unread_(graph, dropped)
    return len(renamed)


def _guarded(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The softmax that a Where guards: ``Where(IsNaN(s), 0, s)``."""
    if node.op_type != "Where":
        return None
    condition, softmax = makers.get(node.input[0]), makers.get(node.input[2])
    if condition is None or softmax is None or condition.op_type != "IsNaN" or softmax.op_type != "Softmax":
        return None
    return softmax if condition.input[0] == node.input[2] else None


def _is_product(name: str, makers: Mapping[str, onnx.NodeProto], constants: set[str]) -> bool:
    """Whether a tensor is a product of matrices, scaled by constants or not."""
    node = makers.get(name)
    while node is not None and node.op_type in _SCALES:
        rest = [i for i in node.input if i not in constants]
        if len(rest) != 1:
            return False
        node = makers.get(rest[0])
    return node is not None and node.op_type == "MatMul"


def _remove_unread_(graph: onnx.GraphProto, dropped: set[str]) -> None:
    """Remove the nodes whose results nobody reads any more, beginning with those that were dropped."""
    waiting = [n for n in graph.node if n.output[0] in dropped]
    outputs = {o.name for o in graph.output}
    while waiting:
        node = waiting.pop()
        read = {i for n in graph.node for i in n.input} | outputs
        if any(o in read for o in node.output):
            continue
        inputs = list(node.input)
        graph.node.remove(node)
        waiting += [n for n in graph.node if n.op_type == "IsNaN" and n.output[0] in inputs]
