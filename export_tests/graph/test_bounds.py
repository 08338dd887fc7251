"""A graph that will not fit in memory, or not end, is refused before it is run, with the number."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.errors import InvalidGraphError
from attn_deploy.graph.artifact import load_model

node = helper.make_node


def graph(nodes, weights=(), shape=(1, 4), path=None):
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def loop(count, keeps_going=True):
    """A loop that adds 1 so many times, or for ever where there is no count."""
    value = helper.make_tensor_value_info
    stay = node("Identity", ["cond"], ["stay"]) if keeps_going else node("Less", ["sum", "limit"], ["stay"])
    body = helper.make_graph(
        [node("Add", ["sum", "one"], ["next"]), stay],
        "body",
        [value("i", TensorProto.INT64, ()), value("cond", TensorProto.BOOL, ()), value("sum", TensorProto.FLOAT, ())],
        [value("stay", TensorProto.BOOL, ()), value("next", TensorProto.FLOAT, ())],
    )
    weights = [("one", np.float32(1)), ("limit", np.float32(9)), ("zero", np.float32(0)), ("yes", np.bool_(True))]
    weights += [("count", np.int64(count))] if count is not None else []
    start = "count" if count is not None else ""
    return [node("Loop", [start, "yes", "zero"], ["r"], body=body), node("Add", ["x", "r"], ["y"])], weights


def renamed(nodes, old, new):
    """The nodes, the first of which takes another tensor."""
    nodes[0].input[0] = new if nodes[0].input[0] == old else nodes[0].input[0]
    return nodes


def nested(outer, inner):
    """A loop of so many rounds within another; neither is long by itself."""
    value = helper.make_tensor_value_info
    (first, _), weights = loop(inner)
    body = helper.make_graph(
        [first, node("Identity", ["cond0"], ["stay0"]), node("Add", ["sum0", "r"], ["next0"])],
        "outer",
        [
            value("i0", TensorProto.INT64, ()),
            value("cond0", TensorProto.BOOL, ()),
            value("sum0", TensorProto.FLOAT, ()),
        ],
        [value("stay0", TensorProto.BOOL, ()), value("next0", TensorProto.FLOAT, ())],
    )
    around = node("Loop", ["often", "yes", "zero"], ["all"], body=body)
    return [around, node("Add", ["x", "all"], ["y"])], [*weights, ("often", np.int64(outer))]


ADD = node("Add", ["x", "r"], ["y"])
SUM = node("ReduceSum", ["c"], ["r"], keepdims=0)
MAP = np.ones((1, 1, 2, 2), np.float32)
ONE, BIG = np.float32([1]), np.array([10**9])
UNBOUNDED = {
    "constant": ([node("ConstantOfShape", ["s"], ["c"]), SUM, ADD], [("s", BIG)], "1,000,000,000 elements"),
    "product": (
        [node("Mul", ["a", "a"], ["s"]), node("ConstantOfShape", ["s"], ["c"]), SUM, ADD],
        [("a", np.array([10**5]))],
        "10,000,000,000 elements",
    ),
    "Constant node": (
        [node("Constant", [], ["s"], value_ints=[10**5, 10**5]), node("ConstantOfShape", ["s"], ["c"]), SUM, ADD],
        [],
        "10,000,000,000 elements",
    ),
    "expand": ([node("Expand", ["o", "s"], ["c"]), SUM, ADD], [("o", ONE), ("s", BIG)], "1,000,000,000 elements"),
    "tile": ([node("Tile", ["o", "s"], ["c"]), SUM, ADD], [("o", ONE), ("s", BIG)], "1,000,000,000 elements"),
    "range": (
        [node("Range", ["a", "b", "d"], ["c"]), SUM, ADD],
        [("a", np.float32(0)), ("b", np.float32(1e10)), ("d", np.float32(1))],
        "10,000,000,000 elements",
    ),
    "range without an end": (
        [node("Range", ["a", "b", "d"], ["c"]), SUM, ADD],
        [("a", np.float32(0)), ("b", np.float32(np.inf)), ("d", np.float32(1))],
        "elements",
    ),
    "pad": (
        [node("Pad", ["x", "s"], ["c"]), SUM, ADD],
        [("s", np.array([0, 0, 0, 10**10]))],
        "10,000,000,000 elements",
    ),
    "resize": (
        [node("Resize", ["x", "", "s"], ["c"]), SUM, ADD],
        [("s", np.float32([1e5, 1e6]))],
        "100,000,000,000 elements",
    ),
    "noise": ([node("RandomNormal", [], ["c"], shape=[10**5, 10**5]), SUM, ADD], [], "10,000,000,000 elements"),
    "window": ([node("HannWindow", ["s"], ["c"]), SUM, ADD], [("s", np.array(10**10))], "10,000,000,000 elements"),
    "window in double": (
        [node("HammingWindow", ["s"], ["w"], output_datatype=11), node("Cast", ["w"], ["c"], to=1), SUM, ADD],
        [("s", np.array(10**10))],
        "10,000,000,000 elements",
    ),
    "padding": (
        [node("Conv", ["m", "k"], ["c"], pads=[10**5] * 4), SUM, ADD],
        [("m", MAP), ("k", MAP)],
        "40,000,400,001 elements",
    ),
    "steps": (
        [node("ConvTranspose", ["m", "k"], ["c"], strides=[10**5] * 2), SUM, ADD],
        [("m", MAP), ("k", MAP)],
        "elements",
    ),
    "outer product": (
        [node("MatMul", ["a", "b"], ["c"]), SUM, ADD],
        [("a", np.zeros((10**5, 1), np.float32)), ("b", np.zeros((1, 10**5), np.float32))],
        "10,000,000,000 elements",
    ),
    "broadcast": (
        [node("Add", ["a", "b"], ["c"]), SUM, ADD],
        [("a", np.zeros((10**5, 1), np.float32)), ("b", np.zeros((1, 10**5), np.float32))],
        "10,000,000,000 elements",
    ),
    "unpooling": (
        [node("MaxUnpool", ["m", "i", "s"], ["c"], kernel_shape=[2, 2]), SUM, ADD],
        [("m", MAP), ("i", MAP.astype(np.int64)), ("s", np.array([1, 1, 10**5, 10**5]))],
        "10,000,000,000 elements",
    ),
    "doubled again and again": (
        [node("Concat", [f"x{k}" if k else "x"] * 2, [f"x{k + 1}" if k < 39 else "c"], axis=0) for k in range(40)]
        + [SUM, ADD],
        [],
        "elements",
    ),
    "loop in a loop": (*nested(10**5, 10**5), "10,000,000,000 times"),
    "count that is computed": (
        [node("Mul", ["count", "count"], ["many"]), *renamed(loop(10**6)[0], "count", "many")],
        loop(10**6)[1],
        "1,000,000,000,000 times",
    ),
    "negative": ([node("ConstantOfShape", ["s"], ["c"]), SUM, ADD], [("s", np.array([-5]))], r"shape \[-5\]"),
    "loop": (*loop(10**12), "1,000,000,000,000 times"),
    "loop without an end": (*loop(None), "no end"),
}


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_what_will_not_fit_or_end_is_refused_with_its_number(kind, tmp_path):
    nodes, weights, number = UNBOUNDED[kind]
    with pytest.raises(InvalidGraphError, match=number):
        load_model(graph(nodes, weights, path=tmp_path / "m.onnx"))


@pytest.mark.parametrize(("shape", "number"), [((2**40, 4), "17,592,186,044,416 bytes"), ((-5, 4), "extent -5")])
def test_extents_of_inputs_are_bounded(shape, number, tmp_path):
    with pytest.raises(InvalidGraphError, match=number):
        load_model(graph([node("Relu", ["x"], ["y"])], shape=shape, path=tmp_path / "m.onnx"))


SOUND = {
    "constant": ([node("ConstantOfShape", ["s"], ["c"]), SUM, ADD], [("s", np.array([1000, 1000]))]),
    "expand": ([node("Expand", ["x", "s"], ["y"])], [("s", np.array([64, 4]))]),
    "range": (
        [node("Range", ["a", "b", "d"], ["c"]), SUM, ADD],
        [("a", np.float32(0)), ("b", np.float32(100)), ("d", np.float32(1))],
    ),
    "loop": loop(100),
    "loop in a loop": nested(10, 20),
    "loop with a condition": loop(None, keeps_going=False),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_fits_and_ends_is_read(kind, tmp_path):
    assert load_model(graph(*SOUND[kind], path=tmp_path / "m.onnx")).graph.node


def test_a_large_map_that_an_input_makes_is_no_constant(tmp_path):
    weights = [("k", np.ones((64, 3, 1, 1), np.float32))]
    path = graph([node("Conv", ["x", "k"], ["y"])], weights, shape=(1, 3, 2200, 2200), path=tmp_path / "m.onnx")
    assert load_model(path).graph.node  # 1.2 GB


@pytest.mark.parametrize("text", ["gone", "x", "y", "Relu", "key", "value"])
def test_names_that_are_not_text_are_refused(text, tmp_path):
    path = graph([node("Relu", ["x"], ["y"], name="gone")], path=tmp_path / "m.onnx")
    model = onnx.load(path)
    model.metadata_props.add(key="key", value="value")
    content = model.SerializeToString()
    plain = bytes([len(text)]) + text.encode()
    assert plain in content
    path.write_bytes(content.replace(plain, bytes([len(text)]) + b"\xff" * len(text)))
    with pytest.raises(InvalidGraphError, match="not UTF-8"):
        load_model(path)
