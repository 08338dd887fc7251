"""The layers of a finished engine: what inspectors answer, and what is said where there is no GPU to ask on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from attn_deploy import isolate
from attn_deploy.cli import app
from attn_deploy.engine import kernels as module
from attn_deploy.engine.artifact import EngineArtifact
from attn_deploy.engine.builder import build
from attn_deploy.engine.flavors import FLAVORS, is_installed
from attn_deploy.engine.kernels import Kernel, parse_kernels, read_kernels
from attn_deploy.errors import DeviceError
from attn_deploy.machine.gpu import Gpu, find_gpu
from attn_deploy.report.engine import engine_text
from export_tests.engine.engine_graphs import convolution
from export_tests.engine.fake_tensorrt85 import SURFACE
from export_tests.engine.test_flavors import uses_in

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
ADA = Gpu("NVIDIA GeForce RTX 4090", "sm89", "13.0")
# As TensorRT 8.5 and TensorRT 10 write them.
OLD = {
    "Name": "node_conv_a + node_relu_b",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}],
    "Outputs": [{"Name": "b", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
}  # fmt: skip
NEW = {
    "Name": "node_softmax_y_myl0_1",
    "LayerType": "kgen",
    "Inputs": [{"Name": "b", "Format/Datatype": "Half"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "Float"}],
    "Metadata": "[ONNX Layer: node_cast_c]\u001e[ONNX Layer: node_softmax_y]",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    return build(convolution(tmp_path_factory.mktemp("kernels") / "net.onnx"), targets="sm89")


def test_layers_are_read_in_every_dialect():
    assert parse_kernels(json.dumps({"Layers": [OLD, NEW, "bare name"]})) == (
        Kernel("node_conv_a + node_relu_b", "CaskConvolution", ("fp16",), ("int8",)),
        Kernel("node_softmax_y_myl0_1", "kgen", ("fp16",), ("fp32",), ("node_cast_c", "node_softmax_y")),
        Kernel("bare name", "", (), ()),
    )
    for text in ("", "{}", "[1]", "no JSON"):
        with pytest.raises(DeviceError, match="answers with something else than layers"):
            parse_kernels(text)


def test_a_machine_without_a_gpu_says_so_in_a_line(built):
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    result = CliRunner().invoke(app, ["inspect", str(built.path)])
    assert result.exit_code == 0
    told = [line for line in result.stdout.splitlines() if line.startswith("layers")]
    assert len(told) == 1
    words = "layers not listed: asked of the library where there is an NVIDIA GPU, and here is none"
    assert words in " ".join(result.stdout.split())  # wrapped at the terminal's width
    record = json.loads(CliRunner().invoke(app, ["inspect", str(built.path), "--json"]).stdout)
    assert record["layers"]["kernels"] == []
    assert record["sha256"] == built.sha256


@pytest.fixture
def pretended(built: EngineArtifact, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """TensorRT-RTX with an engine that it can load, and the child's work done in this process."""
    made = ModuleType("tensorrt_rtx")
    for name in dir(rtx):
        if not name.startswith("__"):
            setattr(made, name, getattr(rtx, name))
    made.__version__ = rtx.__version__
    made.answer = json.dumps({"Layers": [OLD, NEW, NEW], "Bindings": ["x", "y"]})

    class Inspector:
        def get_engine_information(self, kind: Any) -> str:
            assert kind == rtx.LayerInformationFormat.JSON
            return made.answer

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            assert plan == built.path.read_bytes()
            return type("Engine", (), {"create_engine_inspector": lambda _: Inspector()})() if made.answer else None

    made.Runtime = Runtime
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", made)
    monkeypatch.setattr(module, "find_gpu", lambda: ADA)
    monkeypatch.setattr(isolate, "_here", {"attn_deploy.engine.kernels:run"})
    return made


def test_layers_are_listed_with_their_types(built, pretended):
    found = read_kernels(built)
    assert found.by_type == {"fp32": 2, "int8": 1}
    lines = [" ".join(line.split()) for line in engine_text(built, found).splitlines()]
    at = lines.index("layers 3 after fusion: 2 write fp32, 1 write int8")
    assert lines[at + 1] == "int8 CaskConvolution node_conv_a + node_relu_b"
    assert json.loads(json.dumps(found.to_dict()))["by_type"] == {"fp32": 2, "int8": 1}


def test_what_stands_in_the_way_is_told(built, pretended, monkeypatch):
    pretended.answer = ""
    assert "could not load the engine" in read_kernels(built).note
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("NVIDIA RTX 5090", "sm120", "13.0"))
    assert "runs on sm89, and the GPU here is sm120" in read_kernels(built).note


def test_the_inspectors_names_are_in_the_libraries():
    path = Path(module.__file__)
    used = {chain for owner, chain in uses_in(path) if owner == "trt"}
    assert used >= {"LayerInformationFormat.JSON"}
    assert {u.split(".")[0] for u in used} <= set(dir(rtx)) & set(SURFACE["module"])
    for name in ("get_engine_information",):
        assert hasattr(rtx.EngineInspector, name)
        assert name in SURFACE["EngineInspector"]
    assert hasattr(rtx.ICudaEngine, "create_engine_inspector")
    assert "create_engine_inspector" in SURFACE["ICudaEngine"]
    assert "DETAILED" in SURFACE["ProfilingVerbosity"]


@pytest.mark.gpu
def test_a_real_engine_lists_its_layers(tmp_path):
    flavor = "tensorrt" if is_installed(FLAVORS["tensorrt"]) else "tensorrt-rtx"
    artifact = build(convolution(tmp_path / "net.onnx"), flavor=flavor, targets="current")
    found = read_kernels(artifact)
    assert found.note == ""
    assert found.kernels
    assert "fp32" in found.by_type
