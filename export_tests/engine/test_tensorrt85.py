"""The adapter over TensorRT 8.5, whose precision is chosen by flags: a stand-in with exactly its names builds for real."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from attn_deploy.engine import tactics, worker
from attn_deploy.engine.flavors import FLAVORS, load_flavor
from attn_deploy.engine.weak_typing import read_types
from attn_deploy.errors import EngineBuildError, EngineError, InvalidRequestError
from export_tests.engine.engine_graphs import FLOAT, HALF, convolution, node, quantized, save
from export_tests.engine.fake_tensorrt85 import SURFACE, tensorrt85
from export_tests.engine.test_flavors import ENGINE, ORIN, run_worker, uses_in

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
BF16 = TensorProto.BFLOAT16
# Asked after before they are used.
GUARDED = {
    ("trt", "IProgressMonitor"),
    ("trt", "ComputeCapability"),
    ("trt", "ComputeCapability.__members__"),
    ("trt", "HardwareCompatibilityLevel"),
    ("trt", "BuilderFlag.VERSION_COMPATIBLE"),
    ("IBuilderConfig", "progress_monitor"),
    ("IBuilderConfig", "builder_optimization_level"),
    ("IBuilderConfig", "hardware_compatibility_level"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("ParserError", "node_name"),
    ("ParserError", "node_operator"),
    ("ParserError", "local_function_stack"),
}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = tensorrt85(rtx)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    monkeypatch.setattr(worker, "find_gpu", lambda: ORIN)
    return made


def test_everything_the_adapter_uses_is_in_tensorrt_8_5():
    names = ("parse", "network", "worker", "flavors", "logger", "progress", "weak_typing", "tactics")
    used = set().union(*(uses_in(ENGINE / f"{n}.py") for n in names))
    own = {("ParserError", n) for n in ("name", "filename", "strerror")}
    assert used >= GUARDED - {("trt", "BuilderFlag.VERSION_COMPATIBLE")}
    for owner, chain in sorted(used - own - GUARDED):
        first, *rest = chain.split(".")
        assert first in SURFACE["module" if owner == "trt" else owner], f"{owner}.{chain}"
        if owner == "trt" and rest:
            assert rest[0] in SURFACE[first] or rest[0] == "__members__", chain


def test_a_half_precision_graph_is_permitted_fp16_and_its_softmax_is_bound(old, tmp_path):
    events: list[dict[str, Any]] = []
    answer = run_worker(convolution(tmp_path / "net.onnx", dtype=np.float16), events.append)
    assert old.seen["flags"] == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    bound = {n for n, b in old.bound.items() if "precision" in b}
    assert {n for n in bound if not n.startswith("ONNXTRT_")} == {"node_softmax_y"}  # and the reshapes around it
    assert "node_conv_a" not in old.bound
    assert set(old.bound["node_softmax_y"].values()) == {"FLOAT"}
    casts = {n: b for n, b in old.bound.items() if "cast" in n.lower()}
    assert list(casts.values()) == [{"output 0": "FLOAT"}]
    assert answer["summary"]["compute_dtypes"] == {"float16": 1}
    assert answer["warnings"][1].startswith(f"weakly typed: FP16 permitted, {len(bound)} layers bound to float32")
    phases = [(e["event"], e["phase"]) for e in events if e["event"] != "log"]
    assert phases == [("start", "Building engine"), ("finish", "Building engine")]
    assert (tmp_path / "net.engine").stat().st_size > 0


def test_layers_that_a_node_is_made_of_are_bound_with_it(old, tmp_path):
    """LayerNormalization in fp32 inside an fp16 graph becomes several layers, of which one bears its output's name."""
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Cast", ["a"], ["b"], to=FLOAT),
        node("ReduceMean", ["b"], ["m"], axes=[1], keepdims=1),
        node("Sub", ["b", "m"], ["d"]),
        node("Softmax", ["d"], ["s"], axis=1),
        node("Cast", ["s"], ["h"], to=HALF),
        node("Sigmoid", ["h"], ["y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, [("x", HALF, ["N", 8])], [("y", HALF, ["N", 8])], opset=17)
    run_worker(path)
    bound = {n for n, b in old.bound.items() if "precision" in b}
    assert {"node_reducemean_m", "node_sub_d", "node_softmax_s"} <= bound
    assert not {"node_relu_a", "node_sigmoid_y"} & bound
    assert not any("node_cast_h" in n for n in old.bound)


@pytest.mark.parametrize(("make", "flags"), [(convolution, set()), (quantized, {"INT8"})], ids=["fp32", "int8"])
def test_flags_are_what_the_graph_holds(make, flags, old, tmp_path):
    path = make(tmp_path / "net.onnx")
    assert set(read_types(path).flags) == flags
    answer = run_worker(path)
    assert (old.seen["flags"], old.bound) == (flags, {})
    told = [w for w in answer["warnings"] if w.startswith("weakly typed")]
    assert told == (["weakly typed: INT8 permitted, 0 layers bound to float32"] if flags else [])


def test_sources_without_their_library_are_left_out(old, tmp_path, monkeypatch):
    class Library:
        """One that loads; an empty one has none of the functions."""

        def __init__(self, name: str) -> None:
            if "Lt" in name:
                raise OSError(name)
            if "cublas." in name:
                self.cublasCreate_v2 = None

    monkeypatch.setattr(tactics.ctypes, "CDLL", Library)
    answer = run_worker(convolution(tmp_path / "net.onnx"))
    assert old.seen["sources"] == 0b11001  # CUBLAS_LT cannot be loaded, CUDNN is empty
    assert answer["warnings"][0] == "built without the kernels of CUBLAS_LT, CUDNN, whose libraries are not here"


def test_types_that_it_has_not_are_refused(old, tmp_path):
    shape = ["N", 8]
    save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], [("x", BF16, shape)], [("y", BF16, shape)])
    with pytest.raises(
        EngineBuildError, match=r"holds bfloat16, and TensorRT 8\.5\.3\.1 has .*convert --precision fp16"
    ):
        run_worker(tmp_path / "net.onnx")
    assert not (tmp_path / "net.engine").exists()


def test_a_refused_node_is_named_and_a_newer_opset_is_blamed(old, tmp_path):
    shape = [1, 8, 8, 2]
    nodes = [node("DFT", ["x", "", "axis"], ["y"], module="gate.spectrum")]
    path = save(tmp_path / "net.onnx", nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], {"axis": np.array(1)})
    with pytest.raises(
        EngineBuildError, match=r"DFT node 'node_dft_y' in module 'gate\.spectrum'.*has opset 20.*--opset 17"
    ):
        run_worker(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opt_level": 5}, "does not support --opt-level: it came with version 8.6"),
        ({"version_compat": True}, "does not support --version-compat"),
        ({"hardware_compat": "ampere-plus"}, "does not support --hardware-compat: it came with version 8.6"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_options_that_came_later_are_refused(options, words, old, tmp_path):
    with pytest.raises(InvalidRequestError, match=words):
        run_worker(convolution(tmp_path / "net.onnx"), **options)


def test_what_came_before_8_5_is_too_old(old):
    old.__version__ = "8.4.1"
    old.ICudaEngine = type("ICudaEngine", (), {})
    with pytest.raises(EngineError, match=r"TensorRT 8\.4\.1 is too old: .* which 8\.5 brought") as caught:
        load_flavor(FLAVORS["tensorrt"])
    assert caught.value.exit_code == 3


def test_the_list_of_names_is_that_of_the_wheel():
    assert SURFACE["version"] == "8.5.3.1"
    assert "supports_model_v2" not in SURFACE["OnnxParser"]
    assert {"execute_async_v3", "set_input_shape", "infer_shapes"} <= set(SURFACE["IExecutionContext"])
    assert Path(__file__).with_name("tensorrt_api").is_dir()
