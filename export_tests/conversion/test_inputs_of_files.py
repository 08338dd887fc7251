"""Inputs of files from elsewhere: their names and sizes, and the data that a user gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from attn_deploy import convert, diagnose, quantize
from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import load_model
from attn_deploy.parity.given import given_inputs
from export_tests.conversion import graphs_from_elsewhere as elsewhere
from export_tests.conversion.runs import images


def test_names_with_slashes_and_colons(tmp_path):
    source = elsewhere.embedded(tmp_path / "e.onnx")
    given = given_inputs(load_model(source), ["serving/ids:0:2x5"])
    assert given.shapes == {"serving/ids:0": (2, 5)}
    artifact = convert(source, tmp_path / "o.onnx", opset=20, inputs=["serving/ids:0:2x5"])
    assert {"serving/ids:0": [2, 5]} in artifact.evidence.conversion["shapes"]
    result = CliRunner().invoke(app, ["inspect", str(source), "--input", "serving/ids:0:2x5"])
    assert (result.exit_code, "2x5" in result.stdout) == (0, True)
    with pytest.raises(InvalidRequestError, match=r"the graph's inputs are serving/ids:0"):
        convert(source, opset=20, inputs=["ids:2x5"])


def test_diagnose_and_profile_take_them(tmp_path):
    source = elsewhere.embedded(tmp_path / "e.onnx")
    np.savez(tmp_path / "ids.npz", **{"serving/ids:0": np.array([[0, 2, 1]])})
    report = diagnose(source, precision="fp16", build=False, samples=[tmp_path / "ids.npz"])
    assert (report.passed, report.compared_at) == (True, {"serving/ids:0": (1, 3)})
    words = ["diagnose", str(source), "--precision", "fp16", "--no-build", "--input", "serving/ids:0:2x5"]
    assert "2x5" in CliRunner().invoke(app, words).stdout
    words = ["profile", str(source), "--runtimes", "ort-cpu", "--input", "serving/ids:0:2x5:int64", "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["rows"][0]["status"] in ("ok", "noisy")


def test_integers_stay_within_the_table_that_they_index(tmp_path):
    """A table of three rows: 0 to 7, as integers were drawn once, would not run."""
    assert convert(elsewhere.embedded(tmp_path / "e.onnx"), tmp_path / "o.onnx", precision="fp16").seal == "whole"


def test_real_inputs_decide(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    np.savez(tmp_path / "real.npz", x=images(2))
    artifact = convert(source, tmp_path / "h.onnx", precision="fp16", samples=[tmp_path / "real.npz"])
    assert artifact.evidence.typing["calibration"] == {"data": "the samples given"}
    assert artifact.evidence.typing["shapes"] == [{"x": [2, 3, 32, 32]}, {"x": [4, 3, 32, 32]}]
    small = quantize(source, tmp_path / "q.onnx", samples=[tmp_path / "real.npz"], method="minmax")
    assert small.evidence.quantization["calibration"] == {"data": "the samples given"}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": images()}, "holds y, and the graph's input 'x' is not among them"),
        ({"x": images()[:, :2], "z": 1}, "has the shape 4x2x32x32, and the graph takes"),
        ({"x": images().astype(complex)}, "'x' is complex128 of shape"),
        ({"x": np.array(["a"])}, "'x' is <U1 of shape"),
        ({}, "holds no array"),
    ],
)
def test_samples_that_do_not_fit(tmp_path, arrays, words):
    np.savez(tmp_path / "s.npz", **arrays)
    if len(arrays) == 1 and "y" in arrays:
        arrays = {"y": images(), "z": images()}
        np.savez(tmp_path / "s.npz", **arrays)
        words = "holds y, z, and the graph's input 'x' is not among them"
    with pytest.raises(InvalidRequestError, match=words):
        convert(elsewhere.detector(tmp_path / "d.onnx"), opset=20, samples=[tmp_path / "s.npz"])


def test_axes_without_names_are_axes_of_their_own(tmp_path):
    """Two inputs of other lengths, all axes called '?': one symbol for both would not run."""
    nodes = [
        elsewhere.node("MatMul", ["a", "wa"], ["p"]),
        elsewhere.node("ReduceSum", ["p"], ["y"], keepdims=0),
        elsewhere.node("MatMul", ["b", "wb"], ["q"]),
        elsewhere.node("Identity", ["q"], ["z"]),
    ]
    constants = [elsewhere.weights("wa", 3, 4), elsewhere.weights("wb", 5, 4)]
    inputs = [elsewhere.value("a", 1, ["?", "?", 3]), elsewhere.value("b", 1, ["?", 5])]
    outputs = [elsewhere.value("y", 1, []), elsewhere.value("z", 1, ["?", 4])]
    path = elsewhere.save(tmp_path / "u.onnx", nodes, inputs, outputs, constants)
    shapes = convert(path, tmp_path / "o.onnx", opset=20).evidence.conversion["shapes"]
    assert any(s["a"][0] != s["a"][1] for s in shapes)


def test_a_profile_takes_sizes_of_minus_one(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    source = elsewhere.save(
        tmp_path / "m.onnx",
        nodes,
        [elsewhere.value("x", elsewhere.FLOAT, [-1, 3, 32, 32])],
        [elsewhere.value("y", elsewhere.FLOAT, [-1, 16, 8, 8])],
        constants,
    )
    result = CliRunner().invoke(app, ["profile", str(source), "--seconds", "0.01", "--threads", "1"])
    assert result.exit_code == 0, result.output
