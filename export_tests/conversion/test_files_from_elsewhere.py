"""Files of other exporters: what the checker or a conversion refused is repaired in a copy, or told whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from attn_deploy import convert, inspect, quantize, verify_files
from attn_deploy.cli import app
from attn_deploy.errors import FileWarning, GraphError, OpsetError
from attn_deploy.graph.artifact import load_model, read_onnx
from export_tests.conversion import graphs_from_elsewhere as elsewhere
from export_tests.conversion.runs import images, run

GRAPHS = {
    "opset 11": elsewhere.old,
    "defaults": elsewhere.defaults,
    "group norm": elsewhere.group_norm,
    "if": elsewhere.branches,
    "camera, transpose first": lambda p: elsewhere.camera(p, transpose_first=True),
    "camera, cast first": lambda p: elsewhere.camera(p, transpose_first=False),
    "mask": elsewhere.masked,
    "infinite mask": lambda p: elsewhere.masked(p, -np.inf, -3.0),
    "choices": elsewhere.chooser,
}


@pytest.mark.filterwarnings("ignore:.*repaired in a copy:attn_deploy.errors.FileWarning")
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_files_are_converted_and_right(tmp_path, make):
    """Right by ONNX Runtime on the untouched source, on inputs that the conversion has not seen."""
    source = make(tmp_path / "source.onnx")
    if "image" in {i.name for i in read_onnx(source).inputs}:
        feeds = {"image": np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)}
    else:
        feeds = {"x": images(3, seed=11)}
    right = run(source, **feeds)
    steps = {
        "opset": (lambda t: convert(source, t, opset=20), 1e-5),
        "fp16": (lambda t: convert(source, t, precision="fp16"), 2e-2),
        "int8": (lambda t: quantize(source, t, method="minmax"), 0.2),
    }
    for name, (step, allowed) in steps.items():
        artifact = step(tmp_path / f"{name}.onnx")
        assert artifact.seal == "whole"
        assert {i.name for i in artifact.inputs} == set(feeds)
        for a, b in zip(right, run(artifact.path, **feeds), strict=True):
            if a.dtype.kind == "f":
                assert np.sqrt(np.mean((a - b) ** 2)) <= allowed * np.sqrt(np.mean(a**2)), name


@pytest.mark.filterwarnings("ignore:.*repaired in a copy:attn_deploy.errors.FileWarning")
def test_every_command_reads_them(tmp_path):
    for index, make in enumerate(GRAPHS.values()):
        source = make(tmp_path / f"{index}.onnx")
        assert inspect(source).artifact.nodes > 3
        assert verify_files(source, source).passed


def test_what_was_repaired_is_said(tmp_path):
    source = elsewhere.group_norm(tmp_path / "g.onnx")
    with pytest.warns(FileWarning, match="repaired in a copy: GroupNormalization of opset 18 written with Instance"):
        read_onnx(source)
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", "20", "-o", str(tmp_path / "o.onnx")])
    assert result.exit_code == 0
    assert result.stderr.count("warning: ") == 1


def reversed_nodes(model: onnx.ModelProto) -> str:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return "nodes sorted"


def wrong_rank(model: onnx.ModelProto) -> str:
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 7
    return "declared shape of y replaced"


def negative_batch(model: onnx.ModelProto) -> str:
    for v in (*model.graph.input, *model.graph.output):
        v.type.tensor_type.shape.dim[0].dim_value = -1
    return "sizes of -1 in x, y read as unknown"


@pytest.mark.parametrize("spoil", [reversed_nodes, wrong_rank, negative_batch])
def test_what_runtimes_bear_is_repaired(tmp_path, spoil):
    nodes, constants = elsewhere.trunk(end="y")
    source = elsewhere.save(
        tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, ["N", 16, 8, 8])], constants
    )
    right = run(source, x=images())[0]
    model = load_model(source)
    words = spoil(model)
    onnx.save(model, source)
    with pytest.warns(FileWarning, match=words):
        artifact = convert(source, tmp_path / "o.onnx", opset=20)
    np.testing.assert_allclose(run(artifact.path, x=images())[0], right, atol=1e-5)


def test_the_whole_message_of_the_checker_is_told(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    nodes[1].op_type = "Rellu"
    outputs = [elsewhere.value("y", 1, ["N", 16, 8, 8])]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], outputs, constants)
    with pytest.raises(GraphError, match=r"No Op registered for Rellu.*Context: Bad node spec.*OpType: Rellu"):
        read_onnx(path)


def test_opsets_that_nothing_reads_are_refused(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    outputs = [elsewhere.value("y", 1, ["N", 16, 8, 8])]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], outputs, constants, opset=3, ir=4)
    with pytest.raises(OpsetError, match="opset is 3; opsets 4 and above"):
        convert(path, opset=17)


def test_weights_behind_a_cast_or_a_transpose_are_weights(tmp_path):
    nodes, constants = elsewhere.trunk("x", "f")
    wide = constants[0]
    constants[0] = elsewhere.constant("w0_half", onnx.numpy_helper.to_array(wide), np.float16)
    constants += [elsewhere.constant("wt", np.random.default_rng(0).standard_normal((5, 16)))]
    nodes = [
        elsewhere.node("Cast", ["w0_half"], ["w0"], to=elsewhere.FLOAT),
        *nodes,
        elsewhere.node("GlobalAveragePool", ["f"], ["p"]),
        elsewhere.node("Flatten", ["p"], ["row"]),
        elsewhere.node("Transpose", ["wt"], ["wm"], perm=[1, 0]),
        elsewhere.node("MatMul", ["row", "wm"], ["y"], name="last"),
    ]
    path = elsewhere.save(tmp_path / "w.onnx", nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, ["N", 5])], constants)
    record = quantize(path, tmp_path / "q.onnx", method="minmax").evidence.quantization
    assert (record["weights"], record["left"]) == (3, [])
    half = convert(path, tmp_path / "h.onnx", precision="fp16")
    assert "Transpose" not in half.operators
    np.testing.assert_allclose(run(half.path, x=images())[0], run(path, x=images())[0], rtol=0.05, atol=0.02)


def test_finite_tensors_whose_sum_overflows_are_finite(tmp_path):
    nodes = [
        elsewhere.node("Mul", ["x", "huge"], ["m"]),
        elsewhere.node("Clip", ["m", "low", "high"], ["c"]),
        elsewhere.node("Div", ["c", "huge"], ["d"]),
        elsewhere.node("Conv", ["d", "w"], ["y"], name="conv"),
    ]
    constants = [
        elsewhere.constant("huge", 1e36),
        elsewhere.constant("low", -1e38),
        elsewhere.constant("high", 1e38),
        elsewhere.weights("w", 4, 3, 3, 3),
    ]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, None)], constants)
    model = load_model(path)
    model.graph.output[0].CopyFrom(elsewhere.value("y", 1, ["N", 4, 30, 30]))
    onnx.save(model, path)
    assert convert(path, tmp_path / "h.onnx", precision="fp16").evidence.typing["products"] == {"float16": 1}
