"""Forms that runtimes fuse, for those that exporters write and runtimes do not know.

All rewrites are exact. They are made on an exporter's raw graph, before a simplifier computes what they recognise:

- GELU below opset 20: torch writes ``x * (0.5 * (1 + erf(x / sqrt 2)))``; ONNX Runtime makes one kernel of
  ``(x * (1 + erf(x / sqrt 2))) * 0.5``. A product with 0.5 rounds nothing, so the numbers are the same.
- The transposed keys of an attention: torch folds all axes but the last two into one, transposes, and unfolds them, since
  it writes one form for every rank. Where the rank is known that is one Transpose, which runtimes make part of the product.
- Parts of a transposed tensor (see `attn_deploy.graph.transposed_parts`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from attn_deploy.graph.placed import hollow
from attn_deploy.graph.shape_inference import infer_shapes
from attn_deploy.graph.transposed_parts import transpose_parts_
from attn_deploy.graph.unread import remove_unread_
from attn_deploy.graph.view import View

_LAST = np.iinfo(np.int64).max
_FIRST = np.iinfo(np.int64).min


def write_known_forms_(model: onnx.ModelProto) -> dict[str, int]:
    """Rewrite in place; how often each rewrite was made."""
    view = View.of(model.graph)
    gelus = sum(_order_gelu_(node, view) for node in model.graph.node if node.op_type == "Mul")
    keys = _transpose_keys_(model, view)
    parts = transpose_parts_(model.graph)
    counts = (("gelu", gelus), ("transposed keys", keys), ("transposed parts", parts))
    return {name: count for name, count in counts if count}


def _order_gelu_(whole: onnx.NodeProto, view: View) -> bool:
    """Bring ``x * (0.5 * a)`` with ``a = 1 + erf(x / sqrt 2)`` into the form ``(x * a) * 0.5``."""
    for place in (0, 1):
        half, x = view.only(whole.input[place], "Mul"), whole.input[1 - place]
        raised = None if half is None else view.beside(half, 0.5)
        total = None if raised is None else view.only(raised, "Add")
        error = None if total is None else view.beside(total, 1.0)
        erf = None if error is None else view.only(error, "Erf")
        if half is None or raised is None or erf is None or not _is_scaled(erf.input[0], x, view):
            continue
        number = half.input[0] if half.input[1] == raised else half.input[1]
        half.input[:] = [x, raised]
        whole.input[:] = [half.output[0], number]
        return True
    return False


def _is_scaled(name: str, x: str, view: View) -> bool:
    """Whether a value is ``x / sqrt 2``."""
    node = view.only(name, "Div")
    return node is not None and node.input[0] == x and view.is_number(node.input[1], math.sqrt(2))


def _transpose_keys_(model: onnx.ModelProto, view: View) -> int:
    candidates = [n for n in model.graph.node if n.op_type == "Reshape" and _folded_source(n, view) is not None]
    if not candidates:
        return 0
    ranks = _ranks(model)
    count = 0
    for node in candidates:
        source = _folded_source(node, view)
        rank = None if source is None else ranks.get(source)
        if source is None or rank is None or rank < 2:
            continue
        order = [*range(rank - 2), rank - 1, rank - 2]
        node.op_type = "Transpose"
        node.input[:] = [source]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("perm", order))
        count += 1
    if count:
        remove_unread_(model.graph)
    return count


def _folded_source(outer: onnx.NodeProto, view: View) -> str | None:
    """The tensor whose last two axes a Reshape, a Transpose and this Reshape exchange; None if they do not."""
    swap = view.only(outer.input[0], "Transpose")
    if swap is None or [list(a.ints) for a in swap.attribute if a.name == "perm"] != [[0, 2, 1]]:
        return None
    inner = view.only(swap.input[0], "Reshape")
    if inner is None:
        return None
    source = str(inner.input[0])
    folded, whole = _pieces(inner.input[1], source, view), _pieces(outer.input[1], source, view)
    if folded == [(), (-2, -1), (-1, _LAST)] and whole == [(_FIRST, -2), (-1, _LAST), (-2, -1)]:
        return source
    return None


def _pieces(target: str, source: str, view: View) -> list[tuple[int, ...]] | None:
    """A target of a Reshape as slices of the source's shape, and () for -1; None where it is made of anything else."""
    joined = view.makers.get(target)
    if joined is None or joined.op_type != "Concat":
        return None
    pieces: list[tuple[int, ...]] = []
    for name in joined.input:
        if view.ints(name) == [-1]:
            pieces.append(())
            continue
        bounds = _slice_of_shape(name, source, view)
        if bounds is None:
            return None
        pieces.append(bounds)
    return pieces


def _slice_of_shape(name: str, source: str, view: View) -> tuple[int, int] | None:
    node = view.makers.get(name)
    if node is None or node.op_type != "Slice" or (len(node.input) > 4 and view.ints(node.input[4]) != [1]):
        return None
    shape = view.makers.get(node.input[0])
    if shape is None or shape.op_type != "Shape" or shape.input[0] != source:
        return None
    if any(a.name in ("start", "end") and a.i for a in shape.attribute):
        return None
    start, end = view.ints(node.input[1]), view.ints(node.input[2])
    return None if start is None or end is None or len(start) != 1 or len(end) != 1 else (start[0], end[0])


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The rank of each tensor, inferred without the weights."""
    graph = infer_shapes(hollow(model), data_prop=True).graph
    values: Sequence[onnx.ValueInfoProto] = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
