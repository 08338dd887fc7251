"""Parts of a transposed tensor are taken first: the same numbers, and no Transpose of five axes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.graph.transposed_parts import transpose_parts_

ORDERS = [(2, 0, 3, 1, 4), (2, 0, 3, 4, 1), (2, 0, 1, 3, 4), (0, 3, 2, 4, 1)]


def parts(order, by="Slice", axis=0, output=False, opset=18):
    """Three parts of a transposed tensor along an axis: q + k * v."""
    numbers = {"axis": np.array([axis])} | {f"at{k}": np.array([k]) for k in range(4)}
    numbers |= {f"place{k}": np.array(k) for k in range(3)}
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=list(order), name="t")]
    for k, name in enumerate("qkv"):
        if by == "Gather":
            nodes.append(helper.make_node("Gather", ["t", f"place{k}"], [name], axis=axis))
        else:
            nodes.append(helper.make_node("Slice", ["t", f"at{k}", f"at{k + 1}", "axis"], [f"{name}1"]))
            nodes.append(helper.make_node("Squeeze", [f"{name}1", "axis"], [name]))
    nodes += [helper.make_node("Mul", ["k", "v"], ["kv"]), helper.make_node("Add", ["q", "kv"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    if output:
        outputs.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [None] * 5))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * 5)
    constants = [numpy_helper.from_array(v, n) for n, v in numbers.items()]
    graph = helper.make_graph(nodes, "g", [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("by", ["Slice", "Gather"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("opset", [13, 18])
def test_the_numbers_are_the_same(order, by, opset):
    axis = order.index(2) if by == "Slice" else order.index(2) - 5
    model = parts(order, by, axis, opset=opset)
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5, 6)).astype(np.float32)
    before = run(model, x)
    assert transpose_parts_(model.graph) == 1
    onnx.checker.check_model(model)
    assert all(len(n.attribute[0].ints) == 4 for n in model.graph.node if n.op_type == "Transpose")
    for one, other in zip(before, run(model, x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_stay_names_of_one_thing():
    model = parts(ORDERS[0])
    for k, node in enumerate(n for n in model.graph.node if n.op_type != "Transpose"):
        node.name = f"t_part{k or ''}"
    assert transpose_parts_(model.graph) == 1
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)
    onnx.checker.check_model(model)
    run(model, np.zeros((2, 4, 3, 5, 6), np.float32))


def test_what_is_read_whole_stays():
    model = parts(ORDERS[0], output=True)
    before = model.SerializeToString()
    assert transpose_parts_(model.graph) == 0
    assert model.SerializeToString() == before


def test_a_squeeze_of_another_axis_stays():
    model = parts(ORDERS[0])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "other"))
    next(n for n in model.graph.node if n.op_type == "Squeeze").input[1] = "other"
    assert transpose_parts_(model.graph) == 0
