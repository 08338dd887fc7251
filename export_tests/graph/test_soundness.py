"""Graphs that contradict themselves are refused by every command, in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from attn_deploy import build, convert, inspect, quantize
from attn_deploy.cli import app
from attn_deploy.errors import AttnDeployError, GraphError
from attn_deploy.graph.soundness import check_sound


def sound() -> onnx.ModelProto:
    weights = np.ones((4, 3, 3, 3), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Max", ["c", "least"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.float32(-np.inf), "least")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def fill(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        array = np.ones((4, 3, 3, 3), np.float32)
        array[1, 2, 0, 0] = value
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))

    return change


def add(operator: str, **attributes: object) -> Callable[[onnx.ModelProto], None]:
    """Another node, whose output joins the graph's."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(operator, ["x"] * (operator != "Constant"), ["extra"], **attributes))

    return change


def add_branch(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])
    branch = helper.make_graph([], "b", [], [value], [numpy_helper.from_array(np.float32([np.nan]), "b")])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["extra"], then_branch=branch, else_branch=branch))


def add_function(model: onnx.ModelProto) -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, np.nan]),
        helper.make_node("Add", ["a", "k"], ["b"]),
    ]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))
    model.opset_import.add(domain="own", version=1)
    model.graph.node.append(helper.make_node("F", ["x"], ["extra"], domain="own"))


def add_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.float32([np.nan]), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0]), "i"))


NAN = numpy_helper.from_array(np.float32([np.nan]))
BREAKS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "NaN weight": (fill(np.nan), "1 of 108 weights in 'w' are NaN"),
    "infinite weight": (fill(np.inf), "1 of 108 weights in 'w' are infinite"),
    "NaN number": (add("Constant", value_float=np.nan), "1 of 1 weights in 'extra' are NaN"),
    "NaN tensor": (add("Constant", value=NAN), "1 of 1 weights in 'extra' are NaN"),
    "NaN slope": (add("LeakyRelu", alpha=np.nan), "1 of 1 weights in 'extra' are NaN"),
    "NaN fill": (add("ConstantOfShape", value=NAN), "1 of 1 weights in 'extra' are NaN"),
    "NaN in eight bits": (
        lambda m: m.graph.initializer.append(
            helper.make_tensor("q", TensorProto.FLOAT8E4M3FN, (2,), b"\x08\x7f", raw=True)
        ),
        "1 of 2 weights in 'q' are NaN",
    ),
    "NaN in a branch": (add_branch, "1 of 1 weights in 'b' are NaN"),
    "NaN in a function": (add_function, "1 of 2 weights in 'k' are NaN"),
    "NaN in a sparse weight": (add_sparse, "1 of 1 weights in 's' are NaN"),
    "future opset": (lambda m: setattr(m.opset_import[0], "version", 99), "opset 99 does not exist"),
    "opset 0": (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0 does not exist"),
    "opset twice": (lambda m: m.opset_import.add(domain="ai.onnx", version=17), "is imported 2 times"),
    "output twice": (lambda m: m.graph.output.append(m.graph.output[0]), "the output 'y' is defined 2 times"),
    "tensor twice": (lambda m: m.graph.node.append(m.graph.node[1]), "the tensor 'y' is defined 2 times"),
    "element type": (
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 9999),
        "'y' has the element type 9999",
    ),
}


def test_a_sound_graph_passes():
    model = sound()
    check_sound(model, "net")  # the infinity is a mask's, no weight of a product
    model.graph.node.insert(0, helper.make_node("Clip", ["x"], ["clipped"], min=-np.inf))  # nor is a bound that is none
    model.graph.node[1].input[0] = "clipped"
    check_sound(model, "net")


@pytest.mark.parametrize(("change", "words"), BREAKS.values(), ids=BREAKS.keys())
def test_every_command_refuses(tmp_path, change, words):
    model, path = sound(), tmp_path / "net.onnx"
    change(model)
    path.write_bytes(model.SerializeToString())
    out = tmp_path / "out.onnx"
    for step in (
        lambda: convert(path, out, opset=18),
        lambda: convert(path, out, precision="fp16"),
        lambda: quantize(path, out),
        lambda: build(path, out.with_suffix(".engine")),
        lambda: inspect(path),
    ):
        with pytest.raises(GraphError, match=words):
            step()
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    run = CliRunner().invoke(app, ["build", str(path)])
    assert (run.exit_code, run.stderr.count("\n")) == (1, 1)


def symbolic(tmp_path, extent: str):
    """A file with an axis of this name."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [extent, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 4])],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("extent", ["(N", "-N", "N/2", "N//10", "H//0x", "a/0.5"])
def test_symbols_that_are_no_sizes_are_names(tmp_path, extent):
    assert convert(symbolic(tmp_path, extent), tmp_path / "o.onnx", opset=18).opset == 18


@pytest.mark.parametrize("extent", ["N//0", "N % 0", "2*(N+1)//(0)", "N/0 + 1"])
def test_an_axis_that_divides_by_zero_is_refused(tmp_path, extent):
    path = symbolic(tmp_path, extent)
    with pytest.raises(GraphError, match=r"'x' has the axis '.*0.*', which has no extent: it divides by zero"):
        convert(path, tmp_path / "o.onnx", opset=18)
    assert CliRunner().invoke(app, ["inspect", str(path)]).exit_code == 1


def test_an_input_beyond_memory_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2**40, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2**40, 4])],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(AttnDeployError, match=r"4,398,046,511,104 elements|17,592,186,044,416 bytes"):
        convert(path, tmp_path / "o.onnx", opset=18)
