"""OpenVINO as a runtime: the same numbers, and the precision that ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import attn_deploy
from attn_deploy import quantize
from attn_deploy.bench.options import BenchOptions
from attn_deploy.errors import GraphError, MissingDependencyError, ProviderError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.machine.int8 import saturates_in_int8
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, exact_int8
from attn_deploy.runtimes.openvino import OpenVinoRunner, import_openvino

QUICK = BenchOptions(
    min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,H,W] x) => (float[N,8,H,W] y) '
        "{ t = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (t) y = Conv (r, v) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 3, 3, 3)), ("b", (16,)), ("v", (8, 16, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 4, name))
    path = tmp_path_factory.mktemp("openvino") / "net.onnx"
    onnx.save(model, path)
    return path


ARRAY = {"x": np.random.default_rng(1).standard_normal((2, 3, 20, 24)).astype(np.float32)}


def relative(ours: dict, right: dict) -> float:
    return float(np.sqrt(((ours["y"] - right["y"]) ** 2).mean() / (right["y"] ** 2).mean()))


def test_it_gives_the_numbers_of_onnxruntime(file):
    pytest.importorskip("openvino")
    runner = OpenVinoRunner(file, threads=1)
    right = run_once(OnnxRuntimeRunner(file, threads=1), ARRAY)
    assert relative(run_once(runner, ARRAY), right) < 1e-5
    info = runner.info
    assert (info.runtime, info.provider, info.precision, info.threads) == ("openvino", "CPU", "float32", 1)
    assert info.settings["products"] == {"float32": 2}
    smaller = {"x": ARRAY["x"][:1, :, :9, :7].copy()}
    assert run_once(runner, smaller)["y"].shape == (1, 8, 9, 7)
    with pytest.raises(GraphError, match=r"the model's inputs are \['x'\]"):
        runner.prepare({"z": ARRAY["x"]})
    runner.close()


def test_the_precision_is_what_ran(file, tmp_path):
    openvino = pytest.importorskip("openvino")
    small = quantize(file, tmp_path / "q.onnx", target="cpu", method="minmax").path
    runner = OpenVinoRunner(small, precision="int8")
    assert runner.info.precision == "int8"
    right = run_once(OnnxRuntimeRunner(file), ARRAY)
    assert relative(run_once(runner, ARRAY), right) < 0.05
    with pytest.raises(ProviderError, match="int8 was asked for, and OpenVINO runs its products 2 in float32"):
        OpenVinoRunner(file, precision="int8")
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, word, name in (("bf16", "BF16", "bfloat16"), ("fp16", "FP16", "float16")):
        if word in capabilities:
            assert OpenVinoRunner(file, precision=precision).info.precision == name
        else:
            with pytest.raises(ProviderError, match=f"{precision} was asked for.*this processor has no kernels"):
                OpenVinoRunner(file, precision=precision)


def test_a_file_that_it_cannot_load(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(GraphError, match="OpenVINO cannot load"):
        OpenVinoRunner(tmp_path / "broken.onnx")


def test_a_profile_has_its_rows_beside_those_of_onnxruntime(file):
    pytest.importorskip("openvino")
    record = attn_deploy.profile(
        file,
        runtimes=["ort-cpu", "openvino"],
        precisions=["fp32", "int8"],
        inputs=parse_inputs(["x:2x3x20x24"]),
        options=QUICK,
    )
    assert [(r.runtime, r.info.precision, r.status) for r in record.rows] == [
        (runtime, precision, "ok") for precision in ("float32", "int8") for runtime in ("ort-cpu", "openvino")
    ]
    made = [m["made"] for m in record.onnx]
    assert made == ["given", "converted to int8 for cpu for this profile"]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'attn-deploy\[openvino\]'"):
        import_openvino()


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "saturates"),
    [
        ("flags\t\t: fpu avx avx2 fma", "x86_64", True),
        ("flags\t\t: fpu avx avx2 avx_vnni", "x86_64", False),
        ("flags\t\t: avx512f avx512_vnni", "AMD64", False),
        ("", "AMD64", True),
        ("Features\t: fp asimd", "aarch64", False),
    ],
)
def test_exact_kernels_only_where_the_processor_would_saturate(cpuinfo, architecture, saturates, monkeypatch):
    assert saturates_in_int8(cpuinfo, architecture) is saturates
    monkeypatch.setattr("attn_deploy.runtimes.onnxruntime.saturates_in_int8", lambda: saturates)
    assert exact_int8() == ({"session.x64quantprecision": "1"} if saturates else {})


def test_a_file_in_bf16_is_not_for_onnxruntime_on_a_cpu(file, tmp_path):
    wide = attn_deploy.convert(file, tmp_path / "bf16.onnx", precision="bf16")
    with pytest.raises(GraphError, match=r"CPU provider has next to no kernels in bf16.*--runtimes openvino"):
        OnnxRuntimeRunner(wide.path)
