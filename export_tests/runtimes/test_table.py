"""The runtimes of a profile: what each says of itself, and when it refuses."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import attn_deploy
from attn_deploy.bench.files import weights_precision
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.timer import cold_start, device_clock
from attn_deploy.engine.artifact import read_engine
from attn_deploy.errors import (
    InvalidRequestError,
    MissingDependencyError,
    NoDeviceError,
    ProviderError,
)
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.runtimes.compiled import CompiledRunner, find_compiler
from attn_deploy.runtimes.eager import EagerRunner
from attn_deploy.runtimes.engines import engine_runner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, refuse_cpu
from attn_deploy.runtimes.table import RUNTIMES, choose_precisions, choose_runtimes, torch_device
from attn_deploy.runtimes.work import Work

INPUT = parse_inputs(["2x3x8x8"])
QUICK = BenchOptions(
    min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x))


@pytest.fixture(scope="module")
def net():
    return Net().eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("files") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_compile_says_what_it_compiled_and_how_long_that_took(net):
    arrays = example_arrays(INPUT)
    runner, cold = cold_start(lambda: CompiledRunner(net, threads=1), arrays)
    assert cold.build_seconds > 10 * cold.first_run_seconds
    assert runner.info.runtime == "compile"
    assert runner.info.settings["graphs"] == 1
    assert runner.info.settings["graph_breaks"] == 0
    built = runner.build_seconds
    runner.prepare(arrays)
    assert runner.build_seconds == built  # the same shapes need no second compilation
    eager = EagerRunner(net, threads=1)
    eager.prepare(arrays)
    eager.enqueue()
    runner.enqueue()
    np.testing.assert_allclose(runner.outputs()["y"], eager.outputs()["y"], atol=1e-5)
    runner.close()


def test_what_is_not_compiled_is_not_called_compiled():
    class Left(Net):
        forward = torch._dynamo.disable(Net.forward)

    runner = CompiledRunner(Left().eval(), threads=1)
    with pytest.raises(ProviderError, match="ran it in eager mode"):
        runner.prepare(example_arrays(INPUT))
    runner.close()


def test_without_a_compiler_the_row_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match=r"C\+\+ compiler, and there is none \(no-such-compiler\)"):
        find_compiler()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_eager_in_half_precision_is_judged_by_fp32(net, precision):
    record = attn_deploy.profile(net, runtimes=["eager"], precisions=["fp32", precision], inputs=INPUT, options=QUICK)
    assert record.passed, [r.reason for r in record.rows]
    half = record.row("eager", precision=precision)
    assert half.info.precision == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert 0 < half.parity.max_abs_error < 0.05
    assert half.speedup is not None


def test_real_work_on_the_cpu_is_refused_and_arithmetic_on_shapes_is_not():
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    refuse_cpu(({cuda: 5, cpu: 2}, {"Shape": 1, "Gather": 1}), "net.onnx")
    refuse_cpu(({}, {}), "net.onnx")
    with pytest.raises(ProviderError, match=r"net.onnx: ran on CPU: 3 of 8 nodes, among them Conv 2\."):
        refuse_cpu(({cuda: 5, cpu: 3}, {"Shape": 1, "Conv": 2}), "net.onnx")
    with pytest.raises(ProviderError, match="ran on CPU: 1 of 1 nodes"):
        refuse_cpu(({cpu: 1}, {"Shape": 1}), "net.onnx")


def test_onnx_runtime_tells_where_its_nodes_are(file):
    runner = OnnxRuntimeRunner(file, threads=1)
    assert runner.placement() == ({"CPUExecutionProvider": 1}, {})
    assert device_clock(runner) is None
    runner.close()


def test_a_provider_that_the_build_lacks_is_a_row(file):
    if "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers():
        pytest.skip("this build has CUDA")
    record = attn_deploy.profile(file, runtimes=["ort-cpu", "ort-cuda"], inputs=INPUT, options=QUICK)
    assert [r.status for r in record.rows] == ["ok", "failed"]
    assert "not part of the installed onnxruntime" in record.rows[1].reason
    assert "attn-deploy[gpu]" in record.rows[1].reason


def test_engines_are_built_for_the_shapes_that_are_timed(file, tmp_path, monkeypatch):
    made = {}

    class Runner:
        def __init__(self, engine, *, cuda_graph):
            made.update(engine=engine, cuda_graph=cuda_graph)

    stand_in = types.ModuleType("attn_deploy.runtimes.tensorrt")
    stand_in.TensorRTRunner = Runner
    monkeypatch.setitem(sys.modules, "attn_deploy.runtimes.tensorrt", stand_in)
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    work = Work(None, file, None, 1, precision="fp32", inputs=INPUT, folder=tmp_path, cuda_graph=True)
    runner = engine_runner(file, "tensorrt-rtx", work)
    assert runner.build_seconds > 0
    assert made["cuda_graph"] is True
    engine = read_engine(Path(made["engine"]))
    (profile,) = engine.profiles
    (taken,) = profile.ranges
    assert (taken.name, taken.shapes) == ("x", ((2, 3, 8, 8),) * 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_engines_without_a_gpu_are_rows(file):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    record = attn_deploy.profile(file, runtimes=["ort-cpu", "tensorrt-rtx"], inputs=INPUT, options=QUICK)
    assert record.row("tensorrt-rtx").status == "failed"
    assert "there is none here" in record.row("tensorrt-rtx").reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_cuda_without_a_gpu_is_refused(net):
    with pytest.raises(NoDeviceError, match="has no CUDA device"):
        torch_device("cuda", choose_runtimes(["eager"]))
    assert torch_device("auto", choose_runtimes(["eager", "ort-cuda"])) == "cpu"
    with pytest.raises(NoDeviceError, match="torch runs on the CPU here"):
        EagerRunner(net, cuda_graph=True)
    record = attn_deploy.profile(net, runtimes=["eager"], cuda_graph=(False, True), inputs=INPUT, options=QUICK)
    assert [(r.cuda_graph, r.status) for r in record.rows] == [(False, "ok"), (True, "failed")]


def test_unknown_words():
    with pytest.raises(InvalidRequestError, match=r"'fp61' is unknown; did you mean 'fp16'\?"):
        choose_precisions(["fp61"])
    with pytest.raises(InvalidRequestError, match="auto, cpu or cuda"):
        torch_device("gpu", ())
    with pytest.raises(InvalidRequestError, match="inline, processes"):
        attn_deploy.profile("se", executor="threads")
    with pytest.raises(InvalidRequestError, match="cannot be given to another process"):
        attn_deploy.profile(Net(), executor="processes", inputs=INPUT)


def test_the_precision_of_quantized_weights_is_int8_and_that_of_indices_is_not():
    def model(nodes, weights):
        graph = helper.make_graph(nodes, "g", [], [], weights)
        return helper.make_model(graph)

    quantized = numpy_helper.from_array(np.zeros((4, 4), np.int8), "q")
    plain = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    dequantize = helper.make_node("DequantizeLinear", ["q", "s"], ["d"])
    assert weights_precision(model([dequantize], [quantized, plain])) == "int8"
    assert weights_precision(model([helper.make_node("Gather", ["w", "q"], ["d"])], [quantized, plain])) == "float32"


def test_a_file_in_another_precision_than_it_has(file, tmp_path):
    record = attn_deploy.profile(file, precisions=["fp32", "fp16"], inputs=INPUT, options=QUICK)
    assert [(r.precision, r.info.precision, r.status) for r in record.rows] == [
        ("fp32", "float32", "ok"),
        ("fp16", "float16", "ok"),
    ]
    assert record.onnx[1]["made"] == "converted to fp16 for this profile"


def test_every_runtime_has_an_entry_that_says_where_it_runs():
    assert {n: r.on for n, r in RUNTIMES.items() if r.on != "gpu"} == {
        "eager": "torch",
        "compile": "torch",
        "ort-cpu": "cpu",
        "openvino": "cpu",
    }


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_torch_on_a_gpu_has_a_device_clock_and_graphs(net, runtime):
    record = attn_deploy.profile(net, runtimes=[runtime], cuda_graph=(False, True), inputs=INPUT, options=QUICK)
    assert record.passed, [r.reason for r in record.rows]
    for row in record.rows:
        assert row.info.provider != "CPU"
        assert 0 < row.device_time.p50_ms <= row.latency.p50_ms


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["ort-cuda", "ort-tensorrt-rtx", "tensorrt", "tensorrt-rtx"])
def test_files_on_a_gpu_give_what_eager_gives(net, runtime):
    record = attn_deploy.profile(
        net, runtimes=["eager", runtime], inputs=INPUT, options=QUICK, cuda_graph=(False, True)
    )
    for row in record.rows:
        assert row.status == "ok" or "not installed" in row.reason or "not part of" in row.reason, row.reason
