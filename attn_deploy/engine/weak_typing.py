"""TensorRT 8, which chooses the precision of each layer among those that flags permit, made to follow the ONNX graph.

The flags are what the graph holds: FP16 where it has float16, INT8 where it quantizes. In a graph with float16, layers of
nodes that are float32 there (softmax, norms, sums) are bound to float32, and the build obeys or fails. Nodes in float16
may still run in float32 where that is faster: that loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from attn_deploy.engine.flavors import Flavor
from attn_deploy.errors import EngineBuildError
from attn_deploy.graph.shape_inference import infer_shapes

NEWEST_OPSET = 17  # that the parsers of 8.5 and 8.6 know

_NAMES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.INT8: "int8",
}
_FLAGS = {"float16": "FP16", "int8": "INT8"}
_UNKNOWN = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
# Their types are not chosen: weights, sizes, and steps between types.
_SETTLED = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE")
_STEPS = ("IDENTITY", "CAST")


@dataclass(frozen=True, slots=True)
class GraphTypes:
    """Element types in an ONNX graph, of what has one that a precision is about.

    Attributes:
        tensors: numpy's name of the type by tensor name, weights included.
        nodes: that of the first output, by node name.
        opset: of the standard domain.
    """

    tensors: Mapping[str, str]
    nodes: Mapping[str, str]
    opset: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The builder flags that the graph calls for."""
        types = set(self.tensors.values())
        return tuple(flag for name, flag in _FLAGS.items() if name in types)

    @property
    def missing(self) -> tuple[str, ...]:
        """The types in the graph that TensorRT 8 has not."""
        return tuple(n for n in _UNKNOWN if n in self.tensors.values())


def read_types(path: Path) -> GraphTypes:
    """The element types of an ONNX file's main graph."""
    model = onnx.load(path, load_external_data=False)
    graph = infer_shapes(model).graph
    tensors = {i.name: i.data_type for i in graph.initializer}
    tensors |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    named = {n: _NAMES[t] for n, t in tensors.items() if t in _NAMES}
    nodes = {n.name: named[n.output[0]] for n in graph.node if n.name and n.output and n.output[0] in named}
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return GraphTypes(named, nodes, opset)


def check_types(types: GraphTypes, flavor: Flavor, path: Path | str) -> None:
    """Refuse element types that the library has not.

    Raises:
        EngineBuildError: naming them.
    """
    if types.missing:
        raise EngineBuildError(
            f"{path}: the graph holds {', '.join(types.missing)}, and {flavor} has float32, float16 and int8. "
            "Convert the fp32 file with 'attn-deploy convert --precision fp16', or build with TensorRT 10 or later."
        )


def permit(config: Any, network: Any, trt: Any, types: GraphTypes) -> str:
    """Permit the precisions that the graph holds, and bind its float32 nodes to float32.

    Returns:
        What was done, in words; empty for a graph in float32 alone.
    """
    for flag in types.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if not types.flags:
        return ""
    bound = _bind(network, trt, types) if "FP16" in types.flags else 0
    if bound:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return f"weakly typed: {' and '.join(types.flags)} permitted, {bound} layers bound to float32"


def _bind(network: Any, trt: Any, types: GraphTypes) -> int:
    """A node's layers come one after another, and the last of them has the node's output: so from back to front."""
    bound, kind = 0, ""
    for index in reversed(range(network.num_layers)):
        layer = network.get_layer(index)
        outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
        names = [types.tensors[t.name] for t in outputs if t.name in types.tensors]
        kind = names[0] if names else types.nodes.get(layer.name, kind)
        if kind != "float32" or layer.type.name in _SETTLED:
            continue
        floats = (trt.DataType.FLOAT, trt.DataType.HALF)
        places = [k for k, t in enumerate(outputs) if t.dtype in floats and not t.is_shape_tensor]
        for place in places:
            layer.set_output_type(place, trt.DataType.FLOAT)
        if places and layer.type.name not in _STEPS:
            layer.precision = trt.DataType.FLOAT
            bound += 1
    return bound
