"""What no engine can be built from, and what is said then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.engine.builder import build
from attn_deploy.errors import (
    EngineBuildError,
    EngineError,
    GraphError,
    InvalidRequestError,
    MissingDependencyError,
    PrecisionError,
)
from attn_deploy.graph.artifact import read_onnx
from export_tests.engine.engine_graphs import (
    FLOAT,
    INT64,
    baked_batch,
    convolution,
    deep,
    fake_modules,
    names_in,
    node,
    save,
)

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")


def test_an_unsupported_operator_is_named_with_its_module(tmp_path):
    nodes = [
        node("Relu", ["x"], ["r"], module="stem"),
        node("DFT", ["r", "", "axis"], ["y"], module="gate.spectrum"),
    ]
    shape = [1, 8, 8, 2]
    onnx_file = save(tmp_path / "dft.onnx", nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], {"axis": np.array(1)})
    with pytest.raises(EngineBuildError, match=r"DFT node 'node_dft_y' in module 'gate.spectrum'") as caught:
        build(onnx_file)
    assert "no kernel for this operator" in str(caught.value)
    assert names_in(tmp_path) == {"dft.onnx"}


def test_operators_behind_the_first_refused_one_are_listed(tmp_path):
    nodes = [node("NonZero", ["x"], ["z"]), node("Det", ["x"], ["d"])]
    found = [("z", INT64, [3, "K"]), ("d", FLOAT, [1])]
    onnx_file = save(tmp_path / "net.onnx", nodes, [("x", FLOAT, [1, 8, 8])], found)
    with pytest.raises(EngineBuildError, match=r"NonZero node 'node_nonzero_z': .*does not know .* either: Det\."):
        build(onnx_file)


@pytest.mark.parametrize("profiles", ["x:1x8,4x8,8x8", "x:1x8,2x8,4x8"], ids=["refused", "built with a warning"])
def test_a_baked_batch_is_refused(profiles, tmp_path):
    with pytest.raises(EngineBuildError, match=r"in module 'head.flatten'.*fixed inside the graph"):
        build(baked_batch(tmp_path / "net.onnx"), targets="sm86", profiles=profiles)
    assert names_in(tmp_path) == {"net.onnx"}


def test_a_graph_that_crashes_the_library_is_an_error(tmp_path):
    """Attention-23 in fp32 has no kernel: TensorRT-RTX 1.7 dies of a segmentation fault, others refuse."""
    shape = [1, 2, 8, 16]
    nodes = [node("Attention", ["x", "x", "x"], ["y"])]
    onnx_file = save(tmp_path / "net.onnx", nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], opset=23)
    with pytest.raises(EngineBuildError, match="export at opset 22 or lower"):
        build(onnx_file)
    assert names_in(tmp_path) == {"net.onnx"}


def test_a_crash_names_its_signal_and_phase(tmp_path, monkeypatch):
    source = """
        import os, signal
        from tensorrt_rtx_bindings import *
        from tensorrt_rtx_bindings import __version__
        def Builder(logger):
            os.kill(os.getpid(), signal.SIGBUS)
    """
    fake_modules(tmp_path / "fakes", monkeypatch, tensorrt_rtx=source)
    with pytest.raises(EngineBuildError, match=r"crashed \(SIGBUS\).* It was at: starting\. No engine was written\."):
        build(convolution(tmp_path / "net.onnx"))
    assert names_in(tmp_path) == {"net.onnx", "fakes"}


def test_a_build_ends_when_its_time_is_over(tmp_path):
    with pytest.raises(EngineBuildError, match=r"longer than .*--timeout"):
        build(deep(tmp_path / "net.onnx", 40), timeout=0.2)
    assert names_in(tmp_path) == {"net.onnx"}


def test_an_input_that_decides_shapes_is_refused(tmp_path):
    given = [("x", FLOAT, [1, 8]), ("k", INT64, [1])]
    found = [("v", FLOAT, [1, "K"]), ("i", INT64, [1, "K"])]
    onnx_file = save(tmp_path / "net.onnx", [node("TopK", ["x", "k"], ["v", "i"])], given, found)
    with pytest.raises(EngineBuildError, match="the values of the input 'k' decide shapes"):
        build(onnx_file)


REMEDIES = {
    "small workspace": (convolution, {"workspace": "1MiB"}, r"workspace limit.*more scratch memory with --workspace"),
    "turing": (lambda p: gemm(p), {"targets": "sm75"}, "convert the graph to fp16 first"),
    "hopper": (lambda p: gemm(p), {"targets": "sm90"}, "cannot build for sm90; it builds for sm75, sm80, sm86"),
    "no GPU": (lambda p: gemm(p), {"targets": "current"}, "asks for the GPU of this machine, and there is none"),
    "no timings": (lambda p: gemm(p), {"timing_cache": "t"}, "does not support --timing-cache"),
    "one version": (lambda p: gemm(p), {"version_compat": True}, "does not support --version-compat"),
    "one hardware": (lambda p: gemm(p), {"hardware_compat": "ampere-plus"}, "does not support --hardware-compat"),
}


def gemm(path: Path) -> Path:
    weight = {"w": np.ones((8, 8), np.float32)}
    return save(path, [node("Gemm", ["x", "w"], ["y"])], [("x", FLOAT, ["N", 8])], [("y", FLOAT, ["N", 8])], weight)


@pytest.mark.parametrize("case", REMEDIES)
def test_a_refusal_says_what_to_do(case, tmp_path):
    make, options, words = REMEDIES[case]
    if options.get("targets") == "current" and shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    with pytest.raises((EngineError, InvalidRequestError), match=words):
        build(make(tmp_path / "net.onnx"), **options)
    assert names_in(tmp_path) == {"net.onnx"}


# What cannot be asked for: refused before any work


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flavor": "openvino"}, "flavor 'openvino' is unknown; use auto, tensorrt or tensorrt-rtx"),
        ({"targets": "ampere"}, "'ampere' is not a compute capability"),
        ({"workspace": "lots"}, "size 'lots' cannot be read"),
        ({"workspace": 0}, "--workspace must be a positive size such as 1GiB, not 0 bytes"),
        ({"opt_level": 6}, "level 6 is not in 0"),
        ({"hardware_compat": "all"}, "'all' is unknown; use none, ampere-plus"),
        ({"timeout": 0}, "time limit of 0 s"),
        ({"profiles": "x:2x3x8x8,1x3x8x8,4x3x8x8"}, "not in order on axis 0: min 2, opt 1, max 4"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_bad_options(options, words, tmp_path, monkeypatch):
    monkeypatch.setattr("attn_deploy.engine.builder.run_isolated", None)  # calling it would be a TypeError
    with pytest.raises(InvalidRequestError, match=words):
        build(convolution(tmp_path / "net.onnx"), **options)


def test_precision_belongs_to_the_graph(tmp_path):
    with pytest.raises(PrecisionError, match=r"attn-deploy convert MODEL.onnx --precision fp16") as caught:
        build(convolution(tmp_path / "net.onnx"), precision="fp16")
    assert caught.value.exit_code == 2


def test_bad_onnx_files(tmp_path, monkeypatch):
    monkeypatch.setattr("attn_deploy.engine.builder.run_isolated", None)
    whole = convolution(tmp_path / "net.onnx").read_bytes()
    contents = {"cut.onnx": whole[: len(whole) // 2], "text.onnx": b"hello, this is no model", "empty.onnx": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GraphError, match=name):
            build(tmp_path / name)
    with pytest.raises(GraphError, match="no such ONNX file"):
        build(tmp_path / "missing.onnx")


def test_a_file_that_changed_since_it_was_described_is_refused(tmp_path):
    artifact = read_onnx(convolution(tmp_path / "net.onnx"))
    convolution(tmp_path / "net.onnx", seed=1)
    with pytest.raises(InvalidRequestError, match="the file changed since"):
        build(artifact)


def test_bad_outputs_are_refused_before_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr("attn_deploy.engine.builder.run_isolated", None)
    onnx_file = convolution(tmp_path / "net.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="does not exist"):
        build(onnx_file, timing_cache=tmp_path / "missing" / "timings", flavor="tensorrt-rtx")
    outputs = {
        "/proc/net.engine": "cannot be written",  # refuses root too
        tmp_path / "missing" / "net.engine": "does not exist",
        tmp_path / "file" / "net.engine": "is a file",
        tmp_path: "is a folder",
        onnx_file: "would overwrite the ONNX file",
    }
    for output, words in outputs.items():
        with pytest.raises(InvalidRequestError, match=words):
            build(onnx_file, output)


# The library


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    gone = "raise ModuleNotFoundError('No module named ' + repr(__name__), name=__name__)"
    fake_modules(tmp_path / "fakes", monkeypatch, tensorrt_rtx=gone, tensorrt_rtx_bindings=gone)
    with pytest.raises(MissingDependencyError, match=r"pip install 'attn-deploy\[rtx\]'") as caught:
        build(convolution(tmp_path / "net.onnx"))
    assert caught.value.exit_code == 3
    with pytest.raises(MissingDependencyError, match=r"pip install 'attn-deploy\[tensorrt\]'"):
        build(tmp_path / "net.onnx", flavor="tensorrt")
    assert names_in(tmp_path) == {"net.onnx", "fakes"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')", r"OSError: libtensorrt_rtx\.so\.1"),
        ("import tensorrt_rtx_libs_of_another_version", "No module named 'tensorrt_rtx_libs_of_another_version'"),
        ("__version__ = '1.0'", "has no Builder"),
    ],
    ids=["shared object", "half installed", "another package"],
)
def test_a_broken_library_is_not_called_missing(source, words, tmp_path, monkeypatch):
    fake_modules(tmp_path / "fakes", monkeypatch, tensorrt_rtx=source)
    with pytest.raises(EngineError, match=rf"is installed and cannot be used.*{words}") as caught:
        build(convolution(tmp_path / "net.onnx"))
    assert caught.value.exit_code == 3


def test_bindings_without_the_metapackage_are_enough(tmp_path, monkeypatch):
    gone = "raise ModuleNotFoundError('No module named ' + repr(__name__), name=__name__)"
    fake_modules(tmp_path / "fakes", monkeypatch, tensorrt_rtx=gone)
    assert build(convolution(tmp_path / "net.onnx"), targets="sm86").version == rtx.__version__
