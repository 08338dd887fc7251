"""Small ONNX files, and other helpers of the engine tests."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_deploy import isolate

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 20,
    metadata: dict[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=f"attn_deploy.{key}", value=value)
    onnx.save(model, path)
    return path


def node(
    operator: str, inputs: list[str], outputs: list[str], *, module: str = "", **attributes: Any
) -> onnx.NodeProto:
    made = helper.make_node(operator, inputs, outputs, name=f"node_{operator.lower()}_{outputs[0]}", **attributes)
    if module:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", module, operator.lower()]))
    return made


def convolution(path: Path, *, dtype: type = np.float32, seed: int = 0, metadata: dict[str, str] | None = None) -> Path:
    """Conv, ReLU and a softmax in fp32, with dynamic N, H and W."""
    kind = FLOAT if dtype is np.float32 else HALF
    weight = np.random.default_rng(seed).standard_normal((4, 3, 3, 3)).astype(dtype)
    nodes = [
        node("Conv", ["x", "weight"], ["a"], module="stem.conv", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], module="stem.relu"),
        node("Cast", ["b"], ["c"], to=FLOAT),
        node("Softmax", ["c"], ["y"], module="gate", axis=1),
    ]
    shape = ["N", 3, "H", "W"]
    return save(
        path, nodes, [("x", kind, shape)], [("y", FLOAT, ["N", 4, "H", "W"])], {"weight": weight}, metadata=metadata
    )


def deep(path: Path, depth: int = 120) -> Path:
    """A chain of different convolutions, which takes the builder seconds."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "x"
    for k in range(depth):
        constants[f"w{k}"] = rng.standard_normal((16, 16, 1 + 2 * (k % 3), 3)).astype(np.float32)
        pads = [k % 3, 1, k % 3, 1]
        nodes += [node("Conv", [last, f"w{k}"], [f"a{k}"], pads=pads), node("Sigmoid", [f"a{k}"], [f"b{k}"])]
        last = f"b{k}"
    shape = ["N", 16, "H", "W"]
    return save(path, nodes, [("x", FLOAT, shape)], [(last, FLOAT, shape)], constants)


def two_inputs(path: Path) -> Path:
    """``x + mask`` on one batch axis; the mask has an axis of its own."""
    nodes = [node("ReduceMean", ["mask", "last"], ["m"], keepdims=1), node("Add", ["x", "m"], ["y"])]
    inputs = [("x", FLOAT, ["N", 8]), ("mask", FLOAT, ["N", "L"])]
    return save(path, nodes, inputs, [("y", FLOAT, ["N", 8])], {"last": np.array([1])})


def quantized(path: Path) -> Path:
    """A convolution between explicit Q/DQ pairs, symmetric int8."""
    weight = np.random.default_rng(0).integers(-127, 127, (16, 16, 3, 3)).astype(np.int8)
    constants = {
        "weight": weight,
        "scale": np.float32(0.05),
        "zero": np.int8(0),
        "scales": np.full(16, 0.01, np.float32),
        "zeros": np.zeros(16, np.int8),
    }
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=0),
        node("Conv", ["d", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    shape = ["N", 16, "H", "W"]
    return save(
        path, nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], {k: np.asarray(v) for k, v in constants.items()}
    )


def baked_batch(path: Path) -> Path:
    """Declares a dynamic batch and reshapes to batch 2."""
    nodes = [node("Reshape", ["x", "shape"], ["y"], module="head.flatten")]
    return save(path, nodes, [("x", FLOAT, ["N", 8])], [("y", FLOAT, ["N", 8])], {"shape": np.array([2, 8])})


def classifier(path: Path) -> Path:
    """Ten scores for an image: channel means times a matrix."""
    weight = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    nodes = [
        node("GlobalAveragePool", ["image"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w"], ["y"]),
    ]
    return save(path, nodes, [("image", FLOAT, ["N", 3, 32, 32])], [("y", FLOAT, ["N", 10])], {"w": weight}, opset=17)


@pytest.fixture
def in_process() -> Iterator[None]:
    """Builds run in this process: a child's start costs more than a small engine, and files can be made to fail here."""
    isolate.call_here(["attn_deploy.engine.worker:run"])
    yield
    isolate.call_here([])


def names_in(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def fake_modules(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """Modules that a child process finds before the real ones."""
    folder.mkdir(exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(folder))
