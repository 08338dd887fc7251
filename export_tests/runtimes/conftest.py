"""An engine, and the stand-ins for CUDA and TensorRT that run it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attn_deploy.engine.artifact import EngineArtifact
from attn_deploy.engine.builder import build
from attn_deploy.runtimes import cuda as cuda_module
from export_tests.engine.engine_graphs import convolution
from export_tests.runtimes.fake_gpu import FakeCuda, FakeTensorRT
from export_tests.runtimes.pretended import PROFILES, pretend


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    return build(convolution(tmp_path_factory.mktemp("runner") / "net.onnx"), profiles=PROFILES)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda_module, "import_cuda", lambda: made)
    return made


@pytest.fixture
def library(built: EngineArtifact, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    rtx = pytest.importorskip("tensorrt_rtx")
    return pretend(FakeTensorRT(rtx, cuda, built.onnx), "tensorrt-rtx", built.version, monkeypatch)


@pytest.fixture
def copy(built: EngineArtifact, tmp_path: Path) -> Path:
    shutil.copy(built.sidecar, tmp_path / "net.engine.json")
    return Path(shutil.copy(built.path, tmp_path / "net.engine"))
