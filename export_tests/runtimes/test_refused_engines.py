"""Engines and inputs that the runner over TensorRT refuses, before it loads or runs them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import onnx
import pytest

from attn_deploy.engine.artifact import sidecar_of, write_sidecar
from attn_deploy.engine.builder import build
from attn_deploy.errors import DeviceError, EngineMismatchError, InvalidRequestError, NoDeviceError
from attn_deploy.machine.gpu import find_gpu
from attn_deploy.runtimes import tensorrt as runner_module
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.tensorrt import TensorRTRunner
from export_tests.engine.engine_graphs import convolution
from export_tests.runtimes.fake_gpu import FakeTensorRT
from export_tests.runtimes.pretended import image, pretend

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")


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
