"""Engines are built for real, by TensorRT-RTX on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.engine.artifact import EngineArtifact, read_engine
from attn_deploy.engine.builder import build
from attn_deploy.errors import (
    EngineBuildError,
)
from export_tests.engine_graphs import FLOAT, convolution, node, save

ROOT = Path(__file__).resolve().parent.parent
rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    """One engine that tests read; who changes it takes a copy."""
    return build(convolution(tmp_path_factory.mktemp("engine") / "net.onnx"))


def files_in(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def fake_modules(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """Modules that a child process finds before the real ones."""
    folder.mkdir(exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(folder))


# What a build leaves behind


def test_a_plan_and_its_sidecar_are_written(built):
    assert files_in(built.path.parent) == {"net.onnx", "net.engine", "net.engine.json"}
    assert built.path.read_bytes()[:4] == b"vtrt"  # the plain plan, with nothing of ours before it
    assert built.flavor == "tensorrt-rtx"
    assert built.version == rtx.__version__
    assert built.targets == ("sm86", "sm89", "sm120")
    assert built.device is None
    assert not built.reused


def test_the_sidecar_reads_back_equal(built):
    assert read_engine(built.path) == built
    assert json.loads(built.sidecar.read_text())["onnx_sha256"] == built.onnx_sha256


def test_the_precision_is_what_the_network_holds(built, tmp_path):
    assert built.precision == "fp32"
    assert built.network.layer_types["CONVOLUTION"] == 1
    half = build(convolution(tmp_path / "half.onnx", dtype=np.float16), targets="sm86")
    assert half.precision == "fp16"
    assert half.network.compute_dtypes == {"float16": 1}
    assert half.network.layer_dtypes["float32"] >= 1  # the softmax stays
    assert str(half.inputs[0]) == "x float16[N, 3, H, W]"
    assert str(half.outputs[0]) == "y float32[N, 4, H, W]"


def test_a_second_build_uses_the_first(tmp_path):
    onnx = convolution(tmp_path / "net.onnx")
    first = build(onnx, targets="sm86")
    again = build(onnx, targets="sm86")
    assert again.reused
    assert again.sha256 == first.sha256
    forced = build(onnx, targets="sm86", force=True)
    assert not forced.reused
    other = build(onnx, targets="sm89", tf32=True)
    assert not other.reused
    assert "targets" in other.reason
    assert "tf32 (False -> True)" in other.reason
    convolution(onnx, seed=1)
    changed = build(onnx, targets="sm89", tf32=True)
    assert not changed.reused
    assert changed.reason == "the engine that was there differs in the ONNX file"
    assert files_in(tmp_path) == {"net.onnx", "net.engine", "net.engine.json"}


def test_a_crash_is_an_error(tmp_path, monkeypatch):
    source = """
        import os, signal
        from tensorrt_rtx_bindings import *
        from tensorrt_rtx_bindings import __version__
        def Builder(logger):
            os.kill(os.getpid(), signal.SIGSEGV)
    """
    fake_modules(tmp_path / "fakes", monkeypatch, tensorrt_rtx=source)
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(EngineBuildError, match="SIGSEGV"):
        build(convolution(folder / "net.onnx"))
    assert files_in(folder) == {"net.onnx"}


def test_an_unsupported_operator_is_named_with_its_module(tmp_path):
    nodes = [
        node("Relu", ["x"], ["r"], module="stem"),
        node("DFT", ["r", "", "axis"], ["y"], module="gate.spectrum"),
    ]
    shape = [1, 8, 8, 2]
    onnx = save(tmp_path / "dft.onnx", nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], {"axis": np.array(1)})
    with pytest.raises(EngineBuildError, match=r"DFT node 'node_dft_y' in module 'gate.spectrum'") as caught:
        build(onnx)
    assert "no kernel" in str(caught.value)
    assert files_in(tmp_path) == {"dft.onnx"}


def test_building_needs_no_torch(tmp_path, monkeypatch):
    onnx = convolution(tmp_path / "net.onnx")
    fakes = tmp_path / "fakes"
    fake_modules(fakes, monkeypatch, torch="raise ImportError('torch is blocked')")
    code = f"import attn_deploy, sys; print(attn_deploy.build({str(onnx)!r}).size); assert 'torch' not in sys.modules"
    path = os.pathsep.join([str(fakes), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == (tmp_path / "net.engine").stat().st_size
