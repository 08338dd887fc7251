"""A small network, its ONNX file, and a quick profile of both."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn

import attn_deploy
from attn_deploy.bench.options import BenchOptions
from attn_deploy.inputs.grammar import parse_inputs

QUICK = BenchOptions(min_samples=48, min_seconds=0, warmup_seconds=0.01, max_seconds=5, settle_seconds=0.001, threads=1)
FILE_INPUT = parse_inputs(["1x3x16x16"])


class Net(nn.Module):
    """One convolution with a ReLU, small and with weights of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x))


def write_file(path, net, *, wrong=0.0, opset=17):
    """The file of a `Net`, written by hand; ``wrong`` is added to one bias."""
    weight, bias = (p.detach().numpy().copy() for p in net.parameters())
    bias[1] += wrong
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def net():
    return Net().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, net):
    made = tmp_path_factory.mktemp("files")
    write_file(made / "right.onnx", net)
    write_file(made / "wrong.onnx", net, wrong=0.01)
    return made


@pytest.fixture(scope="module")
def record(net, folder):
    return attn_deploy.profile(net, inputs=FILE_INPUT, batch=(1, 3), onnx=folder / "right.onnx", options=QUICK)


def text_of(renderable, width=160):
    console = Console(width=width, file=None, record=True, quiet=True)
    console.print(renderable)
    with console.capture() as captured:
        console.quiet = False
        console.print(renderable)
    return captured.get()
