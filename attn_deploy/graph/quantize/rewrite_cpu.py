"""Writing a CPU placement into a graph: pairs with zero points, weights of int8 and biases of int32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from attn_deploy.errors import PrecisionError
from attn_deploy.graph.artifact import check_model
from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.quantize.layers import Layer, is_constant
from attn_deploy.graph.quantize.placement_cpu import CpuPlacement, activations_of
from attn_deploy.graph.quantize.rewrite import QuantizedGraph

Array = NDArray[np.generic]
# Weights, their scales, and what their rounding adds to the bias.
Stored = tuple[NDArray[np.int8], NDArray[np.float64], "NDArray[np.float64] | float"]

_SMALLEST_SCALE = 2.0**-126  # below, a scale loses digits
_BIAS_LIMIT = 2.0**30  # of a bias in steps of its own: sums of products must fit beside it
_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
_DTYPES = {"uint8": ir.DataType.UINT8, "int8": ir.DataType.INT8}


@dataclass(frozen=True, slots=True)
class CpuForm:
    """How values are stored.

    Attributes:
        activations: uint8 or int8.
        per_channel: weights have a scale for each output channel.
        weight_bits: 8, or 7 for processors whose kernels saturate in sums of two products of 8 bits.
    """

    activations: str = "uint8"
    per_channel: bool = True
    weight_bits: int = 8

    @property
    def largest_weight(self) -> int:
        """The magnitude that the largest weight becomes."""
        return int(2 ** (self.weight_bits - 1) - 1)

    def parameters(self, low: float, high: float) -> tuple[float, int]:
        """Scale and zero point of activations in a range, in which zero is one of the values."""
        least, most = _LIMITS[self.activations]
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (most - least)
        if scale < _SMALLEST_SCALE:
            return 1.0, least
        scale = float(np.float32(scale))
        return scale, int(np.clip(np.rint(least - low / scale), least, most))


def write_cpu_pairs(
    model: ir.Model,
    placement: CpuPlacement,
    layers: Sequence[Layer],
    ranges: Mapping[str, tuple[float, float]],
    means: Mapping[str, NDArray[np.float64]],
    form: CpuForm,
    known: dict[tuple[str, float], Stored] | None = None,
) -> QuantizedGraph:
    """Quantize a prepared graph as placed.

    Args:
        model: as `attn_deploy.graph.quantize.prepare_cpu.prepared_for_cpu` gives it; it is changed.
        placement: of its nodes.
        layers: its products, with the axis of their weights' channels.
        ranges: the lowest and the highest value of each tensor that others take their range from.
        means: of each channel of what products read, by tensor; those that are known.
        form: how values are stored.
        known: weights in 8 bits by product and the scale of what it reads, from other placements of the same graph with the
            same means; those of this one are added.

    Raises:
        PrecisionError: if the standard does not allow the result.
    """
    writer = _Writer(model, form, placement, ranges, means, {} if known is None else known)
    axes = {layer.node: layer.axis for layer in layers}
    writer.activations()
    for node in list(model.graph):
        if node.name in placement.nodes:
            writer.constants(node, axes)
    writer.drop_unused()
    declared = {*model.graph.inputs, *model.graph.outputs}
    within = [v for n in model.graph for v in n.outputs] + list(model.graph.initializers.values())
    for value in (v for v in within if v not in declared):
        value.shape = value.type = None  # of the float graph: it is dropped below, and takes longest to write
    quantized = ir.to_proto(model)
    del quantized.graph.value_info[:]
    try:
        check_model(quantized, "the graph in int8")
    except Exception as error:
        raise PrecisionError(f"the graph cannot be written in int8: {error}") from error
    return QuantizedGraph(quantized, writer.pairs, writer.stored)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The tensor that a pair stands behind, by name, and the scale that it has."""

    name: str
    scale: float


class _Writer:
    def __init__(
        self,
        model: ir.Model,
        form: CpuForm,
        placement: CpuPlacement,
        ranges: Mapping[str, tuple[float, float]],
        means: Mapping[str, NDArray[np.float64]],
        known: dict[tuple[str, float], Stored],
    ) -> None:
        self._known = known
        self.pairs, self.stored = 0, 0
        self._graph, self._form, self._placement = model.graph, form, placement
        self._ranges, self._means = ranges, means
        self._workspace = Workspace(model)
        self._made: dict[ir.Value, _Pair] = {}  # by what stands behind the pair
        self._replaced: list[ir.Value] = []

    def activations(self) -> None:
        """Put the pairs in, each read by all nodes in 8 bits; by every reader, where the tensor was made in 8 bits."""
        values = {str(v.name): v for v in self._graph.inputs}
        values |= {str(v.name): v for n in self._graph for v in n.outputs if v.name}
        small = [n for n in self._graph if n.name in self._placement.nodes]
        readers: dict[str, list[tuple[ir.Node, int]]] = {}
        for node in small:
            for place, value in activations_of(node):
                readers.setdefault(str(value.name), []).append((node, place))
        for name, root in self._placement.pairs.items():
            value = values[name]
            everyone = [(u.node, u.idx) for u in value.uses()] if name in self._placement.behind else readers[name]
            self._pair(value, self._ranges[root], everyone)

    def _pair(self, value: ir.Value, extent: tuple[float, float], readers: Sequence[tuple[ir.Node, int]]) -> None:
        step, zero = self._form.parameters(*extent)
        word, dtype = self._form.activations, _DTYPES[self._form.activations]
        scale = self._constant(f"{value.name}_scale", np.asarray(step, np.float32), ir.DataType.FLOAT)
        offset = self._constant(f"{value.name}_zero_point", np.asarray(zero, dtype.numpy()), dtype)
        quantized = ir.Value(name=self._unique(f"{value.name}_{word}"), type=ir.TensorType(dtype), shape=value.shape)
        restored = ir.Value(name=self._unique(f"{value.name}_from_{word}"), type=value.type, shape=value.shape)
        producer = value.producer()
        metadata = dict(producer.metadata_props) if producer is not None else {}
        pair = [
            ir.Node(
                "",
                operator,
                [taken, scale, offset],
                outputs=[result],
                name=self._unique(f"{value.name}_{operator}"),
                metadata_props=dict(metadata),
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
        for node, place in readers:
            node.replace_input_with(place, restored)
        self._made[restored] = _Pair(str(value.name), step)
        if value.is_graph_output() and str(value.name) in self._placement.behind:
            outputs, name = self._graph.outputs, value.name
            for index, output in enumerate(outputs):
                if output is value:
                    outputs[index] = restored
            value.name = self._unique(f"{name}_in_float")
            restored.name = name
        self.pairs += 1

    def constants(self, node: ir.Node, axes: Mapping[str, int | None]) -> None:
        """Store the constants of a node in 8 bits: weights, a bias, or the constant side of a sum."""
        product = node.name in axes
        first = self._made.get(_given(node, 0))
        if not product:
            sides = enumerate(node.inputs) if node.op_type in ("Add", "Mul", "Concat") else ()
            for place, value in sides:
                if value is not None and is_constant(value) and value.dtype == ir.DataType.FLOAT:
                    node.replace_input_with(place, self._side(value))
            return
        weights = _given(node, 1)
        if not is_constant(weights):
            return
        if first is None:
            raise ValueError(f"{node.name} is placed in 8 bits, and its input has no pair")
        axis = axes[str(node.name)]
        bias = node.inputs[2] if len(node.inputs) > 2 and node.op_type in ("Conv", "Gemm") else None
        key = (str(node.name), first.scale)
        if key not in self._known:
            stored, scale, change = self._weights(weights, axis, bias, first.scale)
            shift = 0.0 if bias is None else mean_shift(node, change, self._means.get(first.name))
            self._known[key] = (stored, scale, shift)
        stored, scale, shift = self._known[key]
        self.stored += 1
        node.replace_input_with(1, self._restored(weights, stored, ir.DataType.INT8, scale, axis))
        if bias is not None:
            node.replace_input_with(2, self._bias(bias, scale * first.scale, shift))

    def _weights(
        self, value: ir.Value, axis: int | None, bias: ir.Value | None, step: float
    ) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
        """The weights in 8 bits; their scales, one or one for each output channel; how far they moved."""
        array = self._array(value)
        others = tuple(a for a in range(array.ndim) if a != axis) if axis is not None else None
        largest = np.asarray(np.abs(array).max(axis=others, initial=0.0))
        scale = np.where(largest > 0, largest / self._form.largest_weight, 1.0)
        if bias is not None:
            reach = np.abs(self._array(bias)).reshape(-1) / (step * _BIAS_LIMIT)
            scale = np.maximum(scale, reach if axis is not None else reach.max(initial=0.0))
        scale = np.maximum(scale, _SMALLEST_SCALE).astype(np.float32).astype(np.float64)
        spread = scale if axis is None else scale.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        limit = self._form.largest_weight
        stored = np.clip(np.rint(array / spread), -limit, limit).astype(np.int8)
        return stored, scale, np.asarray(stored * spread - array, np.float64)

    def _bias(self, value: ir.Value, scale: NDArray[np.float64], shift: NDArray[np.float64] | float) -> ir.Value:
        array = self._array(value) - shift
        wide = np.broadcast_to(scale.reshape(-1), array.shape).astype(np.float32)
        stored = np.rint(array / wide.astype(np.float64)).astype(np.int32)
        one = np.asarray(wide) if scale.ndim else np.asarray(wide.reshape(-1)[0])
        return self._restored(value, stored, ir.DataType.INT32, one, 0 if scale.ndim else None)

    def _side(self, value: ir.Value) -> ir.Value:
        """A constant side of a sum or product, in the type of activations."""
        array = self._array(value)
        step, zero = self._form.parameters(float(array.min(initial=0.0)), float(array.max(initial=0.0)))
        least, most = _LIMITS[self._form.activations]
        dtype = _DTYPES[self._form.activations]
        stored = np.clip(np.rint(array / step) + zero, least, most).astype(dtype.numpy())
        return self._restored(value, stored, dtype, np.asarray(step), None, zero)

    def _restored(
        self,
        value: ir.Value,
        stored: Array,
        dtype: ir.DataType,
        scale: NDArray[np.floating],
        axis: int | None,
        zero: int = 0,
    ) -> ir.Value:
        constant = self._constant(f"{value.name}_{dtype.name.lower()}", stored, dtype)
        step = self._constant(f"{value.name}_scale", np.asarray(scale, np.float32), ir.DataType.FLOAT)
        offset = self._constant(f"{value.name}_zero_point", np.full(scale.shape, zero, dtype.numpy()), dtype)
        restored = ir.Value(
            name=self._unique(f"{value.name}_from_{dtype.name.lower()}"), type=value.type, shape=value.shape
        )
        node = ir.Node(
            "",
            "DequantizeLinear",
            [constant, step, offset],
            ir.convenience.convert_attributes({"axis": axis} if axis is not None else {}),
            outputs=[restored],
            name=self._unique(f"{value.name}_DequantizeLinear"),
        )
        self._graph.insert_before(self._graph[0], node)
        self._replaced.append(value)
        return restored

    def drop_unused(self) -> None:
        """Remove constants that nobody reads any more."""
        for value in self._replaced:
            if not value.uses() and not value.is_graph_output():
                self._graph.initializers.pop(str(value.name), None)

    def _array(self, value: ir.Value) -> NDArray[np.float64]:
        if value.const_value is None:
            raise PrecisionError(f"the weights {value.name!r} are not in the file, so they cannot be quantized.")
        return np.asarray(value.const_value.numpy(), np.float64)

    def _constant(self, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
        unique = self._unique(name)
        tensor = ir.Tensor(np.asarray(array), dtype=dtype, name=unique)
        constant = ir.Value(name=unique, type=ir.TensorType(dtype), shape=ir.Shape(np.shape(array)), const_value=tensor)
        self._graph.register_initializer(constant)
        return constant

    def _unique(self, name: str) -> str:
        return self._workspace.unique(name)


def mean_shift(
    node: ir.Node, change: NDArray[np.float64], means: NDArray[np.float64] | None
) -> NDArray[np.float64] | float:
    """What rounding its weights adds to each output channel of a product on average, which its bias can take back.

    As "Data-Free Quantization Through Weight Equalization and Bias Correction" (Nagel et al., ICCV 2019), with means that
    were measured. The border of padded maps is not told apart.

    Args:
        node: a Conv, or a Gemm.
        change: of its weights.
        means: of the channels of what it reads; None where they are not known.
    """
    if means is None:
        return 0.0
    if node.op_type == "Gemm":
        turned = "transB" in node.attributes and node.attributes["transB"].as_int() != 0
        return change @ means if turned else means @ change
    taps = change.reshape(*change.shape[:2], -1).sum(-1)
    groups = means.size // taps.shape[1]
    each = taps.reshape(groups, -1, taps.shape[1])
    return np.asarray(np.einsum("goi,gi->go", each, means.reshape(groups, -1)).reshape(-1))


def _given(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    if value is None:
        raise ValueError(f"{node.name} has no input {place}; placements name only inputs that are there")
    return value
