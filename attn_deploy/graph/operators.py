"""Which operators an exported file may hold, in one place."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from attn_deploy.errors import OperatorError

# Standard-domain operators that ONNX Runtime runs and TensorRT(-RTX) builds in the forms that the exporters emit.
ALLOWED = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "ArgMax",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Ceil",
        "Clip",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Conv",
        "ConvTranspose",
        "Cos",
        "CumSum",
        "DequantizeLinear",
        "Div",
        "Einsum",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Greater",
        "GreaterOrEqual",
        "GridSample",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LayerNormalization",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "LogSoftmax",
        "LpNormalization",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mish",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "OneHot",
        "Or",
        "PRelu",
        "Pad",
        "Pow",
        "QuantizeLinear",
        "Range",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Relu",
        "Reshape",
        "Resize",
        "Round",
        "ScatterND",
        "Shape",
        "Sigmoid",
        "Sign",
        "Sin",
        "Size",
        "Slice",
        "Softmax",
        "Softplus",
        "SpaceToDepth",
        "DepthToSpace",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tanh",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Xor",
    ]
)
# Control flow costs a synchronisation on a GPU and stops fusion; no zoo module needs it.
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of every subgraph in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from all_nodes(sub)


def foreign_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of a custom domain: no runtime but their author's can run them."""
    return [n for n in all_nodes(model.graph) if n.domain not in ("", "ai.onnx")]


def unlisted_operators(model: onnx.ModelProto) -> list[str]:
    """Operator types outside the allow-list (control flow and custom domains included), sorted."""
    return sorted(
        {n.op_type for n in all_nodes(model.graph) if n.op_type not in ALLOWED or n.domain not in ("", "ai.onnx")}
    )


def refuse_foreign(model: onnx.ModelProto, owner: str) -> None:
    """Refuse a graph with operators of a custom domain.

    Raises:
        OperatorError: naming the first such node.
    """
    for node in foreign_nodes(model):
        raise OperatorError(
            f"{owner}: the graph holds {node.domain}::{node.op_type} (node {node.name!r}), which is not a standard operator "
            "and runs in no other runtime. Write that part of the model with standard operators."
        )
