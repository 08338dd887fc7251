"""The runner over TensorRT: what runs, in a stand-in for the library that answers as ONNX Runtime does."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.accuracy.engines import fitting_batch
from attn_deploy.accuracy.evaluate import evaluate
from attn_deploy.engine.builder import build
from attn_deploy.errors import InvalidRequestError
from attn_deploy.runtimes.base import DeviceClock, Runner, run_once
from attn_deploy.runtimes.tensorrt import TensorRTRunner
from export_tests.engine.engine_graphs import classifier, two_inputs
from export_tests.runtimes.fake_gpu import FakeTensorRT
from export_tests.runtimes.pretended import expected, image, pretend

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")


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
