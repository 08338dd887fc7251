"""Constants that stand for "never": masks before a softmax, and bounds of a Clip beyond every number of the half type.

float32's lowest number, or -1e9, is written where a value must lose against all others. Any number far below the others does
the same, so that a graph in half precision needs one within its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.precision.ranges import Range
from attn_deploy.graph.precision.rules import CHEAP
from attn_deploy.graph.precision.types import HalfType

# The lowest of all loses here whatever its distance, and gives nothing on.
_ENDS = frozenset(
    {"Softmax", "Exp", "ReduceMax", "MaxPool", "GlobalMaxPool", "ArgMax", "Max", "Clip", "Greater", "Less"}
)
_ROLES = {"Where": (1, 2), "Add": (0, 1), "Mul": (0, 1), "Max": (0, 1), "Expand": (0,)}
_DISTANCE = 4.0  # of a mask from the values beside it, at least, and from the end of the range


@dataclass(frozen=True, slots=True)
class ClippedMask:
    """One constant that was brought into the range.

    Attributes:
        node: that reads it.
        before, after: its extreme value.
        beside: names of the other tensors that the node reads.
        most: how large the magnitude of those may be, so that nothing changes.
    """

    node: str
    before: float
    after: float
    beside: tuple[str, ...]
    most: float

    def harmless(self, ranges: Mapping[str, Range]) -> bool:
        """Whether all that was measured beside it stays as it was."""
        return all(n not in ranges or (ranges[n].finite and ranges[n].largest <= self.most) for n in self.beside)


def clip_masks(prepared: onnx.ModelProto, half: HalfType) -> tuple[onnx.ModelProto, tuple[ClippedMask, ...]]:
    """A copy of a prepared graph with its masks within the range of a half type; the graph itself where it has none.

    Masks are negative constants that reach, through cheap nodes alone, a softmax or a maximum; bounds are those of Clip.
    """
    working = ir.from_proto(prepared)
    workspace = Workspace(working)
    least = half.largest / _DISTANCE
    clipped: list[ClippedMask] = []
    for node in working.graph:
        clipped += _filled(node, least)
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
                continue
            array = np.asarray(value.const_value.numpy())
            if not array.size or not np.isfinite(array).all():
                continue
            beside = tuple(str(v.name) for k, v in enumerate(node.inputs) if v is not None and k != place)
            if node.op_type == "Clip" and place > 0 and np.abs(array).max() > half.largest:
                fitting, most = np.clip(array, -half.largest, half.largest), half.largest
            elif place in _ROLES.get(node.op_type, ()) and array.min() < -least and array.max() <= least:
                if not _loses(node):
                    continue
                fitting, most = np.maximum(array, -least), least / _DISTANCE
                most = 1.0 if node.op_type == "Mul" else most
            else:
                continue
            constant = workspace.constant(fitting.astype(np.float32), ir.DataType.FLOAT)
            node.replace_input_with(place, constant)
            worst = float(array.reshape(-1)[np.abs(array).argmax()])
            became = float(np.asarray(fitting).reshape(-1)[np.abs(array).argmax()])
            clipped.append(ClippedMask(str(node.name), worst, became, beside, most))
    if not clipped:
        return prepared, ()
    for name, value in list(working.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            working.graph.initializers.pop(name)
    return ir.to_proto(working), tuple(clipped)


def _filled(node: ir.Node, least: float) -> list[ClippedMask]:
    """A ConstantOfShape that fills a mask, with its value brought into the range."""
    fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else None
    if node.op_type != "ConstantOfShape" or fill is None or fill.dtype != np.float32:
        return []
    before = float(fill.reshape(-1)[0])
    if not np.isfinite(before) or before >= -least or not _loses(node):
        return []
    node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(np.asarray([-least], np.float32)))
    return [ClippedMask(str(node.name), before, -least, (), least / _DISTANCE)]


def _loses(node: ir.Node) -> bool:
    """Whether all that a node gives ends where the lowest value loses."""
    pending, seen = [node], {node}
    while pending:
        for output in pending.pop().outputs:
            if output.is_graph_output():
                return False
            for use in output.uses():
                reader = use.node
                if reader in seen or reader.op_type in _ENDS:
                    continue
                if reader.op_type not in CHEAP or reader.domain not in ("", "ai.onnx"):
                    return False
                seen.add(reader)
                pending.append(reader)
    return True
