"""Engines are built for real, by TensorRT-RTX on the CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

from attn_deploy.cli.build import build as build_command
from attn_deploy.engine.artifact import EngineArtifact, read_engine, sidecar_of
from attn_deploy.engine.builder import build
from attn_deploy.engine.fingerprint import onnx_sha256
from attn_deploy.errors import (
    EngineMismatchError,
    GraphError,
    PrecisionError,
)
from attn_deploy.graph.artifact import read_onnx
from export_tests.engine.engine_graphs import FLOAT, convolution, deep, fake_modules, names_in, node, quantized, save

ROOT = Path(__file__).resolve().parents[2]
rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    """One engine that tests read; who changes it takes `copy`."""
    return build(convolution(tmp_path_factory.mktemp("engine") / "net.onnx"))


@pytest.fixture
def copy(built: EngineArtifact, tmp_path: Path) -> Path:
    """A copy of the engine and its sidecar."""
    shutil.copy(built.sidecar, tmp_path / "net.engine.json")
    return Path(shutil.copy(built.path, tmp_path / "net.engine"))


# What a build leaves behind


def test_a_plan_and_its_sidecar_are_written(built):
    assert names_in(built.path.parent) == {"net.onnx", "net.engine", "net.engine.json"}
    plan = built.path.read_bytes()
    assert plan[:4] == b"vtrt"  # the plain plan, with nothing of ours before it
    assert b"\n  tf32=0\n" in plan  # the settings stand in the plan as text
    assert b"\n  accelerators={sm86 sm89 sm120 }\n" in plan
    assert built.path.stat().st_size == built.size
    assert built.path.stat().st_mode & 0o777 == built.path.with_suffix(".onnx").stat().st_mode & 0o777
    assert (built.flavor, built.version) == ("tensorrt-rtx", rtx.__version__)
    assert built.targets == ("sm86", "sm89", "sm120")
    assert built.device is None
    assert (built.reused, built.reason) == (False, "there was no engine")


def test_the_sidecar_reads_back_equal(built):
    assert read_engine(built.path) == built
    data = json.loads(built.sidecar.read_text())
    assert data["onnx_sha256"] == onnx_sha256(built.onnx)
    assert data["targets"] == ["sm86", "sm89", "sm120"]
    assert data["options"]["tf32"] is False
    assert data["precision"] == "fp32"
    assert data["argv"] == sys.argv
    assert data["build_seconds"] > 0


@pytest.mark.parametrize(
    ("make", "precision", "compute"),
    [
        (lambda p: convolution(p, dtype=np.float16), "fp16", {"float16": 1}),
        (quantized, "int8", {"int8": 1}),
    ],
    ids=["fp16", "int8"],
)
def test_the_precision_is_what_the_network_holds(make, precision, compute, tmp_path):
    engine = build(make(tmp_path / "net.onnx"), targets="sm86")
    assert engine.precision == precision
    assert engine.network.compute_dtypes == compute
    assert engine.network.layer_dtypes["float32"] >= 1  # the softmax and the scales stay
    assert sum(engine.network.layer_types.values()) == engine.network.layers
    assert str(engine.outputs[0]).startswith("y float32[N, ")


def test_a_false_claim_of_precision_is_refused(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx", metadata={"precision": "fp16"})
    with pytest.raises(PrecisionError, match=r"says that it is fp16, and the network .* multiplies in fp32"):
        build(onnx_file, targets="sm86")
    assert names_in(tmp_path) == {"net.onnx"}


def test_several_profiles_and_every_option_reach_the_engine(tmp_path):
    profiles = ["x:1x3x16x16", "x:1x3x32x32,8x3x32x32,32x3x32x32"]
    seen = []
    engine = build(
        convolution(tmp_path / "net.onnx"),
        tmp_path / "out.plan",
        targets="8.6,sm_120",
        profiles=profiles,
        tf32=True,
        workspace="64MiB",
        opt_level=1,
        on_progress=seen.append,
    )
    assert names_in(tmp_path) == {"net.onnx", "out.plan", "out.plan.json"}
    plan = engine.path.read_bytes()
    assert b"\n  tf32=1\n" in plan
    assert b"\n  accelerators={sm86 sm120 }\n" in plan
    budget = re.search(rb"memory_budget = (\d+)", plan)
    assert budget is not None
    assert 0 <= int(budget[1]) - (64 << 20) < 4096
    assert engine.targets == ("sm86", "sm120")
    assert [str(p) for p in engine.profiles] == ["x:1x3x16x16,1x3x16x16,1x3x16x16", profiles[1]]
    assert (engine.options.tf32, engine.options.workspace, engine.options.opt_level) == (True, 64 << 20, 1)
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len({p.phase for p in seen}) > 3


def test_a_static_graph_needs_no_profile(tmp_path):
    onnx_file = save(
        tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])]
    )
    engine = build(read_onnx(onnx_file), targets="sm86")
    assert engine.profiles == ()
    assert str(engine.inputs[0]) == "x float32[2, 3]"


# Building again


def test_an_engine_is_used_again_while_nothing_changed(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    first = build(onnx_file, targets="sm86")
    again = build(onnx_file, targets="sm86")
    assert again == dataclasses.replace(first, reused=True, reason="the same ONNX file, options and library")
    forced = build(onnx_file, targets="sm86", force=True)
    assert (forced.reused, forced.reason) == (False, "--force")
    other = build(onnx_file, targets="sm89", tf32=True)
    assert other.reason == "the engine that was there differs in targets (['sm86'] -> ['sm89']), tf32 (False -> True)"
    convolution(onnx_file, seed=1)
    changed = build(onnx_file, targets="sm89", tf32=True)
    assert changed.reason == "the engine that was there differs in the ONNX file"
    changed.path.write_bytes(b"rubbish")
    mended = build(onnx_file, targets="sm89", tf32=True)
    assert "not usable" in mended.reason
    assert read_engine(mended.path) == mended


def test_weights_in_another_file_count_as_part_of_the_model(tmp_path):
    model = onnx.load(convolution(tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    first = build(tmp_path / "net.onnx", targets="sm86")
    with (tmp_path / "net.data").open("r+b") as file:
        file.write(b"\x00\x00\x80\x3f")
    second = build(tmp_path / "net.onnx", targets="sm86")
    assert second.onnx_sha256 != first.onnx_sha256
    assert second.reason == "the engine that was there differs in the ONNX file"


def test_the_rebuild_command_asks_for_the_same_engine(tmp_path):
    engine = build(
        convolution(tmp_path / "net.onnx"),
        tmp_path / "a b.engine",
        targets="sm89",
        profiles=["x:1x3x8x8", "x:2x3x8x8,2x3x8x8,4x3x9x9"],
        tf32=True,
        workspace=1 << 26,
        opt_level=2,
    )
    words = shlex.split(engine.rebuild_command)
    assert words[:2] == ["attn-deploy", "build"]
    result = CliRunner().invoke(application(), [*words[2:], "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["reused"] is True


# An engine and its sidecar


def edit(path: Path, key: str, value: object) -> None:
    data = json.loads(sidecar_of(path).read_text())
    data[key] = value
    sidecar_of(path).write_text(json.dumps(data))


DAMAGE = {
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "bytes and was written with"),
    "one byte changed": (lambda p: p.write_bytes(b"V" + p.read_bytes()[1:]), "SHA-256"),
    "engine missing": (lambda p: p.unlink(), "no such engine file"),
    "sidecar missing": (lambda p: sidecar_of(p).unlink(), r"has no net\.engine\.json beside it"),
    "sidecar edited": (lambda p: edit(p, "precision", "int8"), "was changed after it was written"),
    "sidecar of the future": (lambda p: edit(p, "schema_version", 99), "was changed .* or is of another schema"),
    "sidecar cut short": (lambda p: sidecar_of(p).write_text(sidecar_of(p).read_text()[:-50]), "cannot be read"),
    "sidecar a list": (lambda p: sidecar_of(p).write_text("[]"), "cannot be read"),
    "sidecar without checksum": (lambda p: sidecar_of(p).write_text("{}"), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed(kind, copy):
    assert read_engine(copy).precision == "fp32"
    damage, words = DAMAGE[kind]
    damage(copy)
    with pytest.raises(EngineMismatchError, match=words) as caught:
        read_engine(copy)
    assert "Build it again: attn-deploy build" in str(caught.value)
    assert str(copy) in str(caught.value)


def test_an_engine_is_for_one_library_version_and_gpu(built):
    built.check_loadable("tensorrt-rtx", built.version, "sm89")
    refusals = {
        ("tensorrt", built.version, "sm89"): "cannot be loaded by tensorrt",
        ("tensorrt-rtx", "1.8.0.1", "sm89"): "here is version 1.8.0.1",
        ("tensorrt-rtx", built.version, "sm90"): "runs on sm86, sm89, sm120, and the GPU here is sm90",
    }
    for arguments, words in refusals.items():
        with pytest.raises(EngineMismatchError, match=words) as caught:
            built.check_loadable(*arguments)
        assert built.rebuild_command in str(caught.value)


def test_compatible_engines_say_so(built):
    options = dataclasses.replace(built.options, version_compat=True, hardware_compat="ampere-plus", targets=("sm86",))
    engine = dataclasses.replace(built, flavor="tensorrt", version="10.3.0", options=options)
    engine.check_loadable("tensorrt", "10.16.1", "sm90")
    for version in ("10.2.9", "11.4.0"):
        with pytest.raises(EngineMismatchError):
            engine.check_loadable("tensorrt", version, "sm90")
    with pytest.raises(EngineMismatchError, match="the GPU here is sm75"):
        engine.check_loadable("tensorrt", "10.16.1", "sm75")


def test_building_needs_no_torch(tmp_path, monkeypatch):
    onnx_file = convolution(tmp_path / "net.onnx")
    fake_modules(tmp_path / "fakes", monkeypatch, torch="raise ImportError('torch is blocked')")
    code = (
        f"import attn_deploy, sys; print(attn_deploy.build({str(onnx_file)!r}).size); assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "fakes"), str(ROOT)])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == (tmp_path / "net.engine").stat().st_size


# Ctrl-C


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_an_interrupt_ends_the_child_and_leaves_nothing(tmp_path):
    onnx_file = deep(tmp_path / "net.onnx", 800)  # builds for five seconds
    code = f"""
        import sys
        from attn_deploy.engine.builder import build
        try:
            build({str(onnx_file)!r}, on_progress=lambda p: print(p.phase, flush=True))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "Building engine\n"
        workers = children_of(run.pid)
        assert len(workers) == 1
        assert len(names_in(tmp_path)) == 2  # the ONNX file and the folder that is being built in
        run.send_signal(signal.SIGINT)
        rest = run.stdout.read().splitlines()
    assert run.returncode == 130
    assert rest[-1] == "interrupted"
    assert names_in(tmp_path) == {"net.onnx"}
    assert not Path(f"/proc/{workers[0]}").exists()


# The command


def application() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(build_command)
    return app


def test_the_command_prints_a_summary_or_json(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    runner = CliRunner()
    arguments = [str(onnx_file), "--target", "sm86", "--profile", "x:1x3x8x8,2x3x8x8,4x3x8x8"]
    text = runner.invoke(application(), arguments, catch_exceptions=False)
    assert text.exit_code == 0
    for words in ("tensorrt-rtx", "sm86", "fp32", "TF32 off", "x float32[N, 3, H, W]", "x:1x3x8x8,2x3x8x8,4x3x8x8"):
        assert words in text.stdout
    result = runner.invoke(application(), [*arguments, "--json"], catch_exceptions=False)
    record = json.loads(result.stdout)
    assert record["reused"] is True
    assert record["path"] == str(tmp_path / "net.engine")
    assert result.stderr == ""


def test_the_command_leaves_errors_to_its_caller(tmp_path):
    result = CliRunner().invoke(application(), [str(tmp_path / "none.onnx")])
    assert isinstance(result.exception, GraphError)


@pytest.mark.slow
def test_the_command_exports_a_model_given_by_name(tmp_path):
    pytest.importorskip("onnxruntime")
    result = CliRunner().invoke(
        application(), ["se", "-o", str(tmp_path / "se.engine"), "--json"], catch_exceptions=False
    )
    record = json.loads(result.stdout)
    assert names_in(tmp_path) == {"se.onnx", "se.engine", "se.engine.json"}
    ranges = record["profiles"][0]["x"]
    traced = read_onnx(tmp_path / "se.onnx").record["traced_shapes"]["x"]
    assert ranges[1][1:] == traced[1:]  # built for the size that was proven
