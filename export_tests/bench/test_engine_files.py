"""Profiles of engine files: what runs them, at which shapes, and what is refused."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.subject import make_subject
from attn_deploy.cli import app
from attn_deploy.engine.artifact import read_engine
from attn_deploy.errors import EngineMismatchError, InvalidRequestError
from attn_deploy.machine.gpu import find_gpu
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.runtimes import table as runtimes
from attn_deploy.runtimes import tensorrt
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx, which builds engines without a GPU"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    artifact = attn_deploy.export("ghostmodule", folder / "net.onnx", exporter="torchscript")
    return attn_deploy.build(artifact, profiles="x:1x64x16x16,2x64x24x20,4x64x32x32", targets="sm86").path


def test_an_engine_is_profiled_at_the_shapes_it_is_made_for(engine):
    subject = make_subject(str(engine))
    assert [i.shape() for i in subject.inputs] == [(2, 64, 24, 20)]
    assert [i.shape() for i in subject.at(4, (32, 16))] == [(4, 64, 32, 16)]
    assert subject.outputs == ("y",)
    with pytest.raises(InvalidRequestError, match="holds its weights"):
        make_subject(engine, weights="w.safetensors")


def test_a_row_of_an_engine_says_what_it_is(engine, monkeypatch):
    """ONNX Runtime stands in for the GPU; everything around it is real."""

    def stand_in(path, cuda_graph):
        assert (path, cuda_graph) == (engine, False)
        return OnnxRuntimeRunner(read_engine(path).onnx, threads=1)

    entry = replace(runtimes.RUNTIMES["tensorrt-rtx"], prerequisite=lambda: None)
    monkeypatch.setitem(runtimes.RUNTIMES, "tensorrt-rtx", entry)
    monkeypatch.setattr(tensorrt, "TensorRTRunner", stand_in)
    options = BenchOptions(min_seconds=0.02, min_samples=4, rounds=2, warmup_seconds=0.0, threads=1)
    with attn_deploy.unguarded():  # the stand-in is in this process
        record = attn_deploy.profile(engine, batch=(1, 4), options=options)
    assert [(r.runtime, r.batch, r.status) for r in record.rows] == [
        ("tensorrt-rtx", 1, "ok"),
        ("tensorrt-rtx", 4, "ok"),
    ]
    assert record.onnx[0]["sha256"] == read_engine(engine).sha256
    console = Console(width=200, file=io.StringIO())
    console.print(profile_report(record, 200))
    assert "Engine: tensorrt-rtx" in console.file.getvalue()


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU, which runs it")
def test_without_a_gpu_the_exit_code_is_3(engine):
    result = CliRunner().invoke(app, ["profile", str(engine)])
    assert result.exit_code == 3
    assert "runs engines on NVIDIA GPUs; there is none here" in result.stderr


def test_what_an_engine_cannot_be_asked(engine, tmp_path):
    other = CliRunner().invoke(app, ["profile", str(engine), "--runtimes", "ort-cpu"])
    assert other.exit_code == 2
    assert "is an engine of tensorrt-rtx, and ort-cpu cannot run it" in other.stderr
    typed = CliRunner().invoke(app, ["profile", str(engine), "--precisions", "fp16"])
    assert typed.exit_code == 2
    assert "is an engine in fp32, which cannot change" in typed.stderr
    bare = tmp_path / "bare.engine"
    bare.write_bytes(engine.read_bytes())
    with pytest.raises(EngineMismatchError):
        attn_deploy.profile(bare)
