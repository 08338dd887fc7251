"""Writing the types that a plan decided: element types, weights, and one cast for each value that changes sides."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from attn_deploy.errors import PrecisionError
from attn_deploy.graph.artifact import check_model
from attn_deploy.graph.fold import fold_weights
from attn_deploy.graph.inference import infer_types, is_tensor
from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.opset.schemas import schema_at
from attn_deploy.graph.precision import rules
from attn_deploy.graph.precision.plan import PrecisionPlan
from attn_deploy.graph.precision.types import HalfType

_FLOAT = ir.DataType.FLOAT
_MAX_SHARE_LOST = 0.01  # of a tensor's weights; more is worth a line in the record


@dataclass(frozen=True, slots=True)
class TypedGraph:
    """A graph in half precision and what was done to it.

    Attributes:
        model: the graph.
        half_nodes, wide_nodes: nodes that compute in the half type, and in fp32.
        products: convolutions and matrix products by the type that they multiply.
        casts: nodes that only change a type.
        lost: weights of which many vanish in the half type: name, and the share that does.
    """

    model: onnx.ModelProto
    half_nodes: int
    wide_nodes: int
    products: Mapping[str, int]
    casts: int
    lost: tuple[tuple[str, float], ...]


def prepared_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in the form that plans and measurements want: no functions, constants as initializers, typed, nodes named.

    Raises:
        PrecisionError: if the graph is quantized, or has no float32 tensor.
    """
    working = ir.from_proto(model)
    if working.functions:
        working = InlinePass()(working).model
    quantized = sorted({n.op_type for n in working.graph if n.op_type in rules.QUANTIZED})
    if quantized:
        raise PrecisionError(
            f"the graph holds {', '.join(quantized)}: it is quantized already. Convert the file from before the "
            "quantization, and quantize that one."
        )
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(working)
    fold_weights(working)
    infer_types(working)
    workspace = Workspace(working)
    for node in list(working.graph):
        if node.op_type == "CastLike" and node.domain in ("", "ai.onnx"):
            _cast_to_type(working.graph, node)
    taken: set[str] = set()
    for index, node in enumerate(working.graph):
        if not node.name or node.name in taken:
            node.name = workspace.unique(node.name or f"{node.op_type}_{index}")
        taken.add(node.name)
    floats = [v for n in working.graph for v in n.outputs if v.dtype == _FLOAT and is_tensor(v)]
    if not floats:
        kinds = sorted({v.dtype.name.lower() for n in working.graph for v in n.outputs if v.dtype is not None})
        raise PrecisionError(
            f"the graph computes in {', '.join(kinds) or 'no known type'}, and only fp32 is converted."
        )
    return ir.to_proto(working)


def _cast_to_type(graph: ir.Graph, node: ir.Node) -> None:
    """A Cast in place of a CastLike, whose pattern may get another type."""
    like = node.inputs[1]
    if like is None or like.dtype in (None, ir.DataType.UNDEFINED) or not is_tensor(like):
        return
    result = ir.Value(name=None, type=ir.TensorType(_known(like)), shape=node.outputs[0].shape)
    cast = ir.Node(
        "",
        "Cast",
        [node.inputs[0]],
        ir.convenience.convert_attributes({"to": int(_known(like))}),
        outputs=[result],
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    ir.convenience.replace_nodes_and_values(graph, node, [node], [cast], list(node.outputs), [result])


def apply_plan(model: ir.Model, plan: PrecisionPlan, *, same_io: bool) -> TypedGraph:
    """Give a prepared graph the types of a plan. The model is changed.

    Args:
        model: as `prepared_graph` gives it.
        plan: the decision.
        same_io: inputs and outputs take the half type too.

    Raises:
        PrecisionError: if the standard does not allow the result.
    """
    writer = _Writer(model, plan)
    nodes = list(model.graph)
    for value in [*model.graph.inputs]:
        if same_io and value.dtype == _FLOAT and not value.is_initializer():
            value.dtype = plan.half.dtype
    half_nodes = sum(writer.retype(node) for node in nodes)
    wide_nodes = sum(1 for n in nodes if any(v.dtype == _FLOAT for v in n.outputs))
    _outputs(model, writer, plan.half.dtype, plan.half.dtype if same_io else _FLOAT)
    writer.drop_unused()
    products: collections.Counter[str] = collections.Counter()
    for node in model.graph:
        if node.op_type in rules.PRODUCTS and node.inputs[0] is not None and node.inputs[0].dtype is not None:
            products[_numpy_name(node.inputs[0].dtype)] += 1
    typed = ir.to_proto(model)
    del typed.graph.value_info[:]
    try:
        check_model(typed, f"the graph in {plan.half.word}")
    except Exception as error:
        raise PrecisionError(f"the graph cannot be written in {plan.half.word}: {error}") from error
    return TypedGraph(typed, half_nodes, wide_nodes, dict(products), writer.casts, tuple(writer.lost))


class _Writer:
    """Values in both types, each made once."""

    def __init__(self, model: ir.Model, plan: PrecisionPlan) -> None:
        self.casts = 0
        self.lost: list[tuple[str, float]] = []
        self._model, self._plan = model, plan
        self.workspace = Workspace(model)
        self._opset = model.opset_imports.get("", 0)
        self._twins: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def retype(self, node: ir.Node) -> bool:
        """Give one node its types; whether it now computes in the half type."""
        if node.op_type in rules.INDIFFERENT:
            return self._retype_cast(node)
        self._keep_bodies(node)
        wide = self._plan.keeps(node)
        half = self._plan.half.dtype
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (_FLOAT, half) or not is_tensor(value):
                continue
            wanted = _FLOAT if wide or not self._may_be_half(node, index) else half
            if value.dtype != wanted:
                node.replace_input_with(index, self.as_type(value, wanted))
        if wide:
            return False
        floats = [v for v in node.outputs if v.dtype == _FLOAT and is_tensor(v)]
        for value in floats:
            value.dtype = half
        if node.op_type == "Attention":  # its softmax sums in float32, as one of its own would
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(_FLOAT))
        if floats:
            self._retype_attribute(node)
        return bool(floats)

    def _keep_bodies(self, node: ir.Node) -> None:
        """Bodies of If, Loop and Scan stay whole: what they read from outside comes to them in its old type."""
        for attribute in node.attributes.values():
            if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                continue
            bodies = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
            for inner in (n for body in bodies for n in body.all_nodes()):
                for index, value in enumerate(inner.inputs):
                    if value is not None and value.dtype == self._plan.half.dtype and value.graph is self._model.graph:
                        inner.replace_input_with(index, self.as_type(value, _FLOAT))

    def as_type(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in a type: a converted weight, or a cast right behind what makes it, shared by all who ask."""
        if value.dtype == dtype:
            return value
        twin = self._twins.get((value, dtype))
        if twin is not None:
            return twin
        if value.is_initializer() and not value.is_graph_input():
            typed = self._converted(value, self._plan.half) if dtype != _FLOAT else self._widened(value)
        else:
            typed = self._cast(value, dtype)
        self._twins[value, dtype] = typed
        self._twins[typed, _other(dtype, self._plan.half)] = value
        return typed

    def drop_unused(self) -> None:
        """Remove weights in a type that nobody reads; those that replace them take their name."""
        initializers = self._model.graph.initializers
        twins = {value: twin for (value, dtype), twin in self._twins.items() if dtype == self._plan.half.dtype}
        for name, value in list(initializers.items()):
            if value.uses() or value.is_graph_output() or value.is_graph_input():
                continue
            initializers.pop(name)
            if value in twins and twins[value].is_initializer():
                twins[value].name = name

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = self.workspace.unique(f"{value.name}_{_numpy_name(dtype)}")
        result = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        producer = value.producer()
        node = ir.Node(
            "",
            "Cast",
            [value],
            ir.convenience.convert_attributes({"to": int(dtype)}),
            outputs=[result],
            name=self.workspace.unique(f"{value.name}_Cast"),
            metadata_props=dict(producer.metadata_props) if producer is not None else None,
        )
        if producer is not None:
            self._model.graph.insert_after(producer, node)
        else:
            self._model.graph.insert_before(self._model.graph[0], node)
        self.casts += 1
        return result

    def _converted(self, value: ir.Value, half: HalfType) -> ir.Value:
        if value.const_value is None:
            raise PrecisionError(f"the weights {value.name!r} are not in the file, so they cannot be converted.")
        array = np.asarray(value.const_value.numpy())
        typed = rounded_to_half(array, half)
        alive = array != 0
        lost = float((typed.astype(np.float32)[alive] == 0).mean()) if alive.any() else 0.0
        if lost > _MAX_SHARE_LOST:
            self.lost.append((str(value.name), lost))
        name = self.workspace.unique(f"{value.name}_{half.name}")
        tensor = ir.Tensor(typed, dtype=half.dtype, name=name)
        weights = ir.Value(name=name, type=ir.TensorType(half.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._model.graph.register_initializer(weights)
        return weights

    def _widened(self, value: ir.Value) -> ir.Value:
        """A constant that was half in the source, for a node that stays in fp32."""
        if value.const_value is None:
            raise PrecisionError(f"the weights {value.name!r} are not in the file, so they cannot be converted.")
        array = np.asarray(value.const_value.numpy()).astype(np.float32)
        name = self.workspace.unique(f"{value.name}_float32")
        tensor = ir.Tensor(array, dtype=_FLOAT, name=name)
        wide = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=ir.Shape(array.shape), const_value=tensor)
        self._model.graph.register_initializer(wide)
        return wide

    def _may_be_half(self, node: ir.Node, index: int) -> bool:
        schema = schema_at(node.op_type, self._opset)
        if schema is None or not schema.inputs:
            return False
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        return f"tensor({self._plan.half.name})" in formal.types

    def _retype_cast(self, node: ir.Node) -> bool:
        """A node that reads any type; a Cast to float32 becomes one to the half type."""
        wide = self._plan.keeps(node)
        if node.op_type != "Cast" or node.outputs[0].dtype != _FLOAT or wide:
            return False
        node.outputs[0].dtype = self._plan.half.dtype
        node.attributes["to"] = ir.AttrInt64("to", int(self._plan.half.dtype))
        return True

    def _retype_attribute(self, node: ir.Node) -> None:
        """The value of a ConstantOfShape, and the type that EyeLike and the like name."""
        half = self._plan.half
        if node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            array = np.zeros(1, np.float32) if fill is None else np.asarray(fill.as_tensor().numpy())
            node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(rounded_to_half(array, half), dtype=half.dtype))
        elif "dtype" in node.attributes and node.attributes["dtype"].as_int() == int(_FLOAT):
            node.attributes["dtype"] = ir.AttrInt64("dtype", int(half.dtype))


def rounded_to_half(array: NDArray[np.float32], half: HalfType) -> NDArray[np.generic]:
    """The array rounded to the nearest values of a half type."""
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(half.dtype.numpy())


def _outputs(model: ir.Model, writer: _Writer, half: ir.DataType, wanted: ir.DataType) -> None:
    """Cast the graph's outputs to the type of the interface, under their own names."""
    for index, value in enumerate(model.graph.outputs):
        if value.dtype not in (_FLOAT, half) or value.dtype == wanted or not is_tensor(value):
            continue
        if value.is_graph_input():
            raise PrecisionError(f"the output {value.name!r} is an input of the graph: it has one type only.")
        name = str(value.name)
        typed = writer.as_type(value, wanted)
        value.name = writer.workspace.unique(f"{name}_{_numpy_name(_known(value))}")
        typed.name = name
        model.graph.outputs[index] = typed


def _known(value: ir.Value) -> ir.DataType:
    if value.dtype is None:
        raise PrecisionError(f"the element type of {value.name!r} is not known.")
    return value.dtype


def _other(dtype: ir.DataType, half: HalfType) -> ir.DataType:
    return half.dtype if dtype == _FLOAT else _FLOAT


def _numpy_name(dtype: ir.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(dtype.name.lower(), dtype.name.lower())
