"""What ONNX Runtime's optimiser made of a quantized graph: which nodes run in 8 bits, and which in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from attn_deploy.graph.quantize.cpu_kernels import KERNELS

_OF_KERNEL = {kernel: operator for operator, kernels in KERNELS.items() for kernel in kernels}
_PRODUCT_KERNELS = {"FusedConv": "Conv", "FusedMatMul": "MatMul", "FusedGemm": "Gemm"}
_WORDS = {
    "Conv": "convolutions",
    "Gemm": "Gemm",
    "MatMul": "matrix products",
}
_SHOWN = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Nodes of an optimised graph by operator, as the standard calls it.

    Attributes:
        small: those in 8 bits.
        wide: those in float.
    """

    small: Mapping[str, int]
    wide: Mapping[str, int]

    @property
    def products(self) -> tuple[int, int]:
        """How many products run in 8 bits, and how many there are."""
        small = sum(self.small.get(o, 0) for o in _SHOWN)
        return small, small + sum(self.wide.get(o, 0) for o in _SHOWN)

    def to_dict(self) -> dict[str, dict[str, int]]:
        """JSON-ready data."""
        return {"small": dict(self.small), "wide": dict(self.wide)}

    def __str__(self) -> str:
        parts = []
        for operator in _SHOWN:
            small = self.small.get(operator, 0)
            total = small + self.wide.get(operator, 0)
            if total:
                parts.append(f"{small} of {total} {_WORDS[operator]}")
        return (", ".join(parts) or "no products") + " run in 8 bits"


def read_back(optimised: onnx.ModelProto) -> ReadBack:
    """Count the nodes of the graph that ONNX Runtime made, and those of its functions and subgraphs.

    Args:
        optimised: what it writes to ``optimized_model_filepath``.
    """
    small: Counter[str] = Counter()
    wide: Counter[str] = Counter()
    counted = set(KERNELS) | {"ConvTranspose"}
    for node in _nodes(optimised.graph):
        operator = _OF_KERNEL.get(node.op_type)
        if operator is not None:
            small[operator] += 1
            continue
        operator = _PRODUCT_KERNELS.get(node.op_type, node.op_type)
        if operator in counted:
            wide[operator] += 1
    return ReadBack(dict(small), dict(wide))


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                nodes += _nodes(attribute.g)
    return nodes
