"""The runner over TensorRT 11's lean runtime: its real module, name by name and signature by signature."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.bench.layers_tensorrt import profiled_layers
from attn_deploy.engine import flavors, lean
from attn_deploy.engine.artifact import EngineArtifact, sidecar_of, write_sidecar
from attn_deploy.engine.builder import build
from attn_deploy.engine.flavors import FLAVORS, Flavor
from attn_deploy.engine.lean import load_runtime
from attn_deploy.errors import DeviceError, EngineError, EngineMismatchError, MissingDependencyError, NoDeviceError
from attn_deploy.machine.gpu import Gpu, find_gpu
from attn_deploy.report.engine import engine_text
from attn_deploy.runtimes import cuda as cuda_module
from attn_deploy.runtimes import tensorrt as runner_module
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.engines import import_engine_library
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.runtimes.tensorrt import TensorRTRunner
from export_tests.engine.engine_graphs import convolution
from export_tests.runtimes import fake_gpu
from export_tests.runtimes.fake_gpu import USED, FakeCuda, FakeTensorRT

trt = pytest.importorskip("tensorrt_lean", reason="the lean runtime is not installed: pip install 'attn-deploy[lean]'")
rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
TENSORRT = FLAVORS["tensorrt"]
ADA = Gpu("NVIDIA GeForce RTX 4090", "sm89", "13.0")
SURFACE = json.loads((Path(__file__).parents[1] / "engine" / "tensorrt_api" / "8.5.3.1.json").read_text())
PROFILE = ("x:1x3x8x8,2x3x8x8,4x3x16x16",)
only_lean = pytest.mark.skipif(flavors.is_installed(TENSORRT), reason="the whole TensorRT is installed, and goes first")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    """An engine whose sidecar says that TensorRT of the lean runtime's version built it for other versions too."""
    built = build(convolution(tmp_path_factory.mktemp("lean") / "net.onnx"), profiles=PROFILE)
    options = dataclasses.replace(built.options, targets=("sm89",), version_compat=True)
    artifact = dataclasses.replace(built, flavor="tensorrt", version=trt.__version__, options=options)
    write_sidecar(artifact, sidecar_of(built.path))
    return artifact


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda_module, "import_cuda", lambda: made)
    monkeypatch.setattr(runner_module, "find_gpu", lambda device: ADA)
    return made


def over(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    flavor = Flavor(TENSORRT, library, trt.__version__, lean=True)
    monkeypatch.setattr(runner_module, "load_runtime", lambda spec, **_: flavor)


def calls(engine: EngineArtifact, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """What a whole life of a runner takes of the library."""
    over(FakeTensorRT(rtx, cuda, engine.onnx, jit=False), monkeypatch)
    USED.clear()
    for graph in (False, True):
        runner = TensorRTRunner(engine.path, cuda_graph=graph)
        for shape in ((1, 3, 8, 8), (2, 3, 9, 8)):
            given = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
            expected = run_once(OnnxRuntimeRunner(engine.onnx, threads=1), given)["y"]
            np.testing.assert_array_equal(run_once(runner, given)["y"], expected)
        assert runner.info.version == f"TensorRT {trt.__version__} (lean runtime)"
        runner.close()
    return {(owner, name) for owner, name in USED if not owner.startswith("cuda")}


OPTIONAL = {("trt", "IRuntimeCache"), ("IExecutionContext", "is_stream_capturable")}  # asked after, and done without


def test_all_that_the_runner_takes_is_in_11_and_in_8_5(engine, cuda, monkeypatch):
    seen = calls(engine, cuda, monkeypatch) - OPTIONAL
    assert len(seen) > 15
    missing = {(o, n) for o, n in seen if not hasattr(trt if o == "trt" else getattr(trt, o), n)}
    assert missing == set(), "TensorRT 11 dropped these"
    assert {(o, n) for o, n in seen if n not in SURFACE["module" if o == "trt" else o]} == {
        ("Runtime", "engine_host_code_allowed")  # from 8.6 on; asked after before it is set
    }


def positional(method: object) -> list[range]:
    """How many arguments each overload of a bound method takes, ``self`` left out, read from its documentation."""
    counts = []
    for line in (inspect.getdoc(method) or "").splitlines():
        match = re.match(r"(?:\d+\. )?\w+\(self: [\w.:]+(.*)\) -> ", line)
        if match:
            arguments = [a for a in re.split(r",\s*(?=\w+: )", match[1]) if a]
            counts.append(range(sum("=" not in a for a in arguments), len(arguments) + 1))
    return counts


def test_each_call_has_a_signature_of_11(engine, cuda, monkeypatch):
    stand_ins = {"ICudaEngine": fake_gpu.Engine, "IExecutionContext": fake_gpu.Context}
    checked = []
    for owner, name in sorted(calls(engine, cuda, monkeypatch) - OPTIONAL):
        stand_in = getattr(stand_ins.get(owner), name, None)
        if not callable(stand_in):
            continue
        given = [p for p in inspect.signature(stand_in).parameters.values() if p.name != "self"]
        needed = sum(p.default is p.empty for p in given)
        signatures = positional(getattr(getattr(trt, owner), name))
        assert signatures, f"{owner}.{name} tells no signature"
        assert any(needed in counts for counts in signatures), (
            f"{owner}.{name} takes {signatures}, and is given {needed}"
        )
        checked.append(name)
    assert {"set_tensor_address", "execute_async_v3", "set_optimization_profile_async"} <= {*checked} | {
        "set_optimization_profile_async"  # called where there are several profiles
    }
    assert positional(trt.IExecutionContext.set_optimization_profile_async) == [range(2, 3)]
    assert 1 in positional(trt.Runtime.deserialize_cuda_engine)[0]
    assert positional(trt.Runtime.__init__) == [range(1, 2)]


def test_the_reader_of_signatures_tells_a_wrong_one():
    def method():
        """method(self: trt.Context, name: str, memory: typing.SupportsInt) -> bool"""

    assert positional(method) == [range(2, 3)]
    method.__doc__ = "method(*args)\n\n1. method(self: a.B, x: int = <C.D: 0>) -> int\n2. method(self: a.B) -> int"
    assert positional(method) == [range(2), range(1)]


def test_the_profiler_has_the_form_of_11(engine):
    class Context:
        def __setattr__(self, name: str, value: object) -> None:
            assert name == "profiler"
            assert hasattr(trt.IExecutionContext, name)
            object.__setattr__(self, name, value)

    context = Context()
    layers = profiled_layers(
        trt, context, lambda: context.profiler.report_layer_time("Conv_0", 0.5), Path(engine.onnx), 3
    )
    assert isinstance(context.profiler, trt.IProfiler)
    assert sum(layer.microseconds for layer in layers) == pytest.approx(500)


def test_what_11_dropped_is_not_called(engine, cuda, monkeypatch):
    dropped = {
        (owner, name)
        for owner in ("ICudaEngine", "IExecutionContext", "Runtime")
        for name in SURFACE[owner]
        if not name.startswith("_") and not hasattr(getattr(trt, owner), name)
    }
    assert {("IExecutionContext", "execute_v2"), ("ICudaEngine", "num_bindings")} & dropped
    assert not dropped & calls(engine, cuda, monkeypatch)


# Which library


@only_lean
def test_the_lean_runtime_takes_over_where_it_is_all_there_is(engine):
    flavor = load_runtime(TENSORRT, engine=engine.path, version_compat=True)
    assert flavor.lean
    assert flavor.trt is trt
    assert str(flavor) == f"TensorRT {trt.__version__} (lean runtime)"
    with pytest.raises(
        EngineMismatchError, match=r"built without --version-compat, and of TensorRT only the 11\."
    ) as told:
        load_runtime(TENSORRT, engine="a.engine", version_compat=False)
    assert "Build it again with --version-compat" in str(told.value)


@only_lean
def test_it_builds_nothing_and_says_so(tmp_path):
    with pytest.raises(MissingDependencyError, match="of TensorRT only the lean runtime is installed: it runs engines"):
        build(convolution(tmp_path / "net.onnx"), flavor="tensorrt")


def test_the_whole_library_goes_first(monkeypatch):
    monkeypatch.setattr(lean, "is_installed", lambda spec: True)
    monkeypatch.setattr(lean, "load_flavor", lambda spec: Flavor(spec, "whole", "11.4"))
    assert load_runtime(TENSORRT).trt == "whole"


def test_where_neither_is_installed(monkeypatch):
    monkeypatch.setattr(lean, "lean_is_installed", lambda spec: False)
    monkeypatch.setattr(flavors, "lean_is_installed", lambda spec: False)
    monkeypatch.setattr(flavors, "_import", lambda spec: (_ for _ in ()).throw(flavors._missing(spec)))
    with pytest.raises(MissingDependencyError, match="TensorRT is not installed"):
        load_runtime(TENSORRT)


def test_a_broken_lean_runtime_is_told(monkeypatch, tmp_path):
    (tmp_path / "tensorrt_lean_broken.py").write_text("raise OSError('libnvinfer_lean.so.11: no such file')\n")
    (tmp_path / "tensorrt_lean_empty.py").write_text("Runtime = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, said in (("broken", "no such file"), ("empty", "has no Runtime of today")):
        spec = dataclasses.replace(TENSORRT, modules=("no_such_module",), lean_modules=(f"tensorrt_lean_{name}",))
        with pytest.raises(
            EngineError, match=rf"{said}.*Reinstall it: pip install --force-reinstall 'attn-deploy\[lean\]'"
        ):
            load_runtime(spec)


@only_lean
def test_without_a_gpu_the_library_is_there_and_cannot_run(monkeypatch):
    monkeypatch.setattr("attn_deploy.machine.gpu.find_gpu", lambda *_: None)
    with pytest.raises(
        NoDeviceError, match=r"TensorRT 11\..* \(lean runtime\) is installed, and runs engines on NVIDIA GPUs"
    ):
        import_engine_library("tensorrt")


NULL_RUNTIME = """
import sys
from attn_deploy.errors import AttnDeployError
from attn_deploy.machine.gpu import Gpu
from attn_deploy.runtimes import cuda, tensorrt
from export_tests.runtimes.fake_gpu import FakeCuda

cuda.import_cuda = lambda made=FakeCuda(): made
tensorrt.find_gpu = lambda device: Gpu("NVIDIA GeForce RTX 4090", "sm89", "13.0")
try:
    tensorrt.TensorRTRunner(sys.argv[1])
except AttnDeployError as error:
    print(type(error).__name__, error)
"""


@only_lean
def test_a_runtime_that_does_not_start_is_an_error_and_no_crash(engine):
    """Without a driver the real module hands out a null pointer; deserializing with it would kill the process."""
    done = subprocess.run(
        [sys.executable, "-c", NULL_RUNTIME, engine.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"the process died: {done.stderr}"
    assert done.stdout.startswith("DeviceError")
    if find_gpu() is None:
        assert "(lean runtime) on NVIDIA GeForce RTX 4090 (sm89) could not start its runtime: " in done.stdout


# Which engines


def test_the_sidecar_and_the_report_say_which_versions_load_it(engine):
    data = json.loads(sidecar_of(engine.path).read_text())
    assert data["options"]["version_compat"] is True
    assert "later ones of version 11, and the lean runtime" in engine_text(engine)
    alone = dataclasses.replace(engine, options=dataclasses.replace(engine.options, version_compat=False))
    assert "lean runtime" not in engine_text(alone)


def test_only_later_versions_of_the_same_major_load_it(engine):
    engine.check_loadable("tensorrt", "11.9.0.1", "sm89")
    for version in ("11.3.0.5", "12.0.0.1", "10.13.0.35"):
        with pytest.raises(EngineMismatchError, match=re.escape(f"here is version {version}")):
            engine.check_loadable("tensorrt", version, "sm89")


def test_the_lean_runtime_lists_no_kernels(engine, monkeypatch):
    from attn_deploy.engine import kernels

    monkeypatch.setattr(kernels, "find_gpu", lambda: ADA)
    monkeypatch.setattr(kernels, "load_runtime", lambda spec, **_: Flavor(TENSORRT, trt, trt.__version__, lean=True))
    with pytest.raises(DeviceError, match="runs engines and does not list their kernels; the whole library does"):
        kernels.run(lambda _: None, path=str(engine.path))
