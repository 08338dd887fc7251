"""Engines on a real GPU: built, run, compared and timed. ``python -m pytest -m gpu``; needs no torch but for the zoo.

Takes TensorRT where it is installed, else TensorRT-RTX.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from attn_deploy.engine.artifact import EngineArtifact
from attn_deploy.engine.builder import build
from attn_deploy.engine.flavors import FLAVORS, is_installed
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.gpu import find_gpu
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.cuda import Cuda, import_cuda
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.runtimes.tensorrt import TensorRTRunner
from export_tests.engine.engine_graphs import convolution, quantized

pytestmark = pytest.mark.gpu
FLAVOR = "tensorrt" if is_installed(FLAVORS["tensorrt"]) else "tensorrt-rtx"
PROFILES = ("x:1x3x8x8,2x3x8x8,4x3x16x16", "x:8x3x8x8")
SHAPES = ((1, 3, 8, 8), (4, 3, 13, 16), (8, 3, 8, 8))


def made(onnx_file: Path, **options: object) -> EngineArtifact:
    """An engine of a graph whose operators are those of opset 17, which TensorRT 8.5 is sure to know."""
    model = onnx.load(onnx_file)
    if model.opset_import[0].version > 17:
        model.opset_import[0].version, model.ir_version = 17, 8
        onnx.save(model, onnx_file)
    return build(onnx_file, flavor=FLAVOR, targets="current", **options)


def image(*shape: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(dtype)}


def check(artifact: EngineArtifact, arrays: dict[str, np.ndarray], runner: TensorRTRunner, *, loose: float) -> None:
    wanted = run_once(OnnxRuntimeRunner(artifact.onnx, threads=1, optimize=False), arrays)
    found = run_once(runner, arrays)
    for name, value in wanted.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, rtol=10 * loose, atol=loose * scale)


@pytest.mark.parametrize("graphed", [False, True], ids=["launched", "as a graph"])
def test_engines_give_what_onnx_runtime_gives_at_every_shape(graphed, tmp_path):
    artifact = made(convolution(tmp_path / "net.onnx"), profiles=PROFILES)
    runner = TensorRTRunner(artifact, cuda_graph=graphed)
    for shape in SHAPES:
        check(artifact, image(*shape), runner, loose=1e-5)
        runner.enqueue()
        assert 0 < runner.elapsed_ms() < 1000
    with pytest.raises(InvalidRequestError, match="was built for"):
        runner.prepare(image(5, 3, 8, 8))
    runner.close()


def test_a_half_precision_graph_runs_with_its_softmax_in_fp32(tmp_path):
    artifact = made(convolution(tmp_path / "net.onnx", dtype=np.float16), profiles=PROFILES)
    assert artifact.precision == "fp16"
    runner = TensorRTRunner(artifact)
    for shape in SHAPES:
        check(artifact, image(*shape, dtype=np.float16), runner, loose=4e-3)
    runner.close()


def test_a_quantized_graph_runs(tmp_path):
    artifact = made(quantized(tmp_path / "net.onnx"), profiles="x:1x16x8x8,2x16x8x8,4x16x16x16")
    assert "int8" in artifact.precision
    runner = TensorRTRunner(artifact)
    check(
        artifact, {"x": np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)}, runner, loose=1e-3
    )
    runner.close()


def test_memory_is_given_back(tmp_path):
    artifact = made(convolution(tmp_path / "net.onnx"), profiles="x:1x3x8x8,8x3x64x64,64x3x256x256")
    with Cuda() as cuda:

        def free() -> int:
            return int(cuda.call("cudaMemGetInfo")[0])

        TensorRTRunner(artifact).close()  # what the library keeps for the process
        before = free()
        for _ in range(5):
            runner = TensorRTRunner(artifact)
            run_once(runner, image(64, 3, 256, 256))
            runner.close()
        assert free() > before - (64 << 20)


@pytest.mark.parametrize("name", ["resnet18", "resnet18+se", "cbam", "non_local_embedded_gaussian"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_zoo_runs_as_eager_does(name, precision, tmp_path):
    pytest.importorskip("torch")
    import torch

    from attn_deploy.exporters.pipeline import export
    from attn_deploy.resolve.resolve import resolve

    model = resolve(name)
    exported = export(
        model.module, tmp_path / "net.onnx", opset=17, precision=precision, inputs=model.inputs, dynamic=["N"]
    )
    artifact = made(exported.path)
    assert precision in artifact.precision
    runner = TensorRTRunner(artifact)
    shape = artifact.profiles[0].ranges[0].optimum
    given = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = run_once(runner, {artifact.inputs[0].name: given})
    with torch.inference_mode():
        wanted = model.module(torch.from_numpy(given)).numpy()
    loose = 1e-4 if precision == "fp32" else 2e-2
    value = found[artifact.outputs[0].name].astype(np.float32)
    np.testing.assert_allclose(value, wanted, rtol=10 * loose, atol=loose * max(1.0, float(np.abs(wanted).max())))
    runner.enqueue()
    assert runner.elapsed_ms() > 0
    runner.close()


def test_the_gpu_of_the_driver_is_that_of_cuda():
    gpu = find_gpu()
    assert gpu is not None
    with Cuda() as cuda:
        kind = import_cuda().cudaDeviceAttr
        numbers = [
            cuda.call("cudaDeviceGetAttribute", getattr(kind, f"cudaDevAttrComputeCapability{part}"), 0)
            for part in ("Major", "Minor")
        ]
    assert gpu.target == f"sm{numbers[0]}{numbers[1]}"
