"""Where pairs go for ONNX Runtime's CPU kernels: on both sides of all that has one, so that maps stay in 8 bits.

A convolution runs in 8 bits only with a pair on its output as well. A Relu or Clip behind it gets the pair in its stead
and vanishes into it. Sums, products, concatenations and pools between tensors that are in 8 bits anyway are computed
there too: in float they would cost two conversions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from attn_deploy.graph.quantize.cpu_kernels import ABSORBED, ARITHMETIC, FLOAT_OUTPUT, MOVING, PRODUCTS
from attn_deploy.graph.quantize.layers import (
    Layer,
    Left,
    QuantPlan,
    channel_axis,
    float_products,
    is_constant,
    module_of_node,
)

_NO_KERNEL = "ONNX Runtime has no kernel in 8 bits for it on CPUs"


@dataclass(frozen=True, slots=True)
class CpuPlacement:
    """What runs in 8 bits, and what that takes.

    Attributes:
        nodes: names of the nodes that are computed in 8 bits, products among them.
        pairs: for each tensor that gets a pair, by name, the tensor whose range it has.
        behind: of these, the ones that are made in 8 bits, so that all who read them read the pair.
    """

    nodes: frozenset[str]
    pairs: Mapping[str, str]
    behind: frozenset[str]


def cpu_plan(model: ir.Model, *, per_channel: bool, activations: bool) -> QuantPlan:
    """Sort the products of a prepared graph into those that can be computed in 8 bits and those that cannot.

    Args:
        model: as `attn_deploy.graph.quantize.prepare_cpu.prepared_for_cpu` gives it.
        per_channel: weights have a scale for each output channel.
        activations: whether products of two activations are quantized too.
    """
    layers: list[Layer] = []
    left: list[Left] = []
    for node in float_products(model):
        where = (str(node.name), node.op_type, module_of_node(node))
        reason = _reason(node, activations)
        if reason:
            left.append(Left(*where, reason))
        else:
            weights = node.inputs[1]
            own = per_channel and weights is not None and is_constant(weights)
            layers.append(Layer(*where, channel_axis(node) if own else None))
    return QuantPlan(tuple(layers), tuple(left))


def _reason(node: ir.Node, activations: bool) -> str:
    """Why a product is left in float; empty if it is not."""
    if node.op_type not in PRODUCTS:
        return _NO_KERNEL
    first, second = node.inputs[0], node.inputs[1]
    if first is None or second is None or {first.dtype, second.dtype} != {ir.DataType.FLOAT}:
        return "it does not multiply fp32"
    if node.op_type == "Gemm":
        return _gemm_reason(node)
    if is_constant(first):
        return "its first factor is a constant"
    if is_constant(second):
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        return "" if bias is None or is_constant(bias) else "its bias is computed, so it has no scale of its own"
    if node.op_type == "Conv":
        return "its weights are computed, so they have no scale of their own"
    return (
        "" if activations else "it multiplies two activations, as attention does: measured slower or less exact there"
    )


def _gemm_reason(node: ir.Node) -> str:
    first, second, *rest = node.inputs
    factors = {k: node.attributes[k].as_float() if k in node.attributes else 1.0 for k in ("alpha", "beta")}
    turned = "transA" in node.attributes and node.attributes["transA"].as_int() != 0
    bias = rest[0] if rest else None
    if first is None or second is None or is_constant(first) or not is_constant(second):
        return "its weights are computed, so they have no scale of their own"
    if factors != {"alpha": 1.0, "beta": 1.0} or turned:
        return "it scales or transposes what it multiplies, which the kernel in 8 bits does not"
    if bias is not None and not (is_constant(bias) and bias.shape is not None and len(bias.shape) == 1):
        return "its bias is computed, so it has no scale of its own"
    return ""


def place(model: ir.Model, products: Collection[str], without: Collection[str] = ()) -> CpuPlacement:
    """Decide which nodes run in 8 bits and which tensors get a pair.

    Args:
        model: the prepared graph.
        products: names of the products that do.
        without: names of other nodes that stay in float.
    """
    return _Placing(model, frozenset(products), frozenset(without)).placement()


class _Placing:
    def __init__(self, model: ir.Model, products: frozenset[str], without: frozenset[str]) -> None:
        self._graph, self._products, self._without = model.graph, products, without
        self._nodes: dict[str, None] = {}
        self._read = {v for n in model.graph if n.name in products for v in _activations(n)}

    def placement(self) -> CpuPlacement:
        for node in self._graph:
            if node.name in self._products or (self._may(node) and all(map(self._small, _activations(node)))):
                self._nodes[str(node.name)] = None
        pairs: dict[str, str] = {}
        behind: set[str] = set()
        for node in self._graph:
            if node.name not in self._nodes:
                continue
            for value in _activations(node):
                pairs.setdefault(str(value.name), str(value.name))
            root = _activations(node)[0] if node.op_type in MOVING else None
            for output in node.outputs:
                value = self._outcome(output)
                if not output.name or (node.op_type in FLOAT_OUTPUT and not self._goes_on(value)):
                    continue
                pairs[str(value.name)] = str(value.name) if root is None else pairs[str(root.name)]
                behind.add(str(value.name))
        return CpuPlacement(frozenset(self._nodes), pairs, frozenset(behind))

    def _may(self, node: ir.Node) -> bool:
        """Whether there is a kernel for a node that is no product."""
        kinds = ARITHMETIC | MOVING
        if node.domain not in ("", "ai.onnx") or node.op_type not in kinds or node.name in self._without:
            return False
        outputs = [o for o in node.outputs if o.name]
        if any(o.dtype != ir.DataType.FLOAT for o in outputs) or not _activations(node):
            return False
        if node.op_type == "MaxPool" and len(outputs) > 1:
            return False
        return not any(v is not None and _is_scalar(v) for v in node.inputs) or node.op_type in MOVING

    def _small(self, value: ir.Value) -> bool:
        """Whether a tensor is in 8 bits anyway: a product reads it so, or it was made so."""
        if value in self._read:
            return True
        node = value.producer()
        if node is not None and node.op_type in ABSORBED and self._outcome(_given(node)) is value:
            node = _given(node).producer()
        return node is not None and node.name in self._nodes and node.op_type not in FLOAT_OUTPUT

    def _goes_on(self, value: ir.Value) -> bool:
        uses = [u.node for u in value.uses()]
        return bool(uses) and not value.is_graph_output() and all(u.name in self._nodes for u in uses)

    def _outcome(self, value: ir.Value) -> ir.Value:
        """What gets the pair: the tensor, or that behind the Relu or Clip which alone reads it."""
        uses = [u.node for u in value.uses()]
        if len(uses) == 1 and not value.is_graph_output() and uses[0].name not in self._without and vanishes(uses[0]):
            return uses[0].outputs[0]
        return value


def vanishes(node: ir.Node) -> bool:
    """Whether a QuantizeLinear with zero at its least value does what the node does: a Relu, or a Clip from 0."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ABSORBED:
        return False
    return node.op_type == "Relu" or clip_bounds(node)[0] == 0.0


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """The bounds of a Clip, infinite where there is none; not a number where one is computed."""
    bounds = [-np.inf, np.inf]
    for place, value in enumerate(node.inputs[1:3]):
        if value is not None:
            constant = value.const_value
            bounds[place] = float(constant.numpy().reshape(-1)[0]) if constant is not None else np.nan
    return bounds[0], bounds[1]


def _activations(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node that hold values of the model: float, and no constants."""
    count = 1 if node.op_type in MOVING else len(node.inputs)
    return [v for v in node.inputs[:count] if v is not None and v.dtype == ir.DataType.FLOAT and not is_constant(v)]


def activations_of(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    """Place and value of each input of a node that is an activation."""
    values = set(_activations(node))
    for place, value in enumerate(node.inputs):
        if value is not None and value in values:
            yield place, value


def _given(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise ValueError(f"{node.name} has no first input")
    return value


def _is_scalar(value: ir.Value) -> bool:
    """A constant of one number: a scale, which a kernel of two tensors would round twice."""
    return is_constant(value) and value.shape is not None and all(d == 1 for d in value.shape)
