"""The guard that torch writes behind the softmax of an attention, where no mask can make it needed.

``scaled_dot_product_attention`` decomposes into a softmax whose rows that are masked throughout become zeros:
IsNaN and Where behind every softmax, 13 to 19 % of a ViT's time in ONNX Runtime. A row of scores is NaN behind a softmax
only where it is -inf throughout, or holds an infinity or a NaN. Products of matrices are finite, and so is what is made of
them and of finite constants, such as a table of relative positions or a mask of -100, by sums, products and moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from attn_deploy.graph.placed import array_of
from attn_deploy.graph.unread import remove_unread_

# What gives finite numbers of inputs of the network, whatever made those: products, norms, activations.
_FINITE = frozenset(
    {
        "MatMul",
        "Gemm",
        "Conv",
        "LayerNormalization",
        "InstanceNormalization",
        "BatchNormalization",
        "Softmax",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Shape",
        "Range",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "And",
        "Or",
        "Not",
    }
)
# What gives finite numbers of finite numbers.
_KEEPING = frozenset(
    {
        *("Add", "Sub", "Mul", "Neg", "Abs", "Relu", "Clip", "Min", "Max", "Cast", "CastLike", "Identity", "Sum"),
        *("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Tile", "Concat", "Split"),
        *("Slice", "Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "Pad", "Where"),
        *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"),
    }
)
_NUMBERS = {"Reshape": 1, "Unsqueeze": 1, "Squeeze": 1, "Expand": 1, "Tile": 1, "Slice": 1, "Split": 1}
_NUMBERS |= {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ReduceSum": 1, "ReduceMean": 1, "ReduceMax": 1}
_NUMBERS |= {"ReduceMin": 1, "CastLike": 1}
_INTEGERS = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.UINT8})


def drop_needless_guards_(model: onnx.ModelProto) -> int:
    """Take IsNaN and Where away behind softmaxes of finite scores, in place; how many were there."""
    graph = model.graph
    makers = {o: n for n in graph.node for o in n.output}
    outputs = {o.name for o in graph.output}
    known = _Finiteness(graph, makers)
    renamed: dict[str, str] = {}
    for node in graph.node:
        softmax = _guarded(node, makers)
        if softmax is None or node.output[0] in outputs or not known.is_finite(softmax.input[0]):
            continue
        renamed[node.output[0]] = softmax.output[0]
    if not renamed:
        return 0
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    remove_unread_(graph)
    return len(renamed)


def _guarded(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The softmax that a Where guards: ``Where(IsNaN(s), 0, s)``."""
    if node.op_type != "Where":
        return None
    condition, softmax = makers.get(node.input[0]), makers.get(node.input[2])
    if condition is None or softmax is None or condition.op_type != "IsNaN" or softmax.op_type != "Softmax":
        return None
    return softmax if condition.input[0] == node.input[2] else None


@dataclass(slots=True)
class _Finiteness:
    """Which tensors of a graph hold finite numbers, if the network's inputs to products do.

    An input that reaches the scores by sums and moves alone may be a mask of infinities, so it counts as not finite.
    """

    graph: onnx.GraphProto
    makers: Mapping[str, onnx.NodeProto]
    _known: dict[str, bool] = field(default_factory=dict)
    _constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._constants.update({i.name: i for i in self.graph.initializer})
        inputs = {i.name: i.type.tensor_type.elem_type for i in self.graph.input}
        self._known.update({n: kind in _INTEGERS for n, kind in inputs.items() if n not in self._constants})

    def is_finite(self, name: str) -> bool:
        """Whether a tensor is known to hold finite numbers."""
        waiting = [name]
        while waiting:  # depth first without recursion: graphs are deeper than Python's stack
            current = waiting[-1]
            if current in self._known:
                waiting.pop()
                continue
            needed = list(self._needed(current))
            unknown = [n for n in needed if n not in self._known]
            if unknown:
                waiting += unknown
                continue
            self._known[current] = self._is_source(current) or (bool(needed) and all(self._known[n] for n in needed))
            waiting.pop()
        return self._known[name]

    def _is_source(self, name: str) -> bool:
        if name in self._constants:
            return bool(np.isfinite(array_of(self._constants[name])).all())
        node = self.makers.get(name)
        if node is None:
            return False
        if node.op_type == "Constant":
            return all(bool(np.isfinite(_numbers(a)).all()) for a in node.attribute)
        if node.op_type == "ConstantOfShape":
            return all(bool(np.isfinite(_numbers(a)).all()) for a in node.attribute)
        return node.op_type in _FINITE

    def _needed(self, name: str) -> Iterator[str]:
        """The tensors that must be finite for one to be."""
        node = self.makers.get(name)
        if node is None or name in self._constants:
            return
        if node.op_type == "Div" and node.input[1] in self._constants and self._is_nonzero(node.input[1]):
            yield node.input[0]
        if node.op_type not in _KEEPING:
            return
        first = 1 if node.op_type == "Where" else 0
        last = _NUMBERS.get(node.op_type, len(node.input))
        yield from (i for i in node.input[first:last] if i)

    def _is_nonzero(self, name: str) -> bool:
        return bool(np.all(array_of(self._constants[name]) != 0))


def _numbers(attribute: onnx.AttributeProto) -> Any:
    """The numbers of a Constant, however it holds them; none of one that holds text."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return array_of(value)
    return value if isinstance(value, (int, float, list)) and not isinstance(value, bytes) else np.zeros(0)
