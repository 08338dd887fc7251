"""Files in half precision and eight bits: what overflows, and which layer loses the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import attn_deploy
from attn_deploy.graph.artifact import load_model
from export_tests.diagnosis.deep_graphs import DEEP, SHAPE, SIZE, chain, with_weight
from export_tests.engine.engine_graphs import FLOAT, HALF, node, quantized, save


def test_an_overflow_is_named_and_repaired_by_the_rule_of_the_range(tmp_path: Path) -> None:
    name, place = f"{DEEP}:mixer=attention,depth=5,at=3", "blocks.3.mixer"
    model = {"inputs": SIZE, "precision": "fp16", "exporter": "torchscript"}
    made = attn_deploy.export(name, tmp_path / "half.onnx", **model)
    overflow = made.record["typing"]["overflow"]
    assert (overflow["operator"], overflow["module"]) == ("MatMul", place)
    assert made.record["parity"]["max_abs_error"] < 1e-2

    output = tmp_path / "failing.onnx"
    found = attn_deploy.diagnose(name, **model, output=output)
    assert found.passed
    assert found.precision == "fp16"
    assert not output.exists()
    assert found.overflow.startswith(f"MatMul in module '{place}': reaches 2")
    assert "; kept in fp32" in found.overflow

    found = attn_deploy.diagnose(name, **model, by_range=False, output=output, build=False)
    fault = found.numbers
    assert fault is not None
    assert found.against == "PyTorch in eager mode"
    assert (fault.module, fault.class_name, fault.operator) == (place, "UnscaledAttention", "MatMul")
    assert fault.operators == {"MatMul": 1}
    assert "NaN or infinite in fp16" in fault.what
    assert "--no-by-range" in fault.remedy
    assert "not kept in fp32" in found.overflow
    part = load_model(output)
    assert {i.type.tensor_type.elem_type for i in part.graph.input} == {HALF}
    with np.load(output.with_suffix(".npz")) as data, np.errstate(over="ignore"):
        a, b = (data[i.name] for i in part.graph.input)
        assert a.dtype == np.float16
        assert np.isinf(np.matmul(a, b)).any()


def test_data_decide_what_overflows(tmp_path: Path) -> None:
    nodes = [
        node("Mul", ["x", "x"], ["s"], module="energy.square"),
        node("Mul", ["s", "c"], ["a"], module="energy"),
        node("Conv", ["a", "k"], ["y"], module="head"),
    ]
    constants = {"c": np.full(1, 1e-3, np.float32), "k": np.ones((4, 4, 1, 1), np.float32)}
    path = save(tmp_path / "net.onnx", nodes, [("x", FLOAT, SHAPE)], [("y", FLOAT, SHAPE)], constants)
    settings = {"precision": "fp16", "by_range": False, "build": False}
    assert attn_deploy.diagnose(path, **settings).passed, "ramps of a few units do not overflow"
    data = tmp_path / "pixels.npz"
    np.savez(data, x=np.random.default_rng(0).uniform(300, 400, (4, 4, 6, 5)).astype(np.float32))
    found = attn_deploy.diagnose(path, **settings, calibration=data)
    assert found.numbers is not None
    assert (found.numbers.module, found.numbers.operators) == ("energy.square", {"Cast": 1, "Mul": 1})
    assert attn_deploy.diagnose(path, precision="fp16", build=False, calibration=data).passed


def test_a_half_file_is_compared_with_its_fp32_source(tmp_path: Path) -> None:
    source = chain(tmp_path / "net.onnx", scopes=True)
    half = attn_deploy.convert(source, precision="fp16").path
    assert attn_deploy.diagnose(half, against=source, build=False).passed
    bad = with_weight(half, tmp_path / "bad.onnx", b4=np.float16(1.0))
    found = attn_deploy.diagnose(bad, against=source, build=False)
    assert found.numbers is not None
    assert found.numbers.module == "body.4.conv"
    brain = attn_deploy.diagnose(source, precision="bf16", target="tensorrt-rtx:sm86")
    assert brain.passed
    assert brain.precision == "bf16"
    assert brain.against == "the fp32 graph in ONNX Runtime"


def test_a_quantized_file_works_like_any_other(tmp_path: Path) -> None:
    path = quantized(tmp_path / "int8.onnx")
    assert attn_deploy.diagnose(path, against=path).passed
    found = attn_deploy.diagnose(with_weight(path, tmp_path / "bad.onnx", scales=0.1), against=path, build=False)
    assert found.numbers is not None
    assert found.precision == "int8"
    assert found.numbers.operators == {"Conv": 1, "DequantizeLinear": 2, "QuantizeLinear": 1}
