"""Decisions on sizes: traced where they go the general way, and never lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.exporters.proven_exports import assert_right, copies, images


class Windows(nn.Module):
    """Attention's windows of 7: the map is padded to whole ones, and cut back where it was padded."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Linear(49, 49)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        below, right = (7 - h % 7) % 7, (7 - w % 7) % 7
        if below > 0 or right > 0:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        rows, columns = x.shape[1] // 7, x.shape[2] // 7
        x = self.mix(x.reshape(n, rows, 7, columns, 7, c).permute(0, 1, 3, 5, 2, 4).flatten(4))
        x = x.reshape(n, rows, columns, c, 7, 7).permute(0, 1, 4, 2, 5, 3).reshape(n, rows * 7, columns * 7, c)
        if below > 0 or right > 0:
            x = x[:, :h, :w, :].contiguous()
        return x.mean((1, 2))


class Rescaled(nn.Module):
    """Images of any size are brought to that of the position embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 4, 14, 14))

    def forward(self, x):
        if x.shape[-2] != 56 or x.shape[-1] != 56:
            x = F.interpolate(x, size=(56, 56), mode="bilinear", align_corners=False)
        return self.embed(x) + self.position


@pytest.mark.parametrize("kind", [Windows, pytest.param(Rescaled, marks=pytest.mark.slow)])
def test_right_at_the_size_asked_for_and_at_others(kind, tmp_path):
    torch.manual_seed(0)
    model = kind().eval()
    artifact = export(model, tmp_path / "m.onnx", inputs=parse_inputs(["1x3x56x56"]))
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    assert "go the general way" in artifact.record["exporter_reason"]
    assert artifact.record["traced_shapes"]["x"][2:] != [56, 56]
    assert_right(artifact.path, copies(model), *images((1, 3, 56, 56), (3, 3, 56, 41), (2, 3, 84, 112), (1, 3, 29, 90)))


class Doubled(Rescaled):
    """The way of the size asked for is another function than the general one."""

    def forward(self, x):
        return super().forward(x) if x.shape[-2] != 56 else 2 * super().forward(x)


class Far(nn.Module):
    """A decision that the sizes of the proof never meet, in a model whose pooling is rewritten."""

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, (3, 2))
        return 2 * pooled if x.shape[2] > 5000 else pooled


@pytest.mark.parametrize(("kind", "line"), [(Doubled, "x.shape[-2] != 56"), (Far, "x.shape[2] > 5000")])
def test_a_decision_that_matters_keeps_its_axis(kind, line, tmp_path):
    torch.manual_seed(0)
    model = kind().eval()
    artifact = export(
        model, tmp_path / "m.onnx", inputs=parse_inputs(["1x3x56x56"]), exporter="torchscript", simplify=False
    )
    assert "H" not in artifact.dynamic_axes
    assert line in artifact.record["fixed"]["H"]
    assert_right(artifact.path, copies(model), *images((1, 3, 56, 56), (3, 3, 56, 56)))


class Grid(nn.Module):
    """A grid of 7 x 7 cells, so that sizes are multiples of 28: at 28 each cell is one place of the map."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Linear(49, 49)

    def forward(self, x):
        x = self.embed(x)
        n, c, h, w = x.shape
        x = x.reshape(n, c, 7, h // 7, 7, w // 7).permute(0, 1, 3, 5, 2, 4).flatten(4)
        return self.mix(x).sum((2, 3))


def test_steps_of_the_traced_size(tmp_path):
    torch.manual_seed(0)
    model = Grid().eval()
    artifact = export(model, tmp_path / "m.onnx", inputs=parse_inputs(["1x3x28x28"]))
    assert (set(artifact.dynamic_axes), artifact.record["exporter"]) == ({"N", "H", "W"}, "torchscript")
    assert "steps of its traced size" in artifact.record["exporter_reason"]
    assert_right(artifact.path, copies(model), *images((1, 3, 28, 56), (3, 3, 84, 28)))
    assert export(model, tmp_path / "b.onnx", inputs=parse_inputs(["1x3x56x56"])).record["exporter"] == "dynamo"
