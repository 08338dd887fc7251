"""What is special about the modules that fuse several maps, and about border alignment."""

from __future__ import annotations

import math

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, export, fuse
from attn_deploy.errors import ExportError, InvalidRequestError
from attn_deploy.resolve.make import slot_factory
from attn_deploy.resolve.resolve import resolve
from export_tests.modules.samples import made, maps, ramp


def test_feature_tools_equal_their_plain_forms_in_any_memory_layout():
    x = ramp(2, 6, 5, 7).to(memory_format=torch.channels_last)
    assert torch.equal(create("flatten")(x), x.reshape(2, -1))
    torch.testing.assert_close(create("global_avg_pool")(x), F.adaptive_avg_pool2d(x, 1).flatten(1))
    f = x.flatten(2)
    torch.testing.assert_close(create("gram_matrix")(x), f @ f.transpose(1, 2) / (6 * 5 * 7))


def test_feature_concat_takes_a_list_and_passes_a_single_map_through():
    x = maps((1, 2, 3, 4), (1, 2, 3, 5))
    assert torch.equal(create("feature_concat", dim=-1)(x), torch.cat(x, -1))
    assert create("feature_concat")(x[0]) is x[0]


@pytest.mark.parametrize("method", ["fast", "softmax", "sum", "channel_fast", "channel_softmax"])
def test_weighted_fusion_methods(method):
    module = create("weighted_feature_fusion", num_inputs=2, method=method)
    x = torch.stack(maps((2, 64, 3, 5), (2, 64, 3, 5)))
    if method == "sum":
        assert not list(module.parameters())
        weight = torch.ones(2)
    else:
        nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
        weight = module.weight.detach()
        weight = weight.softmax(0) if "softmax" in method else weight.relu() / (weight.relu().sum(0) + 1e-4)
    expected = (x * weight.reshape(2, 1, -1, 1, 1)).sum(0)
    torch.testing.assert_close(module(*x), expected)
    torch.testing.assert_close(fuse(module)(*x), expected)


def test_fusions_have_as_many_inputs_as_their_arguments_say():
    inputs = resolve("yolo_weighted_fusion:channels=(4,2)").inputs
    assert [(i.name, i.dims) for i in inputs] == [("x0", ("N", 4, "H", "W")), ("x1", ("N", 2, "H", "W"))]
    assert len(resolve("weighted_feature_fusion:num_inputs=5").inputs) == 5
    with pytest.raises(InvalidRequestError, match="several inputs"):
        slot_factory("weighted_feature_fusion", {})


def test_yolo_fusion_leaves_the_first_map_alone():
    x, other = maps((1, 4, 3, 3), (1, 2, 3, 3))
    kept = x.clone()
    y = create("yolo_weighted_fusion", channels=(4, 2), weighted=False)(x, other)
    assert torch.equal(x, kept)
    assert torch.equal(y, torch.cat([x[:, :2] + other, x[:, 2:]], 1))


def plain_border_align(x, boxes, pool_size):
    """Point by point, in plain Python."""
    batch, channels, height, width = x.shape
    result = torch.empty(batch, channels // 4, boxes.shape[1], 4)
    for b in range(batch):
        for k, (x1, y1, x2, y2) in enumerate(boxes[b].tolist()):
            w, h = (x2 - x1) / pool_size, (y2 - y1) / pool_size
            starts = ((x1, y1, w, 0), (x1, y1, 0, h), (x2, y2, -w, 0), (x2, y2, 0, -h))
            for side, (px, py, dx, dy) in enumerate(starts):
                maps = x[b, side * (channels // 4) : (side + 1) * (channels // 4)]
                values = []
                for i in range(pool_size + 1):
                    u, v = min(max(px + i * dx, 0), width - 1), min(max(py + i * dy, 0), height - 1)
                    u0, v0 = math.floor(u), math.floor(v)
                    u1, v1 = min(u0 + 1, width - 1), min(v0 + 1, height - 1)
                    above = maps[:, v0, u0] * (1 - u + u0) + maps[:, v0, u1] * (u - u0)
                    below = maps[:, v1, u0] * (1 - u + u0) + maps[:, v1, u1] * (u - u0)
                    values.append(above * (1 - v + v0) + below * (v - v0))
                result[b, :, k, side] = torch.stack(values).amax(0)
    return result


def boxes_in(height, width, batch, count):
    generator = torch.Generator().manual_seed(height)
    corners = torch.rand(batch, count, 2, 2, generator=generator) * torch.tensor([width - 1, height - 1])
    boxes = torch.cat([corners.amin(2), corners.amax(2)], 2)
    boxes[:, 0] = torch.tensor([0, 0, width - 1, height - 1])
    return boxes


@pytest.mark.parametrize("sampling", ["gather", "grid_sample"])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (1, 5), (6, 1), (1, 1)])
def test_border_align_equals_its_plain_form(sampling, height, width):
    x, boxes = ramp(2, 8, height, width), boxes_in(height, width, 2, 5)
    module = create("border_align", channels=8, pool_size=7, sampling=sampling)
    torch.testing.assert_close(module(x, boxes), plain_border_align(x, boxes, 7), rtol=1e-4, atol=1e-4)


def test_border_align_clamps_boxes_to_the_map():
    x = ramp(1, 8, 5, 6)
    wild = torch.tensor([[[-3.0, -1.0, 9.0, 7.0]]])
    for sampling in ("gather", "grid_sample"):
        module = create("border_align", channels=8, sampling=sampling)
        torch.testing.assert_close(module(x, wild), module(x, torch.tensor([[[0.0, 0.0, 5.0, 4.0]]])))


def test_border_branch_takes_boxes_by_position_or_in_rows():
    x, boxes = ramp(2, 64, 4, 5), boxes_in(4, 5, 2, 20)
    first, second = made("border_branch"), made("border_branch", sampling="grid_sample")
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, boxes), first(x, boxes.reshape(2, 4, 5, 4)))
    torch.testing.assert_close(first(x, boxes), second(x, boxes), rtol=1e-4, atol=1e-4)


GRID_SAMPLE = [
    ("border_align", "torchscript", 16),
    pytest.param("border_branch", "torchscript", 16, marks=pytest.mark.slow),
    pytest.param("border_align", "dynamo", 18, marks=pytest.mark.slow),
    pytest.param("border_branch", "dynamo", 18, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "exporter", "opset"), GRID_SAMPLE)
def test_border_sampling_by_grid_sample_exports_from_opset_16(name, exporter, opset, tmp_path):
    model = f"{name}:sampling=grid_sample"
    artifact = export(model, tmp_path / "model.onnx", opset=opset, exporter=exporter)
    assert "GridSample" in {n.op_type for n in onnx.load(artifact.path).graph.node}
    with pytest.raises(ExportError):
        export(model, tmp_path / "old.onnx", opset=15, exporter="torchscript")
