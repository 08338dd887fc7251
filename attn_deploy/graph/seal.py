"""A hash over what a model computes, which outlives saving and loading with onnx.

In it: the nodes in order, the interface, the opsets, functions and every weight, whether it lies in the file or in a data
file beside it. Not in it: the model's metadata and documentation, the names of producers, and the order of weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from attn_deploy.graph.placed import chunks, is_placed, place_of

_PREFIX = "1:"  # the way of hashing; another way gets another number


def seal_of(model: onnx.ModelProto) -> str:
    """The seal of a model whose weights are loaded, or placed in a file (see `attn_deploy.graph.placed`)."""
    digest = hashlib.sha256()
    for domain, version in sorted((o.domain, o.version) for o in model.opset_import):
        digest.update(f"{domain}={version};".encode())
    graph = model.graph
    skeleton = onnx.GraphProto()
    skeleton.node.extend(graph.node)
    skeleton.input.extend(graph.input)
    skeleton.output.extend(graph.output)
    skeleton.sparse_initializer.extend(graph.sparse_initializer)
    skeleton.quantization_annotation.extend(graph.quantization_annotation)
    _update(digest, _plain(skeleton).SerializeToString(deterministic=True))
    for function in model.functions:
        _update(digest, function.SerializeToString(deterministic=True))
    for tensor in sorted(graph.initializer, key=lambda t: t.name):
        _update(digest, f"{tensor.name} {tensor.data_type} {tuple(tensor.dims)}".encode())
        if is_placed(tensor):
            place = place_of(tensor)
            digest.update(place.length.to_bytes(8, "little"))
            for block in chunks(place):
                digest.update(block)
        else:
            _update(digest, _bytes(tensor))
    return _PREFIX + digest.hexdigest()


def _update(digest: hashlib._Hash, data: bytes) -> None:
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)


def _bytes(tensor: onnx.TensorProto) -> bytes:
    """The elements as ``raw_data`` would hold them, wherever they are."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    try:
        array: NDArray[np.generic] = numpy_helper.to_array(tensor)
        return bytes(array.tobytes())
    except (TypeError, ValueError, KeyError, OSError, onnx.checker.ValidationError):
        return bytes(tensor.SerializeToString(deterministic=True))


def _plain(graph: onnx.GraphProto) -> onnx.GraphProto:
    """The graph without documentation, and without a trace of where the elements of constants were stored."""
    for node in graph.node:
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors) if _holds_tensors(attribute) else ():
                _unplace(tensor)
            for sub in _subgraphs(attribute):
                for tensor in sub.initializer:
                    _unplace(tensor)
                _plain(sub)
    return graph


def _holds_tensors(attribute: onnx.AttributeProto) -> bool:
    return attribute.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS)


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        yield attribute.g
    elif attribute.type == onnx.AttributeProto.GRAPHS:
        yield from attribute.graphs


def _unplace(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.DEFAULT:
        tensor.ClearField("data_location")
