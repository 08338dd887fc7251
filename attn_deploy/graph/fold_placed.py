"""What depends on large weights alone, computed once: a transposed weight, one that is standardised in every run.

A simplifier does so for weights in the graph; those that lie in a file it does not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_deploy.graph.placed import INLINE, ByteRange, array_of, placed_tensors, set_place

_DRAWN = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})  # their form says how a runtime computes
_Arrays = dict[str, NDArray[np.generic]]


def fold_placed(model: onnx.ModelProto, data: Path) -> int:
    """Replace, in place, nodes that compute from large weights and other constants alone; how many went.

    Args:
        model: some of whose weights lie in a file.
        data: a new file, for large results.
    """
    heavy = {t.name for t in placed_tensors(model)}
    if not heavy:
        return 0
    constants = _Constants(model)
    folded: list[onnx.NodeProto] = []
    results: _Arrays = {}
    for node in model.graph.node:
        if not any(i in heavy for i in node.input) or not constants.decide(node):
            continue
        outputs = constants.computed(node)
        if not outputs:
            continue
        results.update(outputs)
        heavy.update(outputs)
        folded.append(node)
    if not folded:
        return 0
    for node in folded:
        model.graph.node.remove(node)
    read = {*_reads(model.graph), *(o.name for o in model.graph.output)}
    kept = [t for t in model.graph.initializer if t.name in read]
    fresh = [_tensor(name, array, data) for name, array in results.items() if name in read]
    rest = onnx.GraphProto()
    rest.initializer.extend([*kept, *fresh])
    del model.graph.initializer[:]
    model.graph.initializer.extend(rest.initializer)
    return len(folded)


class _Constants:
    """The constants of a graph, those that were computed included."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        inputs = {i.name for i in model.graph.input}
        self._tensors = {t.name: t for t in model.graph.initializer if t.name not in inputs}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._tensors[node.output[0]] = node.attribute[0].t
        self._arrays: _Arrays = {}
        self._outputs = {o.name for o in model.graph.output}

    def decide(self, node: onnx.NodeProto) -> bool:
        """Whether a node depends on constants alone, and gives what a constant can stand for."""
        known = all(i in self._tensors or i in self._arrays for i in node.input if i)
        plain = node.domain in ("", "ai.onnx") and node.op_type not in _DRAWN | _QUANTIZING
        inner = any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute)
        return known and plain and not inner and not any(o in self._outputs for o in node.output)

    def computed(self, node: onnx.NodeProto) -> _Arrays:
        """The results of a node; none where it cannot be computed here, or gives more than it is made of."""
        inputs = {n: self._array(n) for n in node.input if n}
        try:
            outputs = _run(self._model, node, inputs)
        except Exception:  # operators of the reference implementation raise whatever numpy raises; the node then stays
            return {}
        if sum(a.nbytes for a in outputs.values()) > max(a.nbytes for a in inputs.values()) + INLINE:
            return {}
        self._arrays.update(outputs)
        return outputs

    def _array(self, name: str) -> NDArray[np.generic]:
        known = self._arrays.get(name)
        return array_of(self._tensors[name]) if known is None else known


def _run(model: onnx.ModelProto, node: onnx.NodeProto, inputs: Mapping[str, NDArray[np.generic]]) -> _Arrays:
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(o) for o in node.output if o]
    graph = helper.make_graph([node], "one", values, outputs)
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    results = ReferenceEvaluator(single).run(None, dict(inputs))
    return {o.name: np.ascontiguousarray(r) for o, r in zip(outputs, results, strict=True)}


def _tensor(name: str, array: NDArray[np.generic], data: Path) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(array, name)
    if len(tensor.raw_data) > INLINE:
        with data.open("ab") as file:
            offset = file.tell()
            file.write(tensor.raw_data)
        set_place(tensor, ByteRange(data, offset, array.nbytes))
    return tensor


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _reads(sub)
                yield from (o.name for o in sub.output)
