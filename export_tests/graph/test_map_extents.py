"""Extents of maps: named alike only where they are alike at every size, and known where branches are added."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import nn

from attn_deploy.exporters.pipeline import export
from attn_deploy.graph.map_extents import name_map_extents_
from attn_deploy.inputs.grammar import parse_inputs

SIZES = [(40, 52), (41, 53), (38, 47), (63, 64), (33, 90)]


class Branches(nn.Module):
    """Strides, pools, an enlarged gate, joined and added branches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.dilated, self.narrow = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 3)
        self.down, self.last = nn.Conv2d(16, 8, 5, 2, 2), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        gate = F.interpolate(F.avg_pool2d(x, 2).sigmoid(), size=x.shape[2:], mode="bilinear")
        x = x * gate
        x = self.left(x) + self.right(x) + self.dilated(x)
        x = torch.cat((x, F.max_pool2d(x, 3, 1, 1)), 1)
        x = self.down(x) + F.max_pool2d(x, 3, 2, 1)[:, :8]
        return self.narrow(x), self.last(x)


def _names(model):
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.value_info, *model.graph.input)
    }


def _sizes_at(model, height, width):
    """The extents of every named map, as ONNX Runtime computes them."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    named = [v for v in model.graph.value_info if len(v.type.tensor_type.shape.dim) == 4]
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(v.name, TensorProto.FLOAT, None) for v in named)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.zeros((2, 3, height, width), np.float32)
    return {v.name: a.shape for v, a in zip(named, session.run(None, {model.graph.input[0].name: x}), strict=True)}


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_one_name_is_one_extent_at_every_size(exporter, tmp_path):
    artifact = export(Branches(), tmp_path / "m.onnx", inputs=parse_inputs(["1x3x40x52"]), exporter=exporter)
    assert {"N", "H", "W"} <= set(artifact.dynamic_axes)
    model = onnx.load(artifact.path)
    names = _names(model)
    seen = {e for v in model.graph.value_info for e in names[v.name]}
    assert sum("unk" not in str(e) and isinstance(e, str) for e in seen) >= 5
    for height, width in SIZES:
        meant = {"N": 2, "H": height, "W": width}
        for name, shape in _sizes_at(model, height, width).items():
            for extent, number in zip(names[name], shape, strict=True):
                if isinstance(extent, int):
                    assert extent == number
                else:
                    assert meant.setdefault(extent, number) == number, (name, extent)


def _optimised(model, path):
    """The operators of a graph as ONNX Runtime runs it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # a file that holds for this processor alone is said to be one
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(path).graph.node]


def test_branches_are_added_within_convolutions(tmp_path):
    artifact = export(Branches(), tmp_path / "m.onnx", inputs=parse_inputs(["1x3x40x52"]), exporter="dynamo", opset=18)
    model = onnx.load(artifact.path)
    nodes = _optimised(model, tmp_path / "named.onnx")
    if "ReorderOutput" not in nodes:
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    del model.graph.value_info[:]
    assert (
        nodes.count("Add") == _optimised(model, tmp_path / "nameless.onnx").count("Add") - 2
    )  # of three sums, one pools'


def _model(nodes, extents=("N", 4, "H", "W")):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4, 3, 3], [0.0] * 144)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, extents)]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _conv(source, result, **attributes):
    return helper.make_node("Conv", [source, "w"], [result], kernel_shape=[3, 3], **attributes)


def test_the_same_window_gives_the_same_name_and_another_gives_another():
    windows = [
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 0, 2, 2], "strides": [2, 2]},
        {"strides": [2, 2]},
        {},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
    ]
    model = _model(
        [*(_conv("x", f"c{k}", **w) for k, w in enumerate(windows)), helper.make_node("Relu", ["c0"], ["y"])]
    )
    name_map_extents_(model)
    names = _names(model)
    assert names["c0"] == names["c5"] == ["N", 4, "H", "W"]
    assert names["c1"] == names["c2"]
    assert len({tuple(map(str, names[f"c{k}"])) for k in (0, 1, 3, 4)}) == 4
    assert not set(names["c1"][2:]) & {"H", "W"}
    assert len(set(itertools.chain.from_iterable(names[c][2:] for c in ("c1", "c3", "c4")))) == 6


@pytest.mark.parametrize(
    "nodes",
    [
        [_conv("x", "c", auto_pad="SAME_UPPER", strides=[2, 2])],
        [helper.make_node("Transpose", ["x"], ["c"], perm=[0, 1, 3, 2])],
        [helper.make_node("Relu", ["x"], ["c"])],
    ],
    ids=["padding that is computed", "another layout", "no convolution before it"],
)
def test_of_what_is_not_known_nothing_is_said(nodes):
    model = _model(
        [*nodes, helper.make_node("Relu", ["c"], ["d"]), _conv("x", "e"), helper.make_node("Relu", ["e"], ["y"])]
    )
    name_map_extents_(model)
    assert not {"c", "d"} & {v.name for v in model.graph.value_info}
    assert "e" in {v.name for v in model.graph.value_info}


def test_an_extent_that_may_be_one_is_not_taken_for_the_sum():
    nodes = [_conv("x", "c", pads=[1, 1, 1, 1]), helper.make_node("Add", ["c", "z"], ["y"])]
    model = _model([*nodes, helper.make_node("Relu", ["y"], ["end"])])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", 4, "A", "B")))
    name_map_extents_(model)
    assert "c" in _names(model)
    assert "y" not in _names(model)


def test_what_an_exporter_said_is_told_in_the_names_of_the_graph():
    nodes = [_conv("x", f"c{k}", pads=[k, k, k, k]) for k in range(4)]
    model = _model([*nodes, helper.make_node("Relu", ["c3"], ["y"])])
    said = {
        "x": ["s0", 4, "32*H", "s1"],  # the axis in steps: H is their number, and s1 the axis W
        "c0": ["s0", 4, "H", "s1 - 2"],
        "c1": ["s0", 4, "32*H", "s1"],
    }
    name_map_extents_(model, said)
    names = _names(model)
    assert names["c1"] == ["N", 4, "H", "W"]
    assert names["c0"] == ["N", 4, "H as traced", "s1 - 2"]
    assert set(names["c3"][2:]).isdisjoint({"H", "W", "H as traced", "s1 - 2"})
