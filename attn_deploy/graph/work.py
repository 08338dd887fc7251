"""What a graph has to do at given input shapes: multiply-accumulates, and bytes that must move. No torch."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from attn_deploy.errors import GraphError
from attn_deploy.files import sha256_of
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.macs import Shape, node_macs
from attn_deploy.graph.scopes import NAME_SCOPES, module_path
from attn_deploy.graph.tensors import GraphTensors, infer_tensors

PRECISIONS = {
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "DOUBLE": "fp64",
    "INT8": "int8",
    "UINT8": "int8",
    "FLOAT8E4M3FN": "fp8",
    "FLOAT8E5M2": "fp8",
    "INT4": "int4",
    "UINT4": "int4",
    "FLOAT4E2M1": "fp4",
}
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "BOOL": 8}
# Another view of the same bytes, or a few numbers about a shape: nothing has to move.
_VIEWS = frozenset(
    [
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Shape",
        "Size",
        "Constant",
        "ConstantOfShape",
        "Range",
        "Dropout",
    ]
)


@dataclass(frozen=True, slots=True)
class NodeWork:
    """What one node does.

    Attributes:
        node: its name; ``operator`` its type; ``module`` the PyTorch module that it came from, empty if unknown.
        macs: multiply-accumulates; None where a shape is not known.
        bytes: of the tensors that it reads and writes; None where a shape is not known, 0 for a view.
    """

    node: str
    operator: str
    module: str
    macs: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class GraphWork:
    """What a graph has to do at given input shapes.

    Attributes:
        sha256: of the file; None for a graph in memory.
        shapes: of the inputs.
        macs: multiply-accumulates of all products, ``macs_by_precision`` by the type that they are done in: a product
            between a DequantizeLinear and its constants counts as int8, which is what runtimes fuse it into.
        input_bytes, output_bytes, weight_bytes: what has to be read and written once, each in the graph's own types.
        unfused_bytes: what moves when every node reads its inputs from memory and writes its outputs to it.
        nodes: nodes that work on data: neither views nor sums of sizes.
        unknown: nodes whose shapes are not known; with any, the counts are lower bounds.
    """

    sha256: str | None
    shapes: Mapping[str, Shape]
    macs: int
    macs_by_precision: Mapping[str, int]
    input_bytes: int
    output_bytes: int
    weight_bytes: int
    unfused_bytes: int
    nodes: int
    unknown: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations of the products: two for each multiply-accumulate."""
        return 2 * self.macs

    @property
    def bytes(self) -> int:
        """Bytes that must move even if the whole graph were one kernel."""
        return self.input_bytes + self.output_bytes + self.weight_bytes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "flops": self.flops, "bytes": self.bytes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GraphWork:
        """The inverse of `to_dict`."""
        values = {k: v for k, v in data.items() if k not in ("flops", "bytes")}
        values["shapes"] = {n: tuple(s) for n, s in values["shapes"].items()}
        return cls(**{**values, "unknown": tuple(values["unknown"])})


def graph_work(graph: Path | str | onnx.ModelProto, shapes: Mapping[str, Shape]) -> GraphWork:
    """Count the work of a graph.

    Args:
        graph: an ONNX file, or a graph in memory.
        shapes: of every input, by name.

    Raises:
        GraphError: if the file cannot be read, or the graph does not take inputs of these shapes.
    """
    model = graph if isinstance(graph, onnx.ModelProto) else load_model(Path(graph), light=True)
    tensors = _tensors(model, shapes)
    nodes = _nodes(model, tensors)
    results = {o for n in model.graph.node for o in n.output}
    by_precision: collections.Counter[str] = collections.Counter()
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    stored = {o: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    for node, work in zip(model.graph.node, nodes, strict=True):
        if work.macs:
            first = node.input[0]
            source = stored[first] if first in dequantized else first
            by_precision[_precision(tensors.types.get(source, 0))] += work.macs
    initializers = {i.name for i in model.graph.initializer}
    inputs = [i.name for i in model.graph.input if i.name not in initializers]
    live = _live(model, inputs)
    unknown = [f"{w.operator} {w.node}".strip() for w in nodes if w.macs is None or w.bytes is None]
    return GraphWork(
        sha256=None if isinstance(graph, onnx.ModelProto) else sha256_of(Path(graph)),
        shapes={n: tuple(shapes[n]) for n in inputs},
        macs=sum(w.macs or 0 for w in nodes),
        macs_by_precision=dict(sorted(by_precision.items())),
        input_bytes=sum(_size(n, tensors) or 0 for n in inputs),
        output_bytes=sum(_size(o.name, tensors) or 0 for o in model.graph.output if o.name in results),
        weight_bytes=_weights(model, tensors),
        unfused_bytes=sum(w.bytes or 0 for w in nodes),
        nodes=sum(
            w.operator not in _VIEWS and not live.isdisjoint(n.output)
            for n, w in zip(model.graph.node, nodes, strict=True)
        ),
        unknown=tuple(unknown),
    )


def node_work(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> tuple[NodeWork, ...]:
    """The work of each node, in the graph's order.

    Raises:
        GraphError: if the graph does not take inputs of these shapes.
    """
    return _nodes(model, _tensors(model, shapes))


def node_module(node: onnx.NodeProto) -> str:
    """The PyTorch module that a node came from; empty if the file does not say."""
    return module_path(node.name, next((p.value for p in node.metadata_props if p.key == NAME_SCOPES), None))


def _tensors(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> GraphTensors:
    initializers = {i.name for i in model.graph.initializer}
    missing = [i.name for i in model.graph.input if i.name not in initializers and i.name not in shapes]
    if missing:
        raise GraphError(f"the shape of the input {missing[0]!r} is not given, and the work depends on it.")
    return infer_tensors(model, shapes)


def _nodes(model: onnx.ModelProto, tensors: GraphTensors) -> tuple[NodeWork, ...]:
    nodes = []
    for node in model.graph.node:
        moved: int | None = 0
        if node.op_type not in _VIEWS:
            sizes = [_size(n, tensors) for n in (*dict.fromkeys(node.input), *node.output) if n]
            moved = None if None in sizes else sum(s or 0 for s in sizes)
        nodes.append(NodeWork(node.name, node.op_type, node_module(node), node_macs(node, tensors.shapes), moved))
    return tuple(nodes)


def _live(model: onnx.ModelProto, inputs: Sequence[str]) -> set[str]:
    """The tensors that depend on the values of the inputs, and not on their sizes alone."""
    live = set(inputs)
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and not live.isdisjoint(node.input):
            live.update(o for o in node.output if o)
    return live


def _weights(model: onnx.ModelProto, tensors: GraphTensors) -> int:
    """Bytes of the constants; of one that only quantizers read, those of its quantized form, which engines store."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    total = 0
    for tensor in model.graph.initializer:
        if tensor.name not in readers:
            continue
        size = _size(tensor.name, tensors) or 0
        total += math.prod(tensor.dims) if readers[tensor.name] == {"QuantizeLinear"} else size
    return total


def _size(name: str, tensors: GraphTensors) -> int | None:
    shape = tensors.shapes.get(name)
    if shape is None:
        return None
    return math.ceil(math.prod(shape) * _bits(tensors.types.get(name, onnx.TensorProto.FLOAT)) / 8)


def _bits(number: int) -> int:
    name = str(onnx.TensorProto.DataType.Name(number))
    return _BITS.get(name) or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(number).itemsize)


def _precision(number: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(number))
    return PRECISIONS.get(name, name.lower())
