"""Writing a plan into a graph: one pair of QuantizeLinear and DequantizeLinear a tensor, weights stored in 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from attn_deploy.errors import PrecisionError
from attn_deploy.graph.artifact import check_model
from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.quantize.formats import QuantFormat
from attn_deploy.graph.quantize.layers import Layer

_SMALLEST_SCALE = {ir.DataType.FLOAT: 2.0**-126, ir.DataType.FLOAT16: 2.0**-14}  # below, a scale loses digits


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """A graph with its pairs.

    Attributes:
        model: the graph.
        pairs: activations that are quantized.
        weights: tensors of weights that are stored in 8 bits.
    """

    model: onnx.ModelProto
    pairs: int
    weights: int


def insert_pairs(
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, float],
    form: QuantFormat,
    *,
    without: Collection[str] = (),
) -> QuantizedGraph:
    """Quantize the products of a prepared graph.

    Args:
        prepared: as `attn_deploy.graph.quantize.layers.quantizable_graph` gives it.
        layers: those of its plan.
        ranges: the largest magnitude of each activation, by tensor name.
        form: the type.
        without: names of nodes that are left as they are.

    Raises:
        PrecisionError: if the standard does not allow the result.
    """
    model = ir.from_proto(prepared)
    writer = _Writer(model, form)
    nodes = {n.name: n for n in model.graph}
    for layer in layers:
        if layer.node in without:
            continue
        node = nodes[layer.node]
        value = _given(node, 0)
        node.replace_input_with(0, writer.activation(value, ranges[str(value.name)]))
        node.replace_input_with(1, writer.weights(_given(node, 1), layer.axis))
    writer.drop_unused()
    quantized = ir.to_proto(model)
    del quantized.graph.value_info[:]
    try:
        check_model(quantized, f"the graph in {form.word}")
    except Exception as error:
        raise PrecisionError(f"the graph cannot be written in {form.word}: {error}") from error
    return QuantizedGraph(quantized, writer.pairs, writer.stored)


def _given(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    if value is None:
        raise ValueError(f"{node.name} has no input {place}; plans name only inputs that are there")
    return value


class _Writer:
    """Each activation quantized once, for all who read it so; weights once for each reader.

    ONNX Runtime cannot load a file in which two products read one tensor of 8-bit weights.
    """

    def __init__(self, model: ir.Model, form: QuantFormat) -> None:
        self.pairs, self.stored = 0, 0
        self._graph, self._form = model.graph, form
        self._workspace = Workspace(model)
        self._activations: dict[ir.Value, ir.Value] = {}
        self._replaced: list[ir.Value] = []

    def activation(self, value: ir.Value, largest: float) -> ir.Value:
        """The value after a pair with one scale, which sits right behind what makes it."""
        twin = self._activations.get(value)
        if twin is not None:
            return twin
        dtype = _element_type(value)
        scale = self._scale(np.asarray(self._form.scale(np.asarray(largest))), dtype, f"{value.name}_scale")
        zero = self._zero(f"{value.name}_zero_point", ())
        quantized = ir.Value(
            name=self._unique(f"{value.name}_{self._form.word}"),
            type=ir.TensorType(self._form.dtype),
            shape=value.shape,
        )
        restored = ir.Value(
            name=self._unique(f"{value.name}_from_{self._form.word}"), type=ir.TensorType(dtype), shape=value.shape
        )
        producer = value.producer()
        metadata = dict(producer.metadata_props) if producer is not None else None
        pair = [
            ir.Node(
                "",
                operator,
                [taken, scale, zero],
                outputs=[result],
                name=self._unique(f"{value.name}_{operator}"),
                metadata_props=dict(metadata) if metadata else None,
            )
            for operator, taken, result in (
                ("QuantizeLinear", value, quantized),
                ("DequantizeLinear", quantized, restored),
            )
        ]
        if producer is not None:
            self._graph.insert_after(producer, pair)
        else:
            self._graph.insert_before(self._graph[0], pair)
        self.pairs += 1
        self._activations[value] = restored
        return restored

    def weights(self, value: ir.Value, axis: int | None) -> ir.Value:
        """The weights stored in the type, behind a DequantizeLinear."""
        if value.const_value is None:
            raise PrecisionError(f"the weights {value.name!r} are not in the file, so they cannot be quantized.")
        dtype = _element_type(value)
        array = np.asarray(value.const_value.numpy(), np.float64)
        others = tuple(a for a in range(array.ndim) if a != axis) if axis is not None else None
        wanted = np.asarray(self._form.scale(np.abs(array).max(axis=others, initial=0.0)))
        scale = self._scale(wanted, dtype, f"{value.name}_scale")
        kept = np.asarray(scale.const_value.numpy() if scale.const_value is not None else wanted, np.float64)
        spread = kept if axis is None else kept.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        stored = self._constant(
            f"{value.name}_{self._form.word}", self._form.quantized(array, spread), self._form.dtype
        )
        zero = self._zero(f"{value.name}_zero_point", kept.shape)
        restored = ir.Value(
            name=self._unique(f"{value.name}_from_{self._form.word}"), type=ir.TensorType(dtype), shape=value.shape
        )
        node = ir.Node(
            "",
            "DequantizeLinear",
            [stored, scale, zero],
            ir.convenience.convert_attributes({"axis": axis} if axis is not None else {}),
            outputs=[restored],
            name=self._unique(f"{value.name}_DequantizeLinear"),
        )
        self._graph.insert_before(self._graph[0], node)
        self.stored += 1
        self._replaced.append(value)
        return restored

    def drop_unused(self) -> None:
        """Remove weights that nobody reads any more."""
        for value in self._replaced:
            if not value.uses() and not value.is_graph_output():
                self._graph.initializers.pop(str(value.name), None)

    def _scale(self, wanted: NDArray[np.float64], dtype: ir.DataType, name: str) -> ir.Value:
        scale = np.maximum(wanted, _SMALLEST_SCALE[dtype])
        return self._constant(name, scale.astype(dtype.numpy()), dtype)

    def _zero(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        return self._constant(name, np.zeros(shape, self._form.dtype.numpy()), self._form.dtype)

    def _constant(self, name: str, array: NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        unique = self._unique(name)
        tensor = ir.Tensor(np.asarray(array), dtype=dtype, name=unique)
        constant = ir.Value(
            name=unique, type=ir.TensorType(dtype), shape=ir.Shape(np.asarray(array).shape), const_value=tensor
        )
        self._graph.register_initializer(constant)
        return constant

    def _unique(self, name: str) -> str:
        return self._workspace.unique(name)


def _element_type(value: ir.Value) -> ir.DataType:
    if value.dtype is None:
        raise PrecisionError(f"the element type of {value.name!r} is not known.")
    return value.dtype
