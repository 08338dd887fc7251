"""Small graphs as other tools write them: heads of detectors, old opsets, cameras, masks, control flow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
node = helper.make_node
rng = np.random.default_rng(7)
_START = rng.bit_generator.state


def constant(name: str, values: Any, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def weights(name: str, *shape: int, scale: float | None = None) -> onnx.TensorProto:
    return constant(name, rng.standard_normal(shape) * (scale or (2.0 / np.prod(shape[1:])) ** 0.5))


def value(name: str, kind: int, shape: Sequence[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


IMAGE = value("x", FLOAT, ["N", 3, 32, 32])


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
    *,
    opset: int = 17,
    ir: int = 8,
) -> Path:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), path)
    rng.bit_generator.state = _START  # the next graph has the weights that it has by itself, whatever came before
    return path


def trunk(source: str = "x", end: str = "f") -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Two convolutions from an image of 32 to a map of 8."""
    nodes = [
        node("Conv", [source, "w0", "b0"], ["c0"], name="stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1", "b1"], ["c1"], name="body", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], [end]),
    ]
    constants = [
        weights("w0", 16, 3, 3, 3),
        constant("b0", rng.standard_normal(16) * 0.1),
        weights("w1", 16, 16, 3, 3),
        constant("b1", rng.standard_normal(16) * 0.1),
    ]
    return nodes, constants


def detector(path: Path, *, joined: bool = True, cancels: bool = False, spread: float = 1.0) -> Path:
    """Boxes in pixels and scores below 1, in one output or two.

    Args:
        path: the file.
        joined: in one output.
        cancels: scores lose their digits in a difference of large sums.
        spread: a few channels of the trunk, which only boxes read, are larger by this factor.
    """
    nodes, constants = trunk()
    if spread != 1.0:
        old = numpy_helper.to_array(constants[2])
        constants[2] = constant("w1", old * np.where(np.arange(16) < 4, spread, 1.0)[:, None, None, None])
    box, score = rng.standard_normal((4, 16, 1, 1)) * 0.3, rng.standard_normal((8, 16, 1, 1)) * 1.5
    if spread != 1.0:
        box[:, 4:], score[:, :4] = 0, 0
    constants += [
        constant("wb", box * 300 / spread),
        constant("bb", [320, 320, 60, 60]),
        constant("ws", score),
        constant("bs", -2 * np.ones(8)),
        constant("flat4", [0, 4, -1], np.int64),
        constant("flat8", [0, 8, -1], np.int64),
        constant("large", 3000.0),
    ]
    nodes += [
        node("Conv", ["f", "wb", "bb"], ["box_map"], name="head.box"),
        node("Reshape", ["box_map", "flat4"], ["boxes"]),
        node("Conv", ["f", "ws", "bs"], ["logits"], name="head.score"),
    ]
    last = "logits"
    if cancels:
        nodes += [
            node("Add", [last, "large"], ["up"], name="head.up"),
            node("Sub", ["up", "large"], ["down"], name="head.down"),
        ]
        last = "down"
    nodes += [node("Sigmoid", [last], ["score_map"]), node("Reshape", ["score_map", "flat8"], ["scores"])]
    outputs = [value("boxes", FLOAT, ["N", 4, 64]), value("scores", FLOAT, ["N", 8, 64])]
    if joined:
        nodes.append(node("Concat", ["boxes", "scores"], ["y"], axis=1))
        outputs = [value("y", FLOAT, ["N", 12, 64])]
    return save(path, nodes, [IMAGE], outputs, constants)


def chooser(path: Path) -> Path:
    """Classes by ArgMax alone, and the five best with their scores."""
    nodes, constants = trunk()
    constants += [
        weights("wc", 6, 16, 1, 1, scale=1.0),
        constant("k", [5], np.int64),
        constant("flat", [0, -1], np.int64),
    ]
    nodes += [
        node("Conv", ["f", "wc"], ["map"], name="classes"),
        node("ArgMax", ["map"], ["labels"], axis=1, keepdims=0),
        node("Reshape", ["map", "flat"], ["row"]),
        node("TopK", ["row", "k"], ["best", "places"], axis=-1),
    ]
    outputs = [
        value("labels", INT64, ["N", 8, 8]),
        value("best", FLOAT, ["N", 5]),
        value("places", INT64, ["N", 5]),
    ]
    return save(path, nodes, [IMAGE], outputs, constants)


def camera(path: Path, *, transpose_first: bool) -> Path:
    """Bytes with channels last, scaled in the graph."""
    nodes, constants = trunk("scaled", "y")
    constants.append(constant("byte", 1 / 255.0))
    if transpose_first:
        first = [
            node("Transpose", ["image"], ["moved"], perm=[0, 3, 1, 2]),
            node("Cast", ["moved"], ["cast"], to=FLOAT),
        ]
    else:
        first = [
            node("Cast", ["image"], ["moved"], to=FLOAT),
            node("Transpose", ["moved"], ["cast"], perm=[0, 3, 1, 2]),
        ]
    nodes = [*first, node("Mul", ["cast", "byte"], ["scaled"]), *nodes]
    inputs = [value("image", UINT8, ["N", 32, 32, 3])]
    return save(path, nodes, inputs, [value("y", FLOAT, ["N", 16, 8, 8])], constants)


def branches(path: Path) -> Path:
    """An If whose branches read a tensor and weights of the outer graph."""
    nodes, constants = trunk()
    constants += [constant("limit", 0.5), weights("g1", 16, 10), weights("g2", 16, 10), constant("bg", np.zeros(10))]

    def branch(weight: str, result: str) -> onnx.GraphProto:
        inner = node("Gemm", ["flat", weight, "bg"], [result], name=f"gemm_{weight}")
        return helper.make_graph([inner], result, [], [value(result, FLOAT, ["N", 10])])

    nodes += [
        node("GlobalAveragePool", ["f"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("ReduceMean", ["flat"], ["mean"], keepdims=0),
        node("Greater", ["mean", "limit"], ["flag"]),
        node("If", ["flag"], ["y"], then_branch=branch("g1", "y1"), else_branch=branch("g2", "y2")),
    ]
    return save(path, nodes, [IMAGE], [value("y", FLOAT, ["N", 10])], constants)


def group_norm(path: Path) -> Path:
    """GroupNormalization as opset 18 had it, which the checker calls withdrawn."""
    nodes, constants = trunk()
    constants += [constant("gs", np.linspace(0.5, 2, 4)), constant("gb", np.linspace(-1, 1, 4))]
    nodes.append(node("GroupNormalization", ["f", "gs", "gb"], ["y"], num_groups=4, epsilon=1e-5))
    return save(path, nodes, [IMAGE], [value("y", FLOAT, ["N", 16, 8, 8])], constants, opset=18)


def defaults(path: Path) -> Path:
    """Weights listed as inputs too, as in files of IR version 3."""
    nodes, constants = trunk(end="y")
    inputs = [IMAGE, *(value(c.name, c.data_type, list(c.dims)) for c in constants)]
    return save(path, nodes, inputs, [value("y", FLOAT, ["N", 16, 8, 8])], constants, opset=13)


def masked(path: Path, lowest: float = float(np.finfo(np.float32).min), limit: float = 0.2) -> Path:
    """Attention whose mask is the lowest number of float32, or minus infinity."""
    nodes, constants = trunk()
    constants += [
        constant("lowest", lowest),
        constant("limit", limit),
        weights("wq", 16, 16, scale=0.3),
        constant("flat", [0, 16, -1], np.int64),
    ]
    nodes += [
        node("Reshape", ["f", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
        node("MatMul", ["tokens", "wq"], ["queries"]),
        node("MatMul", ["queries", "columns"], ["products"]),
        node("Less", ["products", "limit"], ["mask"]),
        node("Where", ["mask", "lowest", "products"], ["kept"]),
        node("Softmax", ["kept"], ["attention"], axis=-1),
        node("MatMul", ["attention", "tokens"], ["y"]),
    ]
    return save(path, nodes, [IMAGE], [value("y", FLOAT, ["N", 64, 16])], constants)


def old(path: Path) -> Path:
    """Resize and Softmax as opset 11 had them."""
    nodes, constants = trunk()
    constants += [constant("roi", []), constant("twice", [1, 1, 2, 2]), weights("w2", 4, 16, 1, 1)]
    nodes += [
        node("Resize", ["f", "roi", "twice"], ["large"], mode="nearest"),
        node("Conv", ["large", "w2"], ["map"], name="head"),
        node("Softmax", ["map"], ["y"], axis=1),
    ]
    return save(path, nodes, [IMAGE], [value("y", FLOAT, ["N", 4, 16, 16])], constants, opset=11, ir=6)


def embedded(path: Path, *, rows: int = 3) -> Path:
    """Rows of a short table, chosen by integers; names as TensorFlow writes them."""
    constants = [weights("table", rows, 8, scale=1.0), weights("w", 8, 4)]
    nodes = [node("Gather", ["serving/ids:0", "table"][::-1], ["rows"]), node("MatMul", ["rows", "w"], ["serving/y:0"])]
    inputs = [value("serving/ids:0", INT64, ["?", "?"])]
    return save(path, nodes, inputs, [value("serving/y:0", FLOAT, ["?", "?", 4])], constants)
