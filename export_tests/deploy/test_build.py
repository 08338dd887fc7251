"""`attn-deploy build` as a whole: devices, precisions, the cache, Ctrl-C. Engines are built for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.deploy.build import build_model
from attn_deploy.engine.artifact import read_engine, rebuild_command
from attn_deploy.engine.builder import build
from attn_deploy.engine.options import parse_size
from attn_deploy.errors import InvalidRequestError, PrecisionError
from attn_deploy.graph.artifact import read_onnx
from attn_deploy.machine.devices import list_devices, load_device
from export_tests.engine.engine_graphs import convolution, deep, names_in
from export_tests.engine.engine_graphs import in_process as in_process

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
ROOT = Path(__file__).resolve().parents[2]


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["build", *map(str, words)])


# A device


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["rtx5090"])
def test_a_device_sets_target_workspace_and_batches(name, tmp_path):
    device = load_device(name)
    result = invoke(convolution(tmp_path / "net.onnx"), "--device", name, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["targets"] == [device.target]
    assert record["options"]["workspace"] == parse_size(device.build.workspace)
    low, best, high = record["profiles"][0]["x"]
    assert (low[0], best[0], high[0]) == device.build.batch
    engine = read_engine(tmp_path / "net.engine")
    again = invoke(*engine.rebuild_command.split()[2:], "--json")  # names all of this, without the device
    assert json.loads(again.stdout)["reused"] is True


@pytest.mark.usefixtures("in_process")
def test_what_is_said_beside_a_device_wins_or_is_refused(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    engine = build(onnx_file, device="RTX 4090", workspace="64MiB", profiles="x:1x3x8x8")
    assert (engine.options.workspace, str(engine.profiles[0])) == (64 << 20, "x:1x3x8x8,1x3x8x8,1x3x8x8")
    with pytest.raises(InvalidRequestError, match="rtx4090 is sm89, and --target is sm86"):
        build(onnx_file, device="rtx4090", targets="sm86")
    with pytest.raises(InvalidRequestError, match=r"'rtx409' is unknown; did you mean 'rtx4090'\?"):
        build(onnx_file, device="rtx409")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["h100", "h200", "jetson-orin-nano", "jetson-xavier-nx"])
def test_a_device_that_the_library_cannot_build_for_is_refused(name, tmp_path):
    result = invoke(convolution(tmp_path / "net.onnx"), "--device", name, "--flavor", "tensorrt-rtx")
    assert result.exit_code == 2
    assert f"cannot build for {load_device(name).target}; it builds for sm75" in result.stderr
    assert "--flavor tensorrt" in result.stderr
    assert names_in(tmp_path) == {"net.onnx"}


def test_a_cpu_is_no_device_for_an_engine(tmp_path):
    path = tmp_path / "cpu.toml"
    path.write_text('name = "cpu"\ntitle = "A CPU"\nkind = "cpu"\nprecisions = ["fp32", "int8"]\n')
    with pytest.raises(InvalidRequestError, match="cpu is a CPU, and engines run on NVIDIA GPUs"):
        build(convolution(tmp_path / "net.onnx"), device=str(path))


def test_a_precision_that_the_device_lacks_is_refused_before_any_work(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx", metadata={"precision": "fp8"})
    words = r"is fp8, and NVIDIA GeForce RTX 3060 computes in fp32, tf32, fp16, bf16, int8"
    with pytest.raises(PrecisionError, match=words):
        build(onnx_file, device="rtx3060")
    result = invoke("se", "--device", "t4", "--precision", "bf16")
    assert result.exit_code == 2
    assert "bf16 was asked for, and NVIDIA T4 computes in fp32, fp16, int8" in result.stderr


def test_every_device_is_completed():
    from attn_deploy.cli.completion import complete_device

    assert complete_device("") == list(list_devices())
    assert complete_device("rtx4") == ["rtx4090"]


# A precision


@pytest.mark.usefixtures("in_process")
def test_a_file_is_converted_first_and_the_converted_file_stays(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    result = invoke(onnx_file, "--precision", "fp16", "--target", "sm86", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert names_in(tmp_path) == {"net.onnx", "net-fp16.onnx", "net-fp16.engine", "net-fp16.engine.json"}
    assert (record["precision"], record["onnx"]) == ("fp16", str(tmp_path / "net-fp16.onnx"))
    typed = tmp_path / "net-fp16.onnx"
    assert build_model(typed, precision="fp16", targets="sm86").reused  # it is fp16 already
    with pytest.raises(PrecisionError, match=r"is in fp16 already and cannot be made bf16: give the fp32 file"):
        build_model(typed, precision="bf16", targets="sm86")


@pytest.mark.usefixtures("in_process")
def test_a_file_is_quantized_first(tmp_path):
    onnx_file = convolution(tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", x=rng.standard_normal((16, 3, 8, 8)).astype(np.float32))
    result = invoke(
        onnx_file, "-o", tmp_path / "small.engine", "--precision", "int8", "--calibration", tmp_path / "samples.npz",
        "--device", "rtx4090",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    engine = read_engine(tmp_path / "small.engine")
    assert (engine.precision, engine.onnx) == ("int8", tmp_path / "small.onnx")
    assert read_onnx(tmp_path / "small.onnx").metadata["precision"] == "int8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int4"], "the precision 'int4' is unknown: choose fp32, fp16, bf16, int8, fp8"),
        (["--calibration", "digits"], "--calibration belongs to --precision"),
    ],
)
def test_bad_precisions_are_refused_before_any_work(options, words, tmp_path):
    for model in (convolution(tmp_path / "net.onnx"), "se"):
        result = invoke(model, *options)
        assert result.exit_code == 2
        assert words in result.stderr
    assert names_in(tmp_path) == {"net.onnx"}


@pytest.mark.slow
def test_a_name_is_exported_in_the_precision(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    result = invoke("eca", "--precision", "fp16", "--target", "sm86")
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path) == {"eca-fp16.onnx", "eca-fp16.engine", "eca-fp16.engine.json"}
    assert "precision   fp16" in result.stdout


# The cache


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "targets": ({"targets": "sm89"}, "targets (['sm86'] -> ['sm89'])"),
    "tf32": ({"tf32": True}, "tf32 (False -> True)"),
    "workspace": ({"workspace": "1GiB"}, "workspace (None -> 1073741824)"),
    "opt_level": ({"opt_level": 1}, "opt_level (None -> 1)"),
    "profiles": ({"profiles": "x:1x3x8x8"}, "profiles ("),
    "device": ({"targets": None, "device": "a10"}, "profiles ("),
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    build(convolution(folder / "net.onnx"), targets="sm86")
    return folder


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[] if o in ("targets", "opt_level", "device") else pytest.mark.slow) for o in CHANGES],
)
def test_each_option_that_changes_is_named_as_the_reason(option, cached, tmp_path):
    for source in cached.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    changed, words = CHANGES[option]
    options = {"targets": "sm86", **changed}
    engine = build(tmp_path / "net.onnx", **options)
    assert not engine.reused
    assert engine.reason.startswith("the engine that was there differs in ")
    assert words in engine.reason
    assert build(tmp_path / "net.onnx", **options).reused


def test_the_key_holds_everything_that_a_build_depends_on(cached):
    engine = read_engine(cached / "net.engine")
    assert set(engine.request) == {
        "onnx_sha256", "flavor", "version", "device", "profiles", "targets", "tf32", "workspace", "opt_level",
        "hardware_compat", "version_compat",
    }  # fmt: skip
    assert rebuild_command(engine.onnx, engine.path, engine.flavor, engine.options, engine.profiles)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("key", ["version", "flavor"])
def test_an_engine_of_another_library_is_built_again(key, cached, tmp_path):
    from attn_deploy.engine.artifact import EngineArtifact, write_sidecar

    for source in cached.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    engine = read_engine(tmp_path / "net.engine")
    foreign = {**engine.to_dict(), "request": {**engine.request, key: "other"}}
    write_sidecar(EngineArtifact.from_dict(foreign, engine.path), engine.sidecar)
    built = build(tmp_path / "net.onnx", targets="sm86")
    assert built.reason == f"the engine that was there differs in {key} (other -> {engine.request[key]})"


# Ctrl-C


def test_ctrl_c_ends_the_command_and_leaves_nothing(tmp_path):
    onnx_file = deep(tmp_path / "net.onnx", 800)  # builds for five seconds
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from attn_deploy.cli import main; main()", "build", str(onnx_file)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 60
        while len(names_in(tmp_path)) < 2 and time.monotonic() < deadline:  # the folder that is being built in
            time.sleep(0.02)
        assert len(names_in(tmp_path)) == 2
        time.sleep(1.0)  # into the build itself
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        stdout, stderr = run.communicate(timeout=30)
    assert run.returncode == 130, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == "interrupted; nothing was left half-written."
    assert "Traceback" not in stderr
    assert names_in(tmp_path) == {"net.onnx"}
