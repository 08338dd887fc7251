"""Cutting parts out of a graph, each a valid graph of its own with symbolic axes kept.

A part cannot be cut anywhere. A size that is computed from another tensor's shape, a weight that is dequantized first, a
tensor on its way through a quantization: as an input of a network these mean something else, or nothing. What makes them
comes along, until a tensor is reached that can enter.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto
from onnx.inliner import inline_local_functions

from attn_deploy.errors import GraphError
from attn_deploy.graph.artifact import check_model
from attn_deploy.graph.shape_inference import infer_shapes

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_ENTERING = _FLOATS | {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
_TAKE_SIZES = frozenset({"Resize", "Upsample", "Range", "ConstantOfShape", "Expand", "Tile"})


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a graph.

    Attributes:
        model: the part as a graph of its own.
        nodes: indices of its nodes in the whole graph, in order; those that came along included.
        inputs, outputs: names of the tensors that enter and leave.
    """

    model: onnx.ModelProto
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Parts:
    """A graph that parts are cut out of: functions inlined, every node named, types and shapes inferred.

    Args:
        model: left alone.

    Raises:
        GraphError: if it is larger than 2 GiB, which protobuf does not copy.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = _named(model)
        graph = self.model.graph
        self.nodes = tuple(graph.node)
        self.reads = tuple(tuple(_reads(n)) for n in self.nodes)
        self.maker = {o: i for i, n in enumerate(self.nodes) for o in n.output if o}
        self.readers: dict[str, list[int]] = collections.defaultdict(list)
        for index, names in enumerate(self.reads):
            for name in dict.fromkeys(names):
                self.readers[name].append(index)
        self.weights = {i.name: i for i in graph.initializer}
        self.inputs = {i.name: i for i in graph.input if i.name not in self.weights}
        self.outputs = tuple(o.name for o in graph.output)
        self.values: Mapping[str, onnx.ValueInfoProto] = self._inferred()
        self._fixed = self._from_weights_alone()

    def part(self, nodes: Iterable[int], outputs: Sequence[str] = ()) -> Part:
        """The nodes of these indices, and what must come along.

        Args:
            nodes: indices.
            outputs: tensors that leave; by default those of the nodes that are read outside of them.

        Raises:
            GraphError: if no tensor leaves.
        """
        wanted = set(nodes)
        chosen, pending = set(wanted), list(wanted)
        while pending:
            reader = pending.pop()
            for name in self.reads[reader]:
                maker = self.maker.get(name)
                if maker is not None and maker not in chosen and not self.can_enter(name, reader):
                    chosen.add(maker)
                    pending.append(maker)
        leaving = tuple(outputs) or self._leaving(wanted, chosen)
        if not leaving:
            raise GraphError("this part of the graph has no output.")
        indices = tuple(sorted(chosen))
        results = {o for i in indices for o in self.nodes[i].output}
        read = dict.fromkeys(n for i in indices for n in self.reads[i] if n not in results)
        entering = tuple(n for n in read if n not in self.weights)
        return Part(self._write(indices, entering, leaving, tuple(read)), indices, entering, leaving)

    def up_to(self, names: Sequence[str]) -> onnx.ModelProto:
        """The whole graph as far as some tensors, which become its outputs; it takes all inputs."""
        wanted = {self.maker[n] for n in names if n in self.maker}
        needed = sorted(self._with_ancestors(wanted))
        read = dict.fromkeys(n for i in needed for n in self.reads[i])
        return self._write(needed, tuple(self.inputs), names, tuple(read))

    def can_enter(self, name: str, reader: int | None = None) -> bool:
        """Whether a tensor can be an input of a part as it can be of a network; ``reader`` is who wants it there."""
        if name in self.inputs:
            return True
        value = self.values.get(name)
        maker = self.maker.get(name)
        if maker is not None and self.nodes[maker].op_type == "DequantizeLinear":
            return False
        if value is None or name in self._fixed or not value.type.tensor_type.HasField("shape"):
            return False
        kind, rank = value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)
        if kind not in _ENTERING:
            return False
        if rank > 1:
            return True
        return kind in _FLOATS and (reader is None or self.nodes[reader].op_type not in _TAKE_SIZES)

    def ancestors(self, node: int) -> tuple[int, ...]:
        """The nodes whose results a node rests on, nearest first."""
        reached: dict[int, None] = {}
        pending = collections.deque([node])
        while pending:
            for name in self.reads[pending.popleft()]:
                maker = self.maker.get(name)
                if maker is not None and maker not in reached and maker != node:
                    reached[maker] = None
                    pending.append(maker)
        return tuple(reached)

    def _with_ancestors(self, nodes: Iterable[int]) -> set[int]:
        """The nodes and all that they rest on, each looked at once."""
        reached = set(nodes)
        pending = list(reached)
        while pending:
            for name in self.reads[pending.pop()]:
                maker = self.maker.get(name)
                if maker is not None and maker not in reached:
                    reached.add(maker)
                    pending.append(maker)
        return reached

    def leaving(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Tensors that lead out of a set of nodes and can enter elsewhere, in order of computation."""
        wanted = set(nodes)
        return tuple(n for n in self._leaving(wanted, wanted) if self.can_enter(n) or n in self.outputs)

    def _leaving(self, wanted: set[int], chosen: set[int]) -> tuple[str, ...]:
        names = []
        for index in sorted(wanted):
            for name in self.nodes[index].output:
                readers = self.readers.get(name, [])
                if name and (name in self.outputs or any(r not in chosen for r in readers)):
                    names.append(name)
        useful = [n for n in names if n in self.outputs or self.can_enter(n)]
        last = [n for n in self.nodes[max(wanted)].output if n in self.values] if wanted else []
        return tuple(useful or names or last)

    def _inferred(self) -> dict[str, onnx.ValueInfoProto]:
        try:
            inferred = infer_shapes(self.model, data_prop=True).graph
        except (ValueError, EncodeError) as error:
            raise GraphError(f"the graph cannot be cut into parts: {error}") from error
        types = {v.name: v for v in (*inferred.value_info, *inferred.output, *inferred.input)}
        return {n: v for n, v in types.items() if v.type.tensor_type.elem_type}

    def _from_weights_alone(self) -> set[str]:
        """Tensors that no input reaches: constants, and what is computed from weights."""
        fixed: set[str] = set()
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if all(n in self.weights or n in fixed for n in reads) and "Random" not in node.op_type:
                fixed.update(node.output)
        return fixed

    def _write(
        self, indices: Sequence[int], entering: Sequence[str], leaving: Sequence[str], read: Sequence[str]
    ) -> onnx.ModelProto:
        part = onnx.ModelProto()
        part.ir_version = self.model.ir_version
        part.opset_import.extend(self.model.opset_import)
        part.producer_name, part.producer_version = self.model.producer_name, self.model.producer_version
        graph = part.graph
        graph.name = self.model.graph.name or "part"
        graph.node.extend(self.nodes[i] for i in indices)
        graph.input.extend(self.values.get(n) or self.inputs[n] for n in entering)
        graph.output.extend(self.values.get(n) or onnx.ValueInfoProto(name=n) for n in leaving)
        graph.initializer.extend(self.weights[n] for n in read if n in self.weights)
        return part


def checked_part(part: Part, what: str) -> onnx.ModelProto:
    """The part's graph, which the ONNX checker takes.

    Raises:
        GraphError: if it does not.
    """
    check_model(part.model, what)
    return part.model


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, the tensors that its subgraphs take from around them included."""
    yield from (n for n in node.input if n)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            own = {i.name for i in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
            yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
            yield from (o.name for o in graph.output if o.name not in own)


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    named = onnx.ModelProto()
    named.CopyFrom(inline_local_functions(model) if model.functions else model)
    taken: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = next(
                name
                for name in (
                    node.name or f"{node.op_type}_{index}",
                    *(f"{node.op_type}_{index}_{k}" for k in range(999)),
                )
                if name not in taken
            )
        taken.add(node.name)
    return named
