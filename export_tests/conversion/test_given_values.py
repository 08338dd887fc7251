"""What a user says of a file's inputs: whole samples, single values, and what the graph says by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from attn_deploy import convert, diagnose, inspect, profile, quantize, simplify, unguarded, verify_files
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import inputs_from_dicts, inputs_to_dicts
from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.integers import integer_choices
from attn_deploy.parity.given import given_inputs
from attn_deploy.parity.graphs import runnable_inputs
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from export_tests.conversion.graphs_from_elsewhere import FLOAT, INT64, constant, node, save, value, weights

QUICK = BenchOptions(min_samples=12, min_seconds=0.01, max_seconds=0.2, warmup_seconds=0.01, rounds=3, threads=1)
WINDOW = 576


def speech(path: Path, *, tied: bool = True) -> Path:
    """Takes one window of sound, a state, and a rate that it knows by name; another rate is another network."""
    rows: list[str | None] = ["N", "N"] if tied else [None, None]
    nodes = [
        node("MatMul", ["sound", "w"], ["near"], name="near"),
        node("MatMul", ["sound", "v"], ["far"], name="far"),
        node("Equal", ["rate", "usual"], ["same"]),
        node("Where", ["same", "near", "far"], ["chosen"]),
        node("Unsqueeze", ["chosen", "first"], ["row"]),
        node("Add", ["state", "row"], ["next"]),
        node("ReduceSum", ["next"], ["y"], keepdims=0),
        node("Identity", ["rate"], ["rate_out"]),
    ]
    constants = [
        weights("w", WINDOW, 8),
        weights("v", WINDOW, 8),
        constant("usual", 16000, np.int64),
        constant("first", [0], np.int64),
    ]
    inputs = [
        value("sound", FLOAT, [rows[0], "T"]),
        value("state", FLOAT, [1, rows[1], 8]),
        value("rate", INT64, []),
    ]
    outputs = [value("next", FLOAT, [1, None, 8]), value("y", FLOAT, []), value("rate_out", INT64, [])]
    return save(path, nodes, inputs, outputs, constants)


def sample(path: Path, rate: int = 16000) -> Path:
    rng = np.random.default_rng(5)
    arrays = {"sound": rng.standard_normal((3, WINDOW)), "state": rng.standard_normal((1, 3, 8))}
    np.savez(path, rate=np.array(rate, np.int64), **{n: a.astype(np.float32) for n, a in arrays.items()})
    return path


def test_a_number_keeps_its_rank(tmp_path):
    source, data = speech(tmp_path / "s.onnx"), sample(tmp_path / "s.npz")
    model = load_model(source)
    [arrays] = given_inputs(model, samples=[data]).samples
    assert arrays["rate"].shape == ()
    assert run_once(OnnxRuntimeRunner(source), arrays)["rate_out"].shape == ()


@pytest.mark.parametrize("tied", [True, False])
def test_a_single_window_and_a_rate_are_found(tmp_path, tied):
    model = load_model(speech(tmp_path / "s.onnx", tied=tied))
    assert integer_choices(model) == {"rate": (16000,)}
    inputs, moving = runnable_inputs(model, OnnxRuntimeRunner(model.SerializeToString()))
    shapes = {i.name: i.shape() for i in inputs}
    assert shapes == {"sound": (2, WINDOW), "state": (1, 2, 8), "rate": ()}
    assert len(moving) == 1
    assert moving[0][0] == "N"
    assert [int(v) for v in inputs[2].values] == [16000]


def test_every_command_takes_samples_and_single_values(tmp_path):
    source, data = speech(tmp_path / "s.onnx"), sample(tmp_path / "s.npz", rate=8000)
    given = {"inputs": [f"sound:1x{WINDOW}"], "samples": ["rate=8000"]}
    raised = convert(source, tmp_path / "a.onnx", opset=21, **given)
    assert json.loads(raised.metadata["conversion"])["shapes"][0]["sound"] == [1, WINDOW]
    convert(source, tmp_path / "b.onnx", precision="fp16", samples=[data])
    quantize(source, tmp_path / "c.onnx", samples=[data], target="cpu")
    simplify(source, tmp_path / "d.onnx", samples=[data])
    assert verify_files(source, tmp_path / "a.onnx", **given).passed
    assert verify_files(source, tmp_path / "a.onnx", samples=[data]).inputs[0]["sound"] == (3, WINDOW)
    assert inspect(source, samples=[data]).sizes["sound"] == (3, WINDOW)
    half = {"precision": "fp16", "build": False, "progress": lambda _: None}
    assert diagnose(source, samples=["rate=8000"], **half).passed
    assert diagnose(source, samples=[data], **half).passed


def test_the_commands_take_the_option(tmp_path):
    source, data = speech(tmp_path / "s.onnx"), sample(tmp_path / "s.npz")
    for words in (
        ["inspect", str(source), "--sample", str(data)],
        ["convert", str(source), "--opset", "18", "--sample", "rate=16000", "-o", str(tmp_path / "o.onnx")],
        ["simplify", str(source), "--sample", str(data), "-o", str(tmp_path / "p.onnx")],
        ["profile", str(source), "--sample", str(data), "--seconds", "0.01", "--threads", "1"],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{words[0]}: {result.output}{result.exception}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speed=3", "neither a file FILE.npz nor NAME=VALUES of an input; the inputs are sound, state, rate"),
        ("rate=fast", "'fast' is no list of numbers"),
        ("rate=1,2", "has the shape 2, and the graph takes"),
        ("rate=1.5", "save it in that type"),
    ],
)
def test_values_that_do_not_fit(tmp_path, text, words):
    with pytest.raises(InvalidRequestError) as caught:
        given_inputs(load_model(speech(tmp_path / "s.onnx")), samples=[text])
    assert words in str(caught.value)


# --- profile -----------------------------------------------------------------------------------------------------------


def test_a_profile_runs_on_the_sample(tmp_path):
    source, data = speech(tmp_path / "s.onnx"), sample(tmp_path / "s.npz", rate=8000)
    record = profile(source, samples=[data], precisions=("fp32", "fp16"), options=QUICK)
    assert [r.status for r in record.rows] == ["ok", "ok"], [r.reason for r in record.rows]
    assert record.rows[0].shapes == {"sound": (3, WINDOW), "state": (1, 3, 8), "rate": ()}
    assert all(r.parity is not None and r.parity.passed for r in record.rows)


@pytest.mark.slow
def test_a_profile_in_processes_runs_on_the_sample(tmp_path):
    source, data = speech(tmp_path / "s.onnx"), sample(tmp_path / "s.npz", rate=8000)
    record = profile(source, samples=[data], options=QUICK, save=tmp_path / "run")
    [row] = record.rows
    assert (row.status, row.shapes["sound"]) == ("ok", (3, WINDOW)), row.reason


def test_the_values_do_not_travel(tmp_path):
    model = load_model(speech(tmp_path / "s.onnx"))
    inputs, _ = runnable_inputs(model, OnnxRuntimeRunner(model.SerializeToString()))
    sent = json.loads(json.dumps(inputs_to_dicts(inputs)))
    assert [i.shape() for i in inputs_from_dicts(sent)] == [i.shape() for i in inputs]


def test_rows_of_a_file_are_held_against_the_file(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    from attn_deploy.runtimes.openvino import OpenVinoRunner

    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    source = save(
        tmp_path / "m.onnx", nodes, [value("x", FLOAT, [2, 8])], [value("y", FLOAT, [2, 4])], [weights("w", 8, 4)]
    )
    right = OpenVinoRunner.outputs
    monkeypatch.setattr(OpenVinoRunner, "outputs", lambda self: {n: a * 1.01 for n, a in right(self).items()})
    with unguarded():  # in this process
        record = profile(source, runtimes=("ort-cpu", "openvino"), options=QUICK)
    rows = {r.runtime: r for r in record.rows}
    assert rows["ort-cpu"].status == "ok"
    assert rows["openvino"].status == "invalid"
    assert "allow" in rows["openvino"].reason


def test_choices_are_of_equality_alone():
    inputs = [helper.make_tensor_value_info("k", onnx.TensorProto.INT64, [])]
    outputs = [helper.make_tensor_value_info("b", onnx.TensorProto.BOOL, [])]
    graph = helper.make_graph([node("Less", ["k", "c"], ["b"])], "g", inputs, outputs, [constant("c", 9, np.int64)])
    assert integer_choices(helper.make_model(graph)) == {}


def test_a_state_whose_first_axis_is_no_batch_is_quantized(tmp_path):
    """Two layers, and a batch of two: slicing each input along its first axis would cut the layers."""
    nodes = [
        node("MatMul", ["sound", "w"], ["near"], name="near"),
        node("Unsqueeze", ["near", "first"], ["row"]),
        node("Add", ["state", "row"], ["y"]),
    ]
    constants = [weights("w", 16, 8), constant("first", [0], np.int64)]
    inputs = [value("sound", FLOAT, ["N", 16]), value("state", FLOAT, [2, "N", 8])]
    source = save(tmp_path / "s.onnx", nodes, inputs, [value("y", FLOAT, [2, "N", 8])], constants)
    record = json.loads(quantize(source, tmp_path / "q.onnx", target="cpu").metadata["quantization"])
    assert record["layers"] == 1
