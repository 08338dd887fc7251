"""What no runtime may be given: a graph that contradicts itself, or weights that are no numbers."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from attn_deploy.errors import GraphError
from attn_deploy.graph.placed import array_of

_PIECE = 1 << 22  # elements looked at together: the answer for a whole weight of a gigabyte would take a quarter of it
_FLOATS = frozenset(
    getattr(TensorProto, name)
    for name in [
        "FLOAT",
        "FLOAT16",
        "DOUBLE",
        "BFLOAT16",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
    ]
)
# Operators that multiply or add their constants: an infinite one makes every result infinite or NaN. Elsewhere infinity
# has its uses: a mask before a softmax, the padding of a maximum.
_LEARNED = frozenset(
    """Conv ConvTranspose Gemm MatMul ConvInteger BatchNormalization InstanceNormalization LayerNormalization
    GroupNormalization PRelu LSTM GRU RNN""".split()  # noqa: SIM905 - a list, a few names a line
)


def check_sound(model: onnx.ModelProto, what: str) -> None:
    """Refuse a graph that contradicts itself.

    Args:
        model: the graph, with its weights loaded.
        what: its name in messages.

    Raises:
        GraphError: if an opset is imported twice or does not exist, an output is made twice, an element type does not
            exist, or a weight is NaN or infinite.
    """
    _check_opsets(model, what)
    _check_names(model, what)
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and kind not in TensorProto.DataType.values():
            raise GraphError(f"{what}: {value.name!r} has the element type {kind}, which ONNX does not have.")
    _check_weights(model, what)


def _check_opsets(model: onnx.ModelProto, what: str) -> None:
    versions = collections.Counter("" if o.domain == "ai.onnx" else o.domain for o in model.opset_import)
    for domain, count in versions.items():
        if count > 1:
            raise GraphError(f"{what}: the opset of the domain {domain or 'ai.onnx'!r} is imported {count} times.")
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= newest:
            raise GraphError(
                f"{what}: opset {entry.version} does not exist for the installed onnx {onnx.__version__}, which knows 1 to "
                f"{newest}. Export the model at one of these, or install a newer onnx."
            )


def _check_names(model: onnx.ModelProto, what: str) -> None:
    results = collections.Counter(o for n in model.graph.node for o in n.output if o)
    outputs = collections.Counter(o.name for o in model.graph.output)
    for kind, names in (("tensor", results), ("output", outputs)):
        for name, count in names.items():
            if count > 1:
                raise GraphError(f"{what}: the {kind} {name!r} is defined {count} times. Export the model again.")


def _check_weights(model: onnx.ModelProto, what: str) -> None:
    learned = {i for g in _graphs(model) for n in g.node if n.op_type in _LEARNED for i in n.input}
    for name, tensor in _constants(model):
        try:
            array = array_of(tensor).reshape(-1)
        except Exception as error:  # whatever numpy makes of sizes and types that contradict each other
            raise GraphError(
                f"{what}: the weights {name!r} cannot be read: {' '.join(str(error).split())[:300]}"
            ) from error
        if tensor.data_type not in _FLOATS or all(
            np.isfinite(array[k : k + _PIECE]).all() for k in range(0, array.size, _PIECE)
        ):
            continue
        nans = int(np.isnan(array).sum())
        if nans or name in learned:
            kind = "NaN" if nans else "infinite"
            count = nans or int(np.isinf(array).sum())
            raise GraphError(
                f"{what}: {count} of {array.size} weights in {name!r} are {kind}. Correct the checkpoint and export it again."
            )


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant of the main graph, of the graphs within it, and of its functions."""
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from ((t.name, t) for t in graph.initializer)
            yield from ((t.values.name, t.values) for t in graph.sparse_initializer)
        for node in graph.node:
            name = node.output[0] if node.output else node.name
            for attribute in node.attribute:
                yield from ((name, t) for t in (attribute.t, *attribute.tensors) if t.data_type)
                if attribute.HasField("sparse_tensor"):
                    yield name, attribute.sparse_tensor.values
                numbers = [attribute.f] if attribute.type == onnx.AttributeProto.FLOAT else attribute.floats
                if not np.isfinite(numbers).all() and (node.op_type == "Constant" or np.isnan(numbers).any()):
                    yield name, numpy_helper.from_array(np.asarray(numbers, np.float32))


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    left: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while left:
        graph = left.pop()
        yield graph
        inner = (g for n in graph.node for a in n.attribute for g in ([a.g] if a.HasField("g") else a.graphs))
        left += inner
