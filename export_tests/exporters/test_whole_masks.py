"""Masks that mask nothing are dropped, and no others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.whole_masks import drop_whole_masks_
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.exporters.proven_exports import assert_right, copies, images

FAR = -3.4028234663852886e38


def masked(*, allowed=True, rows=4, far=FAR, columns="L", add=True, end="y"):
    """Scores with a mask that is made of a constant by Expand, Where and, for ``add``, a sum."""
    constants = [
        numpy_helper.from_array(np.full((1, rows, 1), True) & np.array(allowed).reshape(1, -1, 1), "allowed"),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(far), "far"),
    ]
    chosen = helper.make_node("Where", ["wide", "x", "far"], ["sum"])
    added = [
        helper.make_node("Where", ["wide", "zero", "far"], ["mask"]),
        helper.make_node("Add", ["x", "mask"], ["sum"]),
    ]
    nodes = [
        helper.make_node("Shape", ["like"], ["sizes"]),
        helper.make_node("Expand", ["allowed", "sizes"], ["wide"]),
        *(added if add else [chosen]),
        helper.make_node("Softmax", ["sum"], [end]),
    ]
    value = helper.make_tensor_value_info
    inputs = [
        value("x", TensorProto.FLOAT, ["N", rows, columns]),
        value("like", TensorProto.FLOAT, ["N", rows, "L"]),
    ]
    outputs = [value(end, TensorProto.FLOAT, ["N", rows, "L"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    graph.value_info.extend([value("sum", TensorProto.FLOAT, ["N", rows, "L"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("add", [True, False], ids=["added", "chosen"])
def test_a_mask_that_is_true_everywhere_goes_with_what_makes_it(add):
    model = masked(add=add)
    assert drop_whole_masks_(model) == 1
    assert [n.op_type for n in model.graph.node] == ["Softmax"]
    assert list(model.graph.node[0].input) == ["x"]


@pytest.mark.parametrize("add", [True, False], ids=["added", "chosen"])
@pytest.mark.parametrize(
    "other",
    [{"allowed": [True, True, False, True]}, {"allowed": False}, {"columns": 1}],
    ids=["one place is masked", "all places are masked", "the mask makes the scores wider"],
)
def test_another_mask_stays(add, other):
    model = masked(add=add, **other)
    assert drop_whole_masks_(model) == 0
    assert len(model.graph.node) == (5 if add else 4)


def test_a_table_of_zeros_is_no_mask():
    """A constant that the user may load other values into, as a bias that starts at zero, is left to others."""
    value = helper.make_tensor_value_info
    table = numpy_helper.from_array(np.zeros((4,), np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "table"], ["s"]), helper.make_node("Relu", ["s"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [table],
    )
    assert drop_whole_masks_(helper.make_model(graph)) == 0


class Attention(nn.Module):
    """As encoders of transformers do: a mask of all pairs that may see each other, ``width`` places to the left."""

    def __init__(self, width):
        super().__init__()
        self.width, self.project = width, nn.Linear(8, 24)

    def forward(self, x):
        n, h, w, _ = x.shape
        places = torch.arange(36)
        seen = ((places[None, :] - places[:, None]) <= self.width)[None, None].expand(n, -1, -1, -1)
        q, k, v = self.project(x).reshape(n, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


@pytest.mark.parametrize(("width", "added"), [(36, 0), (4, 1)], ids=["everything is seen", "a band"])
def test_attention_with_a_mask_that_the_model_makes(width, added, tmp_path):
    model = Attention(width).eval()
    model.arguments = (width,)
    artifact = export(model, tmp_path / "m.onnx", inputs=parse_inputs(["2x6x6x8"]), exporter="dynamo", dynamic=["N"])
    nodes = onnx.load(artifact.path).graph.node
    softmax = next(n for n in nodes if n.op_type == "Softmax")
    scores = next(n for n in nodes if softmax.input[0] in n.output)
    assert (scores.op_type == "Add") == bool(added)
    assert_right(artifact.path, copies(model), *images((1, 6, 6, 8), (5, 6, 6, 8)))


class Positions(nn.Module):
    """Positions that start at zero, spread over each image: a table repeated, or one number expanded."""

    def __init__(self, table):
        super().__init__()
        self.project = nn.Conv2d(3, 8, 1)
        self.positions = nn.Parameter(torch.zeros((1, 8, 1, 1) if table else ()))

    def forward(self, x):
        n, _, h, w = x.shape
        spread = self.positions.repeat(n, 1, h, w) if self.positions.dim() else self.positions.expand(n, 8, h, w)
        return (self.project(x) + spread.contiguous()).relu()


@pytest.mark.parametrize("table", [True, False], ids=["table", "number"])
def test_a_parameter_that_starts_at_zero_stays(table, tmp_path):
    artifact = export(Positions(table).eval(), tmp_path / "m.onnx", inputs=parse_inputs(["2x3x6x6"]), exporter="dynamo")
    assert artifact.operators["Add"] == 1
