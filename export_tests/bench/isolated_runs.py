"""Small files and models, and runs of them with a folder."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import attn_deploy
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import ProfilePlan
from attn_deploy.inputs.grammar import parse_inputs

QUICK = BenchOptions(
    min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)


INPUT = parse_inputs(["1x3x8x8"])


def write_model(path, nodes, *, weights=(), channels=4):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, "height", "width"])],
        list(weights),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def convolution(channels=4):
    weight = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    return helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), numpy_helper.from_array(weight, "w")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    node, weight = convolution()
    return write_model(tmp_path_factory.mktemp("model") / "net.onnx", [node], weights=[weight])


def profile(model, folder, **changes):
    return attn_deploy.profile(model, inputs=INPUT, options=QUICK, save=folder, **changes)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "net"
    return folder, profile(model, folder, batch=(1, 2))


def plan_for(model, **changes):
    return ProfilePlan(model=str(model), runtimes=("ort-cpu",), options=QUICK, inputs=INPUT, **changes)
