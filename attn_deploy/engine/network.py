"""What a parsed network holds, and above all in which precision.

Strong typing builds what the network says, so this is evidence of the engine's precision that needs no GPU. It is the
network before fusion: layers are more than the kernels that will run.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.graph.artifact import TensorInfo
from attn_deploy.reading import typed

# TensorRT's names -> numpy's (and ml_dtypes'), so that a runtime can allocate buffers from them.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "FP4": "float4_e2m1fn",
    "E8M0": "float8_e8m0fnu",
    "INT4": "int4",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_WORDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "float4_e2m1fn": "fp4"}
_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED", "EINSUM", "ATTENTION_INPUT")


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """An input or output of an engine: name, numpy name of the element type, shape (a string is a symbolic axis)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class NetworkSummary:
    """The contents of a network.

    Attributes:
        layers: number of layers before fusion.
        layer_types: layers by type.
        layer_dtypes: layers by the element type of their first output.
        compute_dtypes: convolutions and matrix products by the element type that they multiply; a quantized one counts
            under the type that it is quantized to.
        inputs, outputs: the interface.
    """

    layers: int
    layer_types: Mapping[str, int]
    layer_dtypes: Mapping[str, int]
    compute_dtypes: Mapping[str, int]
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]

    @property
    def precision(self) -> str:
        """In a word: ``fp32``, ``fp16``, ``int8+fp16`` ..., most frequent first."""
        return precision_word(self.compute_dtypes, self.layer_dtypes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, which ``from_dict`` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkSummary:
        """The summary that ``to_dict`` wrote."""
        return typed(data, cls)


def precision_word(compute: Mapping[str, int], layers: Mapping[str, int]) -> str:
    """Name a precision after the products, or after all floating-point layers where there are none."""
    floats = {k: v for k, v in layers.items() if "float" in k}
    counts = compute or floats or layers
    return "+".join(_WORDS.get(k, k) for k, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))) or "none"


def summarise_network(
    network: Any,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    types: Mapping[str, str] | None = None,
) -> NetworkSummary:
    """Count a network's layers.

    Args:
        network: the parsed network.
        inputs: those of the ONNX graph, which name the symbolic axes.
        outputs: those of the ONNX graph.
        types: element types by tensor name, which a weakly typed network itself does not know.
    """
    declared = types or {}

    def kind(tensor: Any) -> str:
        return declared.get(tensor.name) or dtype_name(tensor.dtype)

    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    firsts = [layer.get_output(0) for layer in layers if layer.num_outputs]
    heavy = [layer for layer in layers if layer.type.name in _HEAVY and layer.num_inputs]
    return NetworkSummary(
        layers=len(layers),
        layer_types=_counted(layer.type.name for layer in layers),
        layer_dtypes=_counted(kind(t) for t in firsts),
        compute_dtypes=_counted(kind(_multiplied(layer, producers)) for layer in heavy),
        inputs=tuple(_tensor(network.get_input(i), inputs) for i in range(network.num_inputs)),
        outputs=tuple(_tensor(network.get_output(i), outputs) for i in range(network.num_outputs)),
    )


def dtype_name(dtype: Any) -> str:
    """The name that numpy gives a TensorRT element type."""
    name = str(dtype.name)
    return DTYPES.get(name, name.lower())


def _multiplied(layer: Any, producers: Mapping[str, Any]) -> Any:
    """The tensor whose type a product is made in."""
    tensor = layer.get_input(0)
    producer = producers.get(tensor.name)
    if producer is not None and producer.type.name == "DEQUANTIZE":
        tensor = producer.get_input(0)
    return tensor


def _tensor(tensor: Any, declared: Sequence[TensorInfo]) -> EngineTensor:
    shape: list[int | str | None] = [int(d) for d in tensor.shape]
    symbols = next((t.shape for t in declared if t.name == tensor.name and len(t.shape) == len(shape)), ())
    for axis, symbol in enumerate(symbols):
        if shape[axis] == -1:
            shape[axis] = symbol if isinstance(symbol, str) else None
    return EngineTensor(tensor.name, dtype_name(tensor.dtype), tuple(None if d == -1 else d for d in shape))


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(collections.Counter(names).items()))
