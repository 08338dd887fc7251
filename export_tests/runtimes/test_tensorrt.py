"""The TensorRT runner: its logic over a GPU that is not there, its use of the libraries against the real ones."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from attn_deploy.accuracy.engines import fitting_batch
from attn_deploy.accuracy.evaluate import evaluate
from attn_deploy.engine.artifact import EngineArtifact, sidecar_of, write_sidecar
from attn_deploy.engine.builder import build
from attn_deploy.engine.flavors import FLAVORS, Flavor
from attn_deploy.errors import (
    DeviceError,
    EngineMismatchError,
    InvalidRequestError,
    MissingDependencyError,
    NoDeviceError,
)
from attn_deploy.machine.gpu import Gpu, find_gpu
from attn_deploy.runtimes import cuda as cuda_module
from attn_deploy.runtimes import tensorrt as runner_module
from attn_deploy.runtimes.base import DeviceClock, Runner, run_once
from attn_deploy.runtimes.cuda import Cuda, host_array
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.runtimes.tensorrt import TensorRTRunner
from export_tests.engine.engine_graphs import classifier, convolution, two_inputs
from export_tests.runtimes.fake_gpu import USED, FakeCuda, FakeTensorRT

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
ADA = Gpu("NVIDIA GeForce RTX 4090", "sm89", "13.0")
PROFILES = ("x:1x3x8x8,2x3x8x8,4x3x16x16", "x:8x3x8x8")
SURFACE = json.loads((Path(__file__).parents[1] / "engine" / "tensorrt_api" / "8.5.3.1.json").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    return build(convolution(tmp_path_factory.mktemp("runner") / "net.onnx"), profiles=PROFILES)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda_module, "import_cuda", lambda: made)
    return made


@pytest.fixture
def library(built: EngineArtifact, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return pretend(FakeTensorRT(rtx, cuda, built.onnx), "tensorrt-rtx", built.version, monkeypatch)


def pretend(library: FakeTensorRT, flavor: str, version: str, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    monkeypatch.setattr(runner_module, "find_gpu", lambda device: ADA if device == 0 else None)
    monkeypatch.setattr(runner_module, "load_runtime", lambda spec, **_: Flavor(FLAVORS[flavor], library, version))
    return library


def image(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def expected(onnx: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return run_once(OnnxRuntimeRunner(onnx, threads=1), arrays)["y"]


# What runs


def test_it_is_a_runner_with_a_clock(built, library, cuda):
    runner = TensorRTRunner(built.path)
    assert isinstance(runner, Runner)
    assert isinstance(runner, DeviceClock)
    for shape in ((1, 3, 8, 8), (4, 3, 13, 16), (2, 3, 9, 8)):  # grows, shrinks
        given = image(*shape)
        found = run_once(runner, given)["y"]
        np.testing.assert_array_equal(found, expected(built.onnx, given))
    assert runner.info.to_dict() == {
        "runtime": "tensorrt-rtx",
        "version": f"TensorRT-RTX {rtx.__version__}",
        "provider": "NVIDIA GeForce RTX 4090 (sm89)",
        "precision": "fp32",
        "threads": None,
        "settings": {
            "tf32": False,
            "cuda_graph": False,
            "specialization": "eager",
            "runtime_cache": "none",
            "profile": 0,
        },
    }
    assert library._config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    runner.close()
    assert (cuda._blocks, cuda._alive) == ({}, set())  # nothing stays allocated


def test_device_time_is_that_of_the_last_run(built, library):
    runner = TensorRTRunner(built.path)
    with pytest.raises(InvalidRequestError, match="nothing ran yet"):
        runner.elapsed_ms()
    with pytest.raises(InvalidRequestError, match="call prepare"):
        runner.enqueue()
    runner.prepare(image(1, 3, 8, 8))
    runner.enqueue()
    assert runner.elapsed_ms() == 0.25  # of the stand-in's clock; no synchronize is needed before
    runner.enqueue()
    runner.enqueue()
    assert runner.elapsed_ms() == 0.25


def test_the_profile_for_the_shape_is_taken(built, library):
    runner = TensorRTRunner(built.path)
    for batch, profile in ((2, 0), (8, 1), (4, 0)):
        given = image(batch, 3, 8, 8)
        np.testing.assert_array_equal(run_once(runner, given)["y"], expected(built.onnx, given))
        assert runner.info.settings["profile"] == profile
    with pytest.raises(InvalidRequestError, match=r"x:1x3x8x8,2x3x8x8,4x3x16x16; x:8x3x8x8, not for x 5x3x8x8"):
        runner.prepare(image(5, 3, 8, 8))


def test_several_inputs_are_told_apart(tmp_path, cuda, monkeypatch):
    artifact = build(two_inputs(tmp_path / "net.onnx"), targets="sm89", profiles=["x:1x8,2x8,4x8", "mask:1x2,2x3,4x9"])
    pretend(FakeTensorRT(rtx, cuda, artifact.onnx), "tensorrt-rtx", artifact.version, monkeypatch)
    rng = np.random.default_rng(0)
    given = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("mask", (3, 5)), ("x", (3, 8)))}
    runner = TensorRTRunner(artifact)
    np.testing.assert_array_equal(run_once(runner, given)["y"], expected(artifact.onnx, given))
    with pytest.raises(InvalidRequestError, match="takes x, mask, not x"):
        runner.prepare({"x": given["x"]})


def test_a_graph_is_recorded_for_each_shape_and_launched(built, library, cuda):
    runner = TensorRTRunner(built.path, cuda_graph=True)
    for shape in ((2, 3, 8, 8), (4, 3, 9, 9)):
        given = image(*shape)
        np.testing.assert_array_equal(run_once(runner, given)["y"], expected(built.onnx, given))
    before, recorded = cuda._launches, runner._graph
    changed = {"x": given["x"] + 1}
    np.testing.assert_array_equal(run_once(runner, changed)["y"], expected(built.onnx, changed))
    assert (cuda._launches, runner._graph) == (before + 1, recorded)  # other values, same graph
    assert runner.elapsed_ms() == 0.25
    runner.close()
    assert (cuda._blocks, cuda._alive) == ({}, set())


def test_an_engine_that_cannot_be_recorded_is_refused(built, library):
    library._capturable = False
    runner = TensorRTRunner(built.path, cuda_graph=True)
    runner.prepare(image(1, 3, 8, 8))
    with pytest.raises(InvalidRequestError, match="cannot record this engine as a CUDA graph"):
        runner.enqueue()


def test_compiled_kernels_are_kept_in_a_file(built, library, tmp_path):
    cache = tmp_path / "kernels"
    for state, content in (("new", b"+kernels"), ("read", b"+kernels+kernels")):
        runner = TensorRTRunner(built.path, runtime_cache=cache, specialization="lazy")
        assert runner.info.settings["runtime_cache"] == state
        run_once(runner, image(1, 3, 8, 8))
        runner.close()
        assert cache.read_bytes() == content
    cache.write_bytes(b"foreign")
    assert TensorRTRunner(built.path, runtime_cache=cache).info.settings["runtime_cache"] == "rejected"
    assert library._config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"


def test_accuracy_is_measured_in_an_engine(tmp_path, cuda, monkeypatch):
    """The batch is what a profile takes; the last one is filled up, and the filling is not counted."""
    artifact = build(classifier(tmp_path / "net.onnx"), targets="sm89", profiles="image:4x3x32x32,8x3x32x32,16x3x32x32")
    cuda._memory = 1 << 24
    pretend(FakeTensorRT(rtx, cuda, artifact.onnx), "tensorrt-rtx", artifact.version, monkeypatch)
    (found,) = evaluate(artifact.path, dataset="digits", images=37)
    (wanted,) = evaluate(artifact.onnx, dataset="digits", images=37)
    assert (found.count, found.predictions, found.info.runtime) == (37, wanted.predictions, "tensorrt-rtx")
    assert [fitting_batch(artifact, n) for n in (1, 10, 100)] == [4, 10, 16]
    assert cuda._blocks == {}
    with pytest.raises(InvalidRequestError, match="is an engine, which runs in its own library: leave out --runtime"):
        evaluate(artifact.path, dataset="digits", runtimes=("ort-cpu",))


def test_an_engine_that_is_no_classifier_is_refused(tmp_path, cuda, monkeypatch):
    artifact = build(two_inputs(tmp_path / "net.onnx"), targets="sm89")
    pretend(FakeTensorRT(rtx, cuda, artifact.onnx), "tensorrt-rtx", artifact.version, monkeypatch)
    with pytest.raises(
        InvalidRequestError, match=r"not a classifier of images: its inputs are x float32\[N, 8\], mask"
    ):
        evaluate(artifact.path, dataset="digits")
    assert cuda._alive == set()


# What is refused


@pytest.fixture
def copy(built: EngineArtifact, tmp_path: Path) -> Path:
    shutil.copy(built.sidecar, tmp_path / "net.engine.json")
    return Path(shutil.copy(built.path, tmp_path / "net.engine"))


def test_no_device_is_said_before_the_plan_is_touched(built, library, monkeypatch):
    monkeypatch.setattr(runner_module, "find_gpu", lambda device: None)
    with pytest.raises(NoDeviceError, match=r"runs on sm86, sm89, sm120, and this machine has no NVIDIA GPU") as caught:
        TensorRTRunner(built.path)
    assert caught.value.exit_code == 3
    assert library._logger is None


def test_a_machine_without_a_gpu_says_so_for_real(built):
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(NoDeviceError, match=f"ONNX file can be run on the CPU: {built.onnx}"):
        TensorRTRunner(built.path)


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"version": "1.4.0.76"}, r"was built by tensorrt-rtx 1\.4\.0\.76, and here is version"),
    "another flavor": ({"flavor": "tensorrt"}, "was built by tensorrt .* cannot be loaded by tensorrt-rtx"),
    "another GPU": ({"options": {"targets": ("sm120",)}}, "runs on sm120, and the GPU here is sm89"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_engine_is_refused_before_it_is_loaded(kind, built, copy, library):
    changes, words = FOREIGN[kind]
    if "options" in changes:
        changes = {"options": dataclasses.replace(built.options, **changes["options"])}
    foreign = dataclasses.replace(built, path=copy, sidecar=sidecar_of(copy), **changes)
    write_sidecar(foreign, sidecar_of(copy))
    with pytest.raises(EngineMismatchError, match=words) as caught:
        TensorRTRunner(copy)
    assert "Build it again: attn-deploy build" in str(caught.value)
    assert library._logger is None


@pytest.mark.parametrize("kind", ["cut short", "no sidecar", "edited sidecar"])
def test_a_damaged_engine_is_refused_before_it_is_loaded(kind, copy, library):
    if kind == "cut short":
        copy.write_bytes(copy.read_bytes()[:-9])
    elif kind == "no sidecar":
        sidecar_of(copy).unlink()
    else:
        data = json.loads(sidecar_of(copy).read_text())
        sidecar_of(copy).write_text(json.dumps({**data, "version": "9.9"}))
    with pytest.raises(EngineMismatchError, match=r"cut short|no net\.engine\.json|was changed after"):
        TensorRTRunner(copy)
    assert library._logger is None


@pytest.mark.parametrize("content", ["another graph", "no graph at all"])
def test_a_stale_engine_is_refused_before_it_is_loaded(content, tmp_path, cuda, monkeypatch):
    artifact = build(convolution(tmp_path / "net.onnx"), targets="sm89")
    library = pretend(FakeTensorRT(rtx, cuda, artifact.onnx), "tensorrt-rtx", artifact.version, monkeypatch)
    TensorRTRunner(artifact).close()
    library._logger = None
    if content == "another graph":
        convolution(tmp_path / "net.onnx", seed=1)
    else:
        (tmp_path / "net.onnx").write_bytes(b"hello")
    with pytest.raises(
        EngineMismatchError, match=r"is stale: it was built from a net\.onnx .* Build it again: attn-deploy"
    ):
        TensorRTRunner(artifact)
    assert library._logger is None
    (tmp_path / "net.onnx").unlink()  # as on a device, where the engine comes alone
    library._onnx = convolution(tmp_path / "elsewhere.onnx")
    TensorRTRunner(artifact).close()


def test_weights_in_another_file_make_an_engine_stale_too(tmp_path, cuda, monkeypatch):
    model = onnx.load(convolution(tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    artifact = build(tmp_path / "net.onnx", targets="sm89")
    pretend(FakeTensorRT(rtx, cuda, artifact.onnx), "tensorrt-rtx", artifact.version, monkeypatch)
    TensorRTRunner(artifact).close()
    with (tmp_path / "net.data").open("r+b") as file:
        file.write(b"\x00\x00\x80\x3f")
    with pytest.raises(EngineMismatchError, match="is stale"):
        TensorRTRunner(artifact)


def test_bad_inputs_are_refused_with_both_values(built, library):
    runner = TensorRTRunner(built.path)
    refusals = {
        "takes x, not nothing": {},
        "takes x, not z": {"z": image(1, 3, 8, 8)["x"]},
        "'x' is float32, and was given as float64": {"x": image(1, 3, 8, 8)["x"].astype(np.float64)},
        "not for x 1x3x8": image(1, 3, 8),
        "not for x 1x4x8x8": image(1, 4, 8, 8),
    }
    for words, arrays in refusals.items():
        with pytest.raises(InvalidRequestError, match=words):
            runner.prepare(arrays)
    with pytest.raises(InvalidRequestError, match="specialization 'soon' is unknown; use one of eager, lazy, none"):
        TensorRTRunner(built.path, specialization="soon")


def test_what_the_library_says_is_told(built, library, cuda):
    runner = TensorRTRunner(built.path)
    runner.prepare(image(1, 3, 8, 8))
    library._failing = True
    with pytest.raises(DeviceError, match="could not run the engine: enqueueV3: the kernel is gone"):
        runner.enqueue()
    runner.close()
    library._refusing = True
    with pytest.raises(DeviceError, match="could not load the engine: the plan is of another world"):
        TensorRTRunner(built.path)
    assert cuda._alive == set()  # a load that failed leaves nothing behind


def test_full_memory_is_told_by_cudas_name(built, library, cuda):
    cuda._memory = 2000
    runner = TensorRTRunner(built.path)
    run_once(runner, image(1, 3, 8, 8))
    with pytest.raises(DeviceError, match=r"cudaMalloc failed with cudaErrorMemoryAllocation \(2\): out of memory"):
        runner.prepare(image(4, 3, 16, 16))
    with pytest.raises(InvalidRequestError, match="call prepare"):  # the old shapes are not run in the new buffers
        runner.enqueue()
    runner.close()
    assert (cuda._blocks, cuda._alive) == ({}, set())


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
