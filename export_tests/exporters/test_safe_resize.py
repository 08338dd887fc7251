"""Nearest-neighbour resizing to a size: rounded as PyTorch rounds it, where ONNX's Resize takes another neighbour."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._sympy.functions import FloorDiv

from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.rewrite import rewrite
from attn_deploy.exporters.safe_resize import _right_for_all, nearest_to_size
from attn_deploy.inputs.grammar import parse_inputs


@pytest.mark.parametrize("pair", [(90, 3), (4, 82), (6, 74), (7, 3), (5, 9), (8, 16), (16, 8), (3, 3), (1, 7)])
def test_it_is_what_pytorch_gives(pair):
    length, extent = pair
    x = torch.arange(length, dtype=torch.float32).reshape(1, 1, 1, length).expand(1, 1, 2, length)
    assert torch.equal(nearest_to_size(x, (2, extent)), F.interpolate(x, (2, extent)))
    assert torch.equal(nearest_to_size(x[0], extent), F.interpolate(x[0], extent))


class Mask(nn.Module):
    """The padding of a detector, brought to the size of its features."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, image, mask):
        features = self.backbone(image)
        return features * F.interpolate(mask[None].float(), size=features.shape[-2:])[0].unsqueeze(1)


class Pyramid(Mask):
    def forward(self, image):
        fine = self.backbone(image)
        return fine + F.interpolate(F.max_pool2d(fine, 2, ceil_mode=True), size=fine.shape[2:], mode="nearest")


class Area(Mask):
    def forward(self, image):
        return F.interpolate(self.backbone(image), size=(4, 3), mode="area")


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    ("model", "inputs"),
    [(Mask, ["image:1x3x66x90", "mask:1xHxW"]), (Pyramid, ["image:1x3x64x64"]), (Area, ["image:1x3x32x32"])],
)
def test_the_file_holds_at_other_sizes(model, inputs, exporter, tmp_path):
    torch.manual_seed(0)
    module = model().eval()
    artifact = export(module, tmp_path / "m.onnx", exporter=exporter, inputs=parse_inputs(inputs))
    assert artifact.dynamic_axes == ("N", "H", "W")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 30, 181), (3, 59, 37), (2, 90, 41)):
        arrays = [np.random.default_rng(1).standard_normal((shape[0], 3, *shape[1:])).astype(np.float32)]
        if len(inputs) > 1:
            arrays.append(np.random.default_rng(2).integers(0, 2, shape).astype(np.float32))
        with torch.no_grad():
            right = module(*map(torch.from_numpy, arrays)).numpy()
        (got,) = session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)
    if (
        exporter == "dynamo" and model is not Area
    ):  # which knows that a pyramid's sizes are halves, where a Resize is right and fast
        operators = {n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node}
        assert ("Resize" in operators, "Gather" in operators) == (model is Pyramid, model is not Pyramid)


class Multiple(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, image):
        return F.interpolate(image, size=(self.times * image.shape[2], self.times * image.shape[3]))


@pytest.mark.parametrize(("times", "changed"), [(2, False), (3, False), (8, False), (41, True)])
def test_a_whole_multiple_is_left_to_the_exporter_where_both_round_alike(times, changed):
    examples = [(torch.randn(1, 3, 8, 8),), (torch.randn(1, 3, 10, 12),)]
    assert bool(rewrite(Multiple(times), examples, batch=True, space=True, label="m").changes) == changed


def test_sizes_are_looked_at_at_every_extent():
    n = sympy.Symbol("n", integer=True, positive=True)
    half = FloorDiv(n - 1, 2) + 1
    quarter = FloorDiv(half - 1, 2) + 1
    assert _right_for_all(quarter, half)
    assert _right_for_all(FloorDiv(half, 2), half)
    assert _right_for_all(n, half)
    assert not _right_for_all(half, n), "at thousands of pixels float32 ends"
    assert not _right_for_all(n, FloorDiv(n - 1, 32) + 1)
    assert not _right_for_all(n, 41 * n)
    assert not _right_for_all(n, sympy.Symbol("k", integer=True, positive=True))
