"""CUDA itself, and that the real libraries have everything that the runner uses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_deploy.engine.artifact import sidecar_of, write_sidecar
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, NoDeviceError
from attn_deploy.machine.gpu import find_gpu
from attn_deploy.runtimes import cuda as cuda_module
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.cuda import Cuda, host_array
from attn_deploy.runtimes.tensorrt import TensorRTRunner
from export_tests.runtimes.fake_gpu import USED, FakeCuda, FakeTensorRT
from export_tests.runtimes.pretended import expected, image, pretend

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")

SURFACE = json.loads((Path(__file__).parents[1] / "engine" / "tensorrt_api" / "8.5.3.1.json").read_text())


# CUDA itself


def test_no_device_and_no_such_device(monkeypatch):
    monkeypatch.setattr(cuda_module, "import_cuda", lambda: FakeCuda(devices=0))
    with pytest.raises(NoDeviceError, match=r"needs an NVIDIA GPU.*cudaErrorNoDevice \(100\)"):
        Cuda()
    monkeypatch.setattr(cuda_module, "import_cuda", FakeCuda)
    with pytest.raises(NoDeviceError, match="GPU 1 does not exist: this machine has 1"):
        Cuda(1)


def test_cuda_python_itself_finds_no_device():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        NoDeviceError, match=r"cudaGetDeviceCount failed with cudaError\w+ \(\d+\): CUDA driver|no CUDA"
    ):
        Cuda()


def test_cuda_python_is_named_where_it_is_missing(monkeypatch):
    def gone(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    monkeypatch.setattr(cuda_module.importlib, "import_module", gone)
    with pytest.raises(MissingDependencyError, match=r"pip install 'attn-deploy\[device\]'"):
        cuda_module.import_cuda()


def test_arrays_of_every_type_can_be_made():
    for name, size in {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1, "int64": 8}.items():
        array = host_array((2, 3), name)
        assert (array.shape, array.itemsize, array.dtype.name) == ((2, 3), size, name)


# The real libraries have everything that the runner uses


def test_what_the_runner_uses_is_in_the_real_libraries(built, library, cuda, tmp_path, monkeypatch):
    USED.clear()
    runner = TensorRTRunner(built.path, cuda_graph=True, runtime_cache=tmp_path / "kernels")
    run_once(runner, image(8, 3, 8, 8))
    runner.elapsed_ms()
    runner.close()
    monkeypatch.setattr(cuda_module, "import_cuda", lambda: FakeCuda(devices=0))
    with pytest.raises(NoDeviceError):
        Cuda()
    seen = set(USED)
    assert {
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeCache", "serialize"),
        ("cuda", "cudaGraphLaunch"),
    } <= seen
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for owner, name in sorted(seen):
        real = {"cuda": runtime, "trt": rtx}.get(owner) or getattr(runtime if owner.startswith("cuda") else rtx, owner)
        assert hasattr(real, name), f"{owner}.{name}"


def test_cuda_python_takes_the_arguments_that_the_runner_gives(built, library, cuda, monkeypatch):
    """Without a driver each call answers with an error code; an argument of a wrong kind would be a TypeError before that."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU, on which these addresses are none")
    seen: dict[str, tuple[Any, ...]] = {}
    real_call = Cuda.call

    def call(self: Cuda, name: str, *arguments: Any) -> Any:
        seen[name] = arguments
        return real_call(self, name, *arguments)

    monkeypatch.setattr(Cuda, "call", call)
    runner = TensorRTRunner(built.path, cuda_graph=True)
    run_once(runner, image(2, 3, 8, 8))
    runner.elapsed_ms()
    runner.close()
    assert len(seen) == 19
    enumerations = {
        "cudaMemcpyAsync": (3, runtime.cudaMemcpyKind),
        "cudaStreamBeginCapture": (1, runtime.cudaStreamCaptureMode),
    }
    for name, arguments in seen.items():
        given = list(arguments)
        if name in enumerations:
            place, kind = enumerations[name]
            given[place] = kind(given[place])
        code = getattr(runtime, name)(*given)[0]
        assert code.name in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"), name


def test_what_the_runner_uses_is_in_tensorrt_8_5(built, cuda, copy, monkeypatch):
    """Against the names that TensorRT 8.5.3.1's own bindings have, listed from its wheel."""
    old = dataclasses.replace(built, path=copy, sidecar=sidecar_of(copy), flavor="tensorrt", version="8.5.3.1")
    write_sidecar(old, sidecar_of(copy))
    library = pretend(FakeTensorRT(rtx, cuda, built.onnx, jit=False), "tensorrt", "8.5.3.1", monkeypatch)
    USED.clear()
    runner = TensorRTRunner(copy, cuda_graph=True)
    given = image(8, 3, 8, 8)
    np.testing.assert_array_equal(run_once(runner, given)["y"], expected(built.onnx, given))
    runner.close()
    seen = {(o, n) for o, n in USED if not o.startswith("cuda")}
    optional = {
        ("trt", "IRuntimeCache"),
        ("IExecutionContext", "is_stream_capturable"),
    }  # asked after, and done without
    assert len(seen) > 15
    for owner, name in sorted(seen - optional):
        assert name in SURFACE["module" if owner == "trt" else owner], f"{owner}.{name}"
    with pytest.raises(InvalidRequestError, match=r"TensorRT 8\.5\.3\.1 does not support a runtime cache"):
        TensorRTRunner(copy, runtime_cache="kernels")
    assert library._logger is not None
