"""Which products of a graph are quantized, which tensors that touches, and why the others are left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from attn_deploy.errors import PrecisionError
from attn_deploy.graph.fold import fold_weights
from attn_deploy.graph.inference import infer_types
from attn_deploy.graph.opset.builder import Workspace
from attn_deploy.graph.precision.rules import PRODUCTS, QUANTIZED
from attn_deploy.graph.scopes import NAME_SCOPES, module_path

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


@dataclass(frozen=True, slots=True)
class Layer:
    """A product that can be quantized: its first input is an activation, its second holds weights.

    Attributes:
        node, operator: name and type of the node.
        module: path of the PyTorch module that it came from; empty if the file does not say.
        axis: the axis of the weights' output channels; None for one scale.
    """

    node: str
    operator: str
    module: str
    axis: int | None

    def __str__(self) -> str:
        return f"{self.operator} in " + (f"module {self.module!r}" if self.module else f"node {self.node!r}")


@dataclass(frozen=True, slots=True)
class Left:
    """A product that stays as it is, and why."""

    node: str
    operator: str
    module: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """The decision for a graph: what can be quantized, in order of computation, and what is left."""

    layers: tuple[Layer, ...]
    left: tuple[Left, ...]


def quantizable_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in the form that plans want: no functions, constants as initializers, typed, every node named.

    Raises:
        PrecisionError: if the graph is quantized already.
    """
    working = ir.from_proto(model)
    if working.functions:
        working = InlinePass()(working).model
    quantized = sorted({n.op_type for n in working.graph if n.op_type in QUANTIZED})
    if quantized:
        raise PrecisionError(
            f"the graph holds {', '.join(quantized)}: it is quantized already. Quantize the file that it was made from."
        )
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(working)
    fold_weights(working)
    infer_types(working)
    name_nodes(working)
    return ir.to_proto(working)


def name_nodes(model: ir.Model) -> None:
    """Give every node of the main graph a name that no other has."""
    workspace = Workspace(model)
    taken: set[str] = set()
    for index, node in enumerate(model.graph):
        if not node.name or node.name in taken:
            node.name = workspace.unique(node.name or f"{node.op_type}_{index}")
        taken.add(node.name)


def plan_layers(model: ir.Model, *, per_channel: bool) -> QuantPlan:
    """Sort the products of a prepared graph into those that can be quantized and those that cannot.

    Args:
        model: as `quantizable_graph` gives it.
        per_channel: weights have a scale for each output channel.
    """
    layers: list[Layer] = []
    left: list[Left] = []
    for node in float_products(model):
        where = (str(node.name), node.op_type, module_of_node(node))
        axis = _axis(node, per_channel)
        if isinstance(axis, str):
            left.append(Left(*where, axis))
        else:
            layers.append(Layer(*where, axis))
    return QuantPlan(tuple(layers), tuple(left))


def float_products(model: ir.Model) -> Iterator[ir.Node]:
    """The products of the main graph in fp32 or fp16, in order of computation."""
    for node in model.graph:
        if node.op_type in PRODUCTS and node.outputs[0].dtype in FLOATS:
            yield node


def _axis(node: ir.Node, per_channel: bool) -> int | str | None:
    """The channel axis of a product's weights; or why the product is left."""
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return "TensorRT has no quantized form of the operator"
    first, second = node.inputs[0], node.inputs[1]
    if first is None or second is None or {first.dtype, second.dtype} - FLOATS:
        return "it does not multiply fp32 or fp16"
    if node.op_type in ("Conv", "ConvTranspose"):
        if not is_constant(second):
            return "its weights are computed, so they have no scale of their own"
        if is_constant(first):
            return "its input is a constant"
        return channel_axis(node) if per_channel else None
    if is_constant(first):
        return "the constant on its left is a pattern of indices or of averages, not weights"
    if not is_constant(second):
        # Without constant weights ONNX Runtime cannot avoid the saturation of its kernels: 13 % of error in place of 3 %.
        return "it multiplies two activations, as attention does: on GPUs that is fused in half precision"
    return channel_axis(node) if per_channel else None


def channel_axis(node: ir.Node) -> int | None:
    """The axis of a product's weights that runs over its output channels; None if there is no one such axis."""
    weight = node.inputs[1]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 0
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":  # with groups the channels of one scale would lie apart
        return 1 if _integer(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _integer(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def _integer(node: ir.Node, name: str, default: int) -> int:
    entry = node.attributes.get(name)
    return default if entry is None else int(entry.as_int())


def is_constant(value: ir.Value) -> bool:
    """Whether a value is an initializer that no caller can replace."""
    return value.is_initializer() and not value.is_graph_input()


def module_of_node(node: ir.Node) -> str:
    """The path of the PyTorch module that a node came from; empty if the file does not say."""
    return module_path(str(node.name), node.metadata_props.get(NAME_SCOPES))
