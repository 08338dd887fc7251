"""Queries, keys and values of one product: taken apart first and transposed afterwards, each by itself.

``qkv.reshape(N, L, 3, heads, width).permute(2, 0, 3, 1, 4).unbind(0)`` moves a tensor of five axes at once, for which
runtimes have no kernel but the general one; the parts have four, for which they have a fast one, or which they make part
of the product that follows. The numbers are the same: nothing is computed.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from attn_deploy.graph.view import View

_LEAST_RANK = 5  # of the tensor that is transposed


def transpose_parts_(graph: onnx.GraphProto) -> int:
    """Rewrite in place; how many Transposes were taken apart.

    Those whose result is only read by Slices of one place, each with a Squeeze of that axis, or by Gathers of one place.
    """
    candidates = [n for n in graph.node if n.op_type == "Transpose" and len(_order(n)) >= _LEAST_RANK]
    branching = any(a.HasField("g") or a.graphs for n in graph.node for a in n.attribute)  # which may read anything
    if not candidates or branching:
        return 0
    view = View.of(graph)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    count = 0
    for node in candidates:
        taking = readers[node.output[0]]
        parts = [_part(n, len(_order(node)), readers, view) for n in taking]
        whole = view.readers[node.output[0]] == len(taking)  # else it is an output, or read twice by one node
        if len(parts) > 1 and whole and all(p is not None for p in parts):
            _take_apart_(graph, node, [p for p in parts if p is not None])
            count += 1
    return count


_Part = tuple[int, onnx.NodeProto, onnx.NodeProto | None]  # the axis that goes, what takes the place, and the Squeeze


def _order(node: onnx.NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def _part(node: onnx.NodeProto, rank: int, readers: dict[str, list[onnx.NodeProto]], view: View) -> _Part | None:
    if node.op_type == "Gather":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        index = view.constants.get(node.input[1])
        return (axis % rank, node, None) if index is not None and index.shape == () else None
    axes = view.ints(node.input[3]) if node.op_type == "Slice" and len(node.input) > 3 else None
    after = readers[node.output[0]]
    if axes is None or len(axes) != 1 or len(after) != 1 or view.readers[node.output[0]] != 1:
        return None
    squeeze = after[0]
    gone = view.ints(squeeze.input[1]) if squeeze.op_type == "Squeeze" and len(squeeze.input) > 1 else None
    if gone is None or len(gone) != 1 or gone[0] % rank != axes[0] % rank:
        return None
    return axes[0] % rank, node, squeeze


def _take_apart_(graph: onnx.GraphProto, node: onnx.NodeProto, parts: Sequence[_Part]) -> None:
    order = _order(node)
    taken = {n.name for n in graph.node} | {o for n in graph.node for o in n.output}
    taken |= {v.name for v in (*graph.initializer, *graph.input)}

    def unused(name: str) -> str:
        free = next(f"{name}{k or ''}" for k in itertools.count() if f"{name}{k or ''}" not in taken)
        taken.add(free)
        return free

    for axis, taking, squeeze in parts:
        source = order[axis]
        taking.input[0] = node.input[0]
        last = taking
        if squeeze is None:
            attribute = next((a for a in taking.attribute if a.name == "axis"), None)
            if attribute is not None:
                taking.attribute.remove(attribute)
            taking.attribute.append(helper.make_attribute("axis", source))
        else:
            name = unused(f"{node.output[0]}_axis")
            graph.initializer.append(numpy_helper.from_array(np.array([source], np.int64), name))
            taking.input[3] = name
            squeeze.input[1] = name
            last = squeeze
        rest = [p - (p > source) for p in order if p != source]
        if rest == sorted(rest):
            continue
        result = last.output[0]
        last.output[0] = unused(f"{result}_before")
        moved = helper.make_node("Transpose", [last.output[0]], [result], name=unused(f"{node.name}_part"), perm=rest)
        moved.metadata_props.extend(node.metadata_props)
        graph.node.insert(next(i for i, n in enumerate(graph.node) if n is last or n == last) + 1, moved)
    graph.node.remove(node)
