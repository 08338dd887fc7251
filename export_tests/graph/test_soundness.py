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


BREAKS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "NaN weight": (fill(np.nan), "1 of 108 weights in 'w' are NaN"),
    "infinite weight": (fill(np.inf), "1 of 108 weights in 'w' are infinite"),
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
    check_sound(sound(), "net")  # the infinity is a mask's, no weight of a product


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
