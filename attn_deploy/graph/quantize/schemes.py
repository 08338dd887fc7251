"""The two ways to quantize a graph behind one face: for GPUs, and for CPUs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError, PrecisionError
from attn_deploy.graph.quantize.formats import QuantFormat
from attn_deploy.graph.quantize.layers import Layer, Left, QuantPlan, plan_layers, quantizable_graph
from attn_deploy.graph.quantize.observe import empty_histograms, observed_tensors
from attn_deploy.graph.quantize.observe_cpu import CpuObservation
from attn_deploy.graph.quantize.options import QuantOptions, Selection
from attn_deploy.graph.quantize.placement_cpu import cpu_plan, place
from attn_deploy.graph.quantize.prepare_cpu import prepared_for_cpu
from attn_deploy.graph.quantize.rewrite import QuantizedGraph, insert_pairs
from attn_deploy.graph.quantize.rewrite_cpu import CpuForm, Stored, write_cpu_pairs


class Scheme(Protocol):
    """From a float graph to a quantized one: see which tensors hold what, choose a method, write."""

    prepared: onnx.ModelProto
    plan: QuantPlan
    names: tuple[str, ...]

    def add(self, name: str, values: NDArray[np.floating]) -> None:
        """Take the values of one tensor on one batch into account."""
        ...

    def not_finite(self) -> str | None:
        """A tensor that held a NaN or an infinite value; None if there is none."""
        ...

    def choose(self, method: str) -> None:
        """Take ranges by this method from now on."""
        ...

    def write(self, without: Collection[str] = ()) -> QuantizedGraph:
        """The quantized graph, with these products in float."""
        ...

    def described(self) -> Mapping[str, Any]:
        """For the record."""
        ...


def scheme_for(model: onnx.ModelProto, form: QuantFormat, options: QuantOptions) -> Scheme:
    """The scheme that the options ask for; their target is set.

    Raises:
        InvalidRequestError: if the target does not have an option, or a pattern matches nothing.
        PrecisionError: if the graph is quantized already, or in a type that the target does not quantize.
    """
    options.check()
    return _Cpu(model, form, options) if options.target == "cpu" else _Gpu(model, form, options)


class _Gpu:
    def __init__(self, model: onnx.ModelProto, form: QuantFormat, options: QuantOptions) -> None:
        options.check_gpu()
        self._form = form
        self.prepared = quantizable_graph(model)
        working = ir.from_proto(self.prepared)
        per_channel = form.per_channel and options.per_channel
        self.plan = _selected(plan_layers(working, per_channel=per_channel), working, options)
        self.names = observed_tensors(working, self.plan.layers)
        self._histograms = empty_histograms(self.names)
        self._ranges: dict[str, float] = {}

    def add(self, name: str, values: NDArray[np.floating]) -> None:
        self._histograms[name].add(values)

    def not_finite(self) -> str | None:
        return next((n for n, h in self._histograms.items() if not h.finite), None)

    def choose(self, method: str) -> None:
        self._ranges = {n: h.range(method) for n, h in self._histograms.items()}

    def write(self, without: Collection[str] = ()) -> QuantizedGraph:
        return insert_pairs(self.prepared, self.plan.layers, self._ranges, self._form, without=without)

    def described(self) -> Mapping[str, Any]:
        return {"target": "gpu", "activations": self._form.word, "symmetric": True}


class _Cpu:
    def __init__(self, model: onnx.ModelProto, form: QuantFormat, options: QuantOptions) -> None:
        if form.word != "int8":
            raise InvalidRequestError(f"{form.word} has no kernels on CPUs: use --precision int8, or --target gpu.")
        half = any(i.data_type == onnx.TensorProto.FLOAT16 for i in model.graph.initializer)
        if half:
            raise PrecisionError(
                "the file is in fp16, and ONNX Runtime's kernels in 8 bits for CPUs stand between fp32: quantize the fp32 "
                "file, or choose --target gpu."
            )
        self._form = CpuForm(options.activations or "uint8", options.per_channel)
        self.prepared = prepared_for_cpu(model)
        self._model = ir.from_proto(self.prepared)
        plan = cpu_plan(self._model, per_channel=options.per_channel, activations=options.attention)
        self.plan = _selected(plan, self._model, options)
        products = {y.node for y in self.plan.layers}
        excluded = Selection((), options.exclude)
        self._kept = [str(n.name) for n in self._model.graph if excluded.reason(n)]
        self._whole = place(self._model, products, self._kept)
        self._observation = CpuObservation(self._model, self.plan.layers, self._whole)
        self.names = self._observation.names
        self._ranges: dict[str, tuple[float, float]] = {}
        self._by_method: dict[str, dict[str, tuple[float, float]]] = {}  # of what was seen so far
        self._known: dict[tuple[str, float], Stored] = {}

    def add(self, name: str, values: NDArray[np.floating]) -> None:
        self._observation.add(name, values)
        self._by_method.clear()
        self._known.clear()

    def not_finite(self) -> str | None:
        return next(iter(self._observation.not_finite()), None)

    def choose(self, method: str) -> None:
        ranges = self._by_method.get(method) or dict(self._observation.ranges(method))
        self._by_method[method] = ranges
        # What only moves values has the range of what it moves; with that in float it begins a pair of its own.
        self._ranges = {n: ranges[root] for n, root in self._whole.pairs.items()} | ranges

    def write(self, without: Collection[str] = ()) -> QuantizedGraph:
        products = [y.node for y in self.plan.layers if y.node not in without]
        placement = place(self._model, products, self._kept)
        means = self._observation.means()
        return write_cpu_pairs(
            self._model.clone(), placement, self.plan.layers, self._ranges, means, self._form, self._known
        )

    def described(self) -> Mapping[str, Any]:
        return {"target": "cpu", "activations": self._form.activations, "bias_correction": True}


def _selected(plan: QuantPlan, model: ir.Model, options: QuantOptions) -> QuantPlan:
    """The plan without what the patterns keep in float."""
    selection = Selection(options.only, options.exclude)
    selection.check(model)
    nodes = {n.name: n for n in model.graph}
    layers: list[Layer] = []
    left = list(plan.left)
    for layer in plan.layers:
        reason = selection.reason(nodes[layer.node])
        if reason:
            left.append(Left(layer.node, layer.operator, layer.module, reason))
        else:
            layers.append(layer)
    return QuantPlan(tuple(layers), tuple(left))
