"""The adapter over the TensorRT libraries: TensorRT-RTX for real, TensorRT proper by a stand-in for what differs."""

from __future__ import annotations

import ast
import logging
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attn_deploy.engine import flavors, worker
from attn_deploy.engine.flavors import FLAVORS, choose_flavor, load_flavor
from attn_deploy.engine.network import DTYPES
from attn_deploy.engine.options import BuildOptions
from attn_deploy.engine.profile import make_profiles
from attn_deploy.errors import EngineBuildError, InvalidRequestError, MissingDependencyError, NoDeviceError
from attn_deploy.graph.artifact import read_onnx
from attn_deploy.machine.gpu import Gpu, find_gpu
from export_tests.engine.engine_graphs import convolution, deep

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
ENGINE = Path(flavors.__file__).parent
ORIN = Gpu("Orin", "sm87", "12.6")

OWNERS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "made": "IOptimizationProfile",
    "layer": "ILayer",
    "producer": "ILayer",
    "tensor": "ITensor",
    "error": "ParserError",
}


def uses_in(path: Path) -> set[tuple[str, str]]:
    """Attributes that a source file takes of the module ``trt`` (as dotted chains) and of its objects."""
    found = set()
    for item in ast.walk(ast.parse(path.read_text())):
        chain: list[str] = []
        while isinstance(item, ast.Attribute):
            chain.insert(0, item.attr)
            item = item.value
        if not chain or not isinstance(item, ast.Name):
            continue
        words = [item.id, *chain]
        for place, word in enumerate(words[:-1]):
            if word == "trt":
                found.add(("trt", ".".join(words[place + 1 :])))
            elif word in OWNERS:
                found.add((OWNERS[word], words[place + 1]))
    return found


def test_everything_the_adapter_uses_is_in_the_library():
    files = {n: uses_in(ENGINE / f"{n}.py") for n in ("parse", "network", "worker", "flavors", "logger", "progress")}
    used = set().union(*files.values())
    assert {
        ("trt", "OnnxParser"),
        ("IBuilderConfig", "set_compute_capability"),
        ("ParserError", "node_operator"),
    } <= used
    own = {("ParserError", n) for n in ("name", "filename", "strerror")}  # of Python's errors, which share the variable
    for owner, chain in sorted(used - own):
        value: Any = rtx if owner == "trt" else getattr(rtx, owner)
        for attribute in chain.split("."):
            assert hasattr(value, attribute), f"{owner}.{chain}"
            value = getattr(value, attribute)
    assert set(rtx.DataType.__members__) <= set(DTYPES)
    levels = set(rtx.HardwareCompatibilityLevel.__members__)
    assert {"NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"} <= levels


class Config:
    """The builder's configuration as TensorRT proper has it: timings, and no compute capabilities."""

    def __init__(self, real: Any) -> None:
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "assigned", {})

    def __getattr__(self, name: str) -> Any:
        if name in ("num_compute_capabilities", "set_compute_capability"):
            raise AttributeError(name)
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name != "num_compute_capabilities"
        self.assigned[name] = value
        setattr(self.real, name, value)

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        object.__setattr__(self, "timings", cache + b"+timings")
        return not cache.startswith(b"foreign")

    def get_timing_cache(self) -> Any:
        return type("Timings", (), {"serialize": lambda _: bytearray(self.timings)})()


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for TensorRT 10, which needs a GPU: the real parser and builder, and what differs in the API."""
    made = ModuleType("tensorrt")
    made.__spec__ = ModuleSpec("tensorrt", None, origin="stand-in")
    for name in dir(rtx):
        if name not in ("ComputeCapability", "IRuntimeCache", "CudaGraphStrategy") and not name.startswith("__"):
            setattr(made, name, getattr(rtx, name))
    made.__version__ = "10.16.1.11"

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.real = rtx.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def create_builder_config(self) -> Config:
            return Config(self.real.create_builder_config())

        def build_serialized_network(self, network: Any, config: Config) -> Any:
            made.seen = {
                "flags": {n for n, f in rtx.BuilderFlag.__members__.items() if config.real.get_flag(f)},
                "hardware": config.assigned.get("hardware_compatibility_level"),  # TensorRT-RTX keeps NONE
                "level": config.real.builder_optimization_level,
                "workspace": config.real.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE),
                "profiles": config.real.num_optimization_profiles,
            }
            config.real.clear_flag(rtx.BuilderFlag.VERSION_COMPATIBLE)  # which TensorRT-RTX cannot build
            return self.real.build_serialized_network(network, config.real)

    made.Builder = Builder
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    monkeypatch.setattr(worker, "find_gpu", lambda: ORIN)
    return made


def run_worker(onnx_file: Path, emit: Any = None, flavor: str = "tensorrt", **options: Any) -> dict[str, Any]:
    artifact = read_onnx(onnx_file)
    return worker.run(
        emit or (lambda _: None),
        onnx=str(onnx_file),
        onnx_sha256=artifact.sha256,
        inputs=[[t.name, t.dtype, list(t.shape)] for t in artifact.inputs],
        outputs=[[t.name, t.dtype, list(t.shape)] for t in artifact.outputs],
        plan=str(onnx_file.with_suffix(".engine")),
        flavor=flavor,
        options=BuildOptions(**options).to_dict(),
        profiles=[p.to_dict() for p in make_profiles(artifact)],
        known=None,
        log_level=logging.WARNING,
    )


def test_tensorrt_proper_builds_for_the_gpu_at_hand(tensorrt, tmp_path):
    answer = run_worker(convolution(tmp_path / "net.onnx"), timing_cache=str(tmp_path / "timings"))
    assert answer["request"]["flavor"] == "tensorrt"
    assert answer["request"]["version"] == "10.16.1.11"
    assert answer["request"]["device"] == "Orin"
    assert answer["request"]["targets"] == ["sm87"]
    assert (tmp_path / "net.engine").stat().st_size > 0
    assert (tmp_path / "timings").read_bytes() == b"+timings"
    run_worker(convolution(tmp_path / "net.onnx"), timing_cache=str(tmp_path / "timings"))
    assert (tmp_path / "timings").read_bytes() == b"+timings+timings"


def test_every_option_reaches_the_builder(tensorrt, tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    run_worker(onnx_file, timing_cache=str(tmp_path / "timings"))
    plain = tensorrt.seen
    assert not {"TF32", "VERSION_COMPATIBLE"} & plain["flags"]
    assert (plain["hardware"], plain["level"], plain["profiles"]) == (None, 3, 1)
    run_worker(onnx_file, tf32=True, workspace=1 << 29, opt_level=5, hardware_compat="ampere-plus", version_compat=True)
    assert tensorrt.seen["flags"] - plain["flags"] == {"TF32", "VERSION_COMPATIBLE"}
    assert tensorrt.seen["hardware"] == rtx.HardwareCompatibilityLevel.AMPERE_PLUS
    assert tensorrt.seen["level"] == 5
    assert tensorrt.seen["workspace"] == 1 << 29


def test_timings_of_another_gpu_are_refused(tensorrt, tmp_path):
    (tmp_path / "timings").write_bytes(b"foreign")
    with pytest.raises(InvalidRequestError, match="was made by another version of TensorRT or on another GPU"):
        run_worker(convolution(tmp_path / "net.onnx"), timing_cache=str(tmp_path / "timings"))


def test_tensorrt_proper_takes_no_targets_and_needs_a_gpu(tensorrt, tmp_path, monkeypatch):
    onnx_file = convolution(tmp_path / "net.onnx")
    with pytest.raises(InvalidRequestError, match=r"builds for the GPU at hand, Orin \(sm87\), not for sm86"):
        run_worker(onnx_file, targets=("sm86",))
    monkeypatch.setattr(worker, "find_gpu", lambda: None)
    with pytest.raises(NoDeviceError, match="use --flavor tensorrt-rtx, which builds without one"):
        run_worker(onnx_file)


def test_a_plan_that_cannot_be_written_is_a_request_error(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    onnx_file.with_suffix(".engine").mkdir()
    with pytest.raises(InvalidRequestError, match=r"net\.engine could not be written: Is a directory"):
        run_worker(onnx_file, flavor="tensorrt-rtx", targets=("sm86",))


def test_a_build_stops_when_nobody_listens(tmp_path):
    def emit(event: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(EngineBuildError, match="BuildCanceled"):
        run_worker(deep(tmp_path / "net.onnx", 20), emit, flavor="tensorrt-rtx", targets=("sm86",))


def test_auto_takes_the_library_that_can_build_here(monkeypatch):
    def chosen(installed: set[str], **facts: bool) -> str:
        monkeypatch.setattr(flavors, "is_installed", lambda spec: spec.name in installed)
        return choose_flavor("auto", **{"targets_given": False, "gpu_present": True, **facts}).name

    both = {"tensorrt", "tensorrt-rtx"}
    assert chosen(both) == "tensorrt"
    assert chosen(both, gpu_present=False) == "tensorrt-rtx"
    assert chosen(both, targets_given=True) == "tensorrt-rtx"
    assert chosen({"tensorrt"}, gpu_present=False) == "tensorrt"
    assert chosen({"tensorrt-rtx"}) == "tensorrt-rtx"
    with pytest.raises(MissingDependencyError, match=r"attn-deploy\[rtx\].*attn-deploy\[tensorrt\]"):
        chosen(set())


def test_a_folder_of_that_name_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(flavors, "lean_is_installed", lambda spec: False)  # it has a message of its own
    assert not flavors.is_installed(FLAVORS["tensorrt"])
    with pytest.raises(MissingDependencyError, match="TensorRT is not installed"):
        load_flavor(FLAVORS["tensorrt"])


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert find_gpu() is None


def test_the_driver_is_asked_in_order(monkeypatch):
    class Driver:
        """Answers like a driver with one device of compute capability 8.7."""

        def __init__(self, devices: int) -> None:
            self.devices = devices

        def cuInit(self, flags: int) -> int:
            return 0 if flags == 0 else 1

        def __getattr__(self, name: str) -> Any:
            answers = {"cuDeviceGetCount": self.devices, "cuDeviceGet": 0, "cuDriverGetVersion": 12060}

            def call(out: Any, *rest: Any) -> int:
                if name == "cuDeviceGetName":
                    out.value = b"Orin"
                elif name == "cuDeviceGetAttribute":
                    out._obj.value = {75: 8, 76: 7}[rest[0]]
                elif name == "cuDeviceGet" and rest[0] >= self.devices:
                    return 101
                else:
                    out._obj.value = answers[name]
                return 0

            return call

    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(1))
    assert find_gpu() == ORIN
    assert find_gpu(1) is None
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(0))
    assert find_gpu() is None


@pytest.mark.gpu
def test_the_real_driver_names_a_gpu():
    gpu = find_gpu()
    assert gpu is not None
    assert gpu.name
    assert int(gpu.target.removeprefix("sm")) >= 50
    assert re.fullmatch(r"\d+\.\d", gpu.driver)
