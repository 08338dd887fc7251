"""Nodes that nobody needs any more, once a graph was rewritten."""

from __future__ import annotations

import onnx


def remove_unread_(graph: onnx.GraphProto) -> None:
    """Remove the nodes whose results nobody reads, in place."""
    needed = {o.name for o in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                needed.update(_read_in(sub))
    kept = []
    for node in reversed(graph.node):
        if any(o in needed for o in node.output):
            needed.update(node.input)
            kept.append(node)
    if len(kept) < len(graph.node):
        ordered = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
        del graph.node[:]
        graph.node.extend(ordered)


def _read_in(graph: onnx.GraphProto) -> set[str]:
    """What the nodes of a subgraph read, of it and of the graphs around it."""
    names = {o.name for o in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                names |= _read_in(sub)
    return names
