"""Making the nodes that replace a node, with its place and its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

INT64_MAX = int(np.iinfo(np.int64).max)
_CAST_FIRST = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class Workspace:
    """A model under conversion: names in use, and constants that were added, shared between all nodes."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._names: set[str] = set()
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        for graph in model.graphs():
            self._names.update(v.name for v in graph.inputs if v.name)
            self._names.update(graph.initializers)
            for node in graph:
                self._names.update(v.name for v in node.outputs if v.name)
                if node.name:
                    self._names.add(node.name)

    def unique(self, wish: str) -> str:
        """A name that no value and no node of any (sub)graph has: ONNX forbids shadowing."""
        name, count = wish, 1
        while name in self._names:
            count += 1
            name = f"{wish}_{count}"
        self._names.add(name)
        return name

    def constant(self, array: NDArray[Any], dtype: ir.DataType) -> ir.Value:
        """An initializer of the main graph, which subgraphs see too; equal ones are shared."""
        array = np.array(array, order="C")  # ascontiguousarray would give a scalar an axis
        tensor = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype)
        key = (dtype, tuple(array.shape), tensor.tobytes())
        twin = self._constants.get(key)
        if twin is not None and twin.name in self.model.graph.initializers:
            return twin
        name = self.unique(f"opset_const_{len(self._constants)}")
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
        tensor.name = name
        self.model.graph.register_initializer(value)
        self._constants[key] = value
        return value


class Builder:
    """Makes nodes in the form of one opset, in the place of one node.

    Attributes:
        version: the opset whose forms are written.
        nodes: the nodes made so far, in order.
    """

    def __init__(self, workspace: Workspace, node: ir.Node, version: int) -> None:
        self.version = version
        self.nodes: list[ir.Node] = []
        self._workspace = workspace
        self._node = node

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """One node with one output; attributes that are None are left out."""
        return self.many(op_type, inputs, 1, attributes)[0]

    def many(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        attributes: Mapping[str, Any],
        name: str | None = None,
    ) -> Sequence[ir.Value]:
        """One node with several outputs."""
        present = {k: v for k, v in attributes.items() if v is not None}
        base = self._node.name or self._node.op_type
        node = ir.Node(
            "",
            op_type,
            _without_trailing_none(inputs),
            ir.convenience.convert_attributes(present),
            outputs=[ir.Value(name=self._workspace.unique(f"{base}_{op_type}_out")) for _ in range(outputs)],
            name=name or self._workspace.unique(f"{base}_{op_type}"),
            metadata_props=dict(self._node.metadata_props),
        )
        node.doc_string = self._node.doc_string
        self.nodes.append(node)
        return node.outputs

    def same(
        self,
        *,
        inputs: Sequence[ir.Value | None] | None = None,
        drop: Sequence[str] = (),
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """The node again, under its own name, with other inputs, without some attributes, or with others."""
        kept = {k: a for k, a in self._node.attributes.items() if k not in drop and k not in attributes}
        return self.many(
            self._node.op_type,
            self._node.inputs if inputs is None else inputs,
            len(self._node.outputs),
            {**kept, **attributes},
            name=self._node.name,
        )

    def constant(self, value: Any, dtype: ir.DataType) -> ir.Value:
        """A constant of any element type."""
        return self._workspace.constant(np.asarray(value), dtype)

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A 1-D int64 constant."""
        return self.constant(np.asarray(values, np.int64), ir.DataType.INT64)

    def index(self, value: int) -> ir.Value:
        """A scalar int64 constant."""
        return self.constant(np.asarray(value, np.int64), ir.DataType.INT64)

    def reduce(self, op_type: str, data: ir.Value, axes: Sequence[int], keepdims: bool = True) -> ir.Value:
        """A reduction over ``axes``, as an attribute below opset 18 and as an input from there on (ReduceSum: 13)."""
        if self.version >= (13 if op_type == "ReduceSum" else 18):
            return self(op_type, data, self.ints(axes), keepdims=int(keepdims))
        return self(op_type, data, axes=list(axes), keepdims=int(keepdims))

    def extent(self, data: ir.Value, axis: int) -> ir.Value:
        """The extent of ``axis`` as an int64 tensor of one element, a constant where it is known."""
        if data.shape is not None:
            size = data.shape[axis]
            if isinstance(size, int):
                return self.ints([size])
        return self("Gather", self("Shape", data), self.ints([axis]), axis=0)

    def in_float32(self, data: ir.Value) -> ir.Value:
        """The data in float32 if it is a half type, as operators with ``stash_type`` compute; itself otherwise."""
        return self("Cast", data, to=int(ir.DataType.FLOAT)) if data.dtype in _CAST_FIRST else data

    def back(self, result: ir.Value, data: ir.Value) -> ir.Value:
        """The opposite of `in_float32`: ``result`` in the element type of ``data``."""
        return self("Cast", result, to=int(data.dtype)) if data.dtype in _CAST_FIRST else result


def _without_trailing_none(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    return kept
