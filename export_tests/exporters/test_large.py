"""Weights beyond what one file holds, on a small model with the threshold lowered; and really, in the slow tier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_deploy.conversion.convert import convert, simplify
from attn_deploy.deploy.run import run_file
from attn_deploy.diagnosis.contents import diff_graphs, inspect
from attn_deploy.errors import GraphError, InvalidRequestError, PrecisionError
from attn_deploy.exporters.history import first_outputs
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.writes import WeightsWritten
from attn_deploy.fusing import copying
from attn_deploy.graph import placed
from attn_deploy.graph.artifact import read_onnx
from attn_deploy.graph.written import data_path
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.files import verify_files
from attn_deploy.parity.verify import verify

WIDTH = 384
INPUTS = parse_inputs([f"2x5x{WIDTH}"])


class Layers(nn.Module):
    def __init__(self, width: int = WIDTH, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(5000, WIDTH))
        self.scale = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.table[:5] + (x @ self.table.t()).mean(-1, keepdim=True)


class Standardised(nn.Module):
    """Computes its weight from another at every call, as weight standardisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(128, 128, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return torch.conv2d(x, weight, self.conv.bias, padding=1)


class Clamped(Layers):
    """Writes to its weights, as some clip them at every call."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.layers[0].weight.clamp_(-0.01, 0.01)
            self.layers[1].weight.data = self.layers[1].weight.data * 0 + 0.001
        return super().forward(x)


@pytest.fixture
def lowered(monkeypatch):
    """Every model is large, and beyond one file."""
    monkeypatch.setattr(placed, "LARGEST_FILE", 1 << 19)
    monkeypatch.setattr(copying, "LARGE", 1 << 16)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("make", [Layers, Buffered])
def test_a_pair_is_exported_proven_and_used(lowered, tmp_path, make, exporter):
    torch.manual_seed(0)
    model = make().eval()
    path = tmp_path / "net.onnx"
    artifact = export(model, path, inputs=INPUTS, exporter=exporter)
    assert artifact.data == {"net.onnx.data": data_path(path).stat().st_size}
    assert artifact.sha256 == read_onnx(path).sha256
    assert artifact.size < 100_000 < sum(artifact.data.values())
    assert artifact.record["parity"]["max_abs_error"] < 1e-4
    assert verify(model, path, inputs=INPUTS).passed
    assert inspect(path).artifact.seal == "whole"
    np.savez(tmp_path / "x.npz", x=np.ones((3, 5, WIDTH), np.float32))
    run_file(path, tmp_path / "x.npz", output=tmp_path / "y.npz")
    with torch.no_grad():
        right = model(torch.ones(3, 5, WIDTH)).numpy()
    (got,) = np.load(tmp_path / "y.npz").values()
    assert np.allclose(got, right, atol=1e-4 * max(1, np.abs(right).max()))
    for step in (convert(path, tmp_path / "seventeen.onnx", opset=17), simplify(path, tmp_path / "simple.onnx")):
        assert step.seal == "whole"
        assert list(step.data) == [f"{step.path.name}.data"]
        assert verify_files(path, step.path).passed
        assert not [d for d in diff_graphs(path, step.path) if "float" in d.first + d.second]
    assert sorted(p.suffix for p in tmp_path.iterdir() if ".onnx" in p.name) == [".data"] * 3 + [".onnx"] * 3


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_weights_that_are_computed_are_computed_once(tmp_path, exporter):
    inputs = parse_inputs(["1x128x8x8"])
    artifact = export(Standardised().eval(), tmp_path / "net.onnx", inputs=inputs, exporter=exporter)
    assert dict(artifact.operators) == {"Conv": 1}


def test_what_cannot_be_done_with_a_pair_says_so_at_once(lowered, tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(PrecisionError, match="up to 2 GiB"):
        export(Layers().eval(), path, inputs=INPUTS, precision="fp16")
    export(Layers().eval(), path, inputs=INPUTS)
    with pytest.raises(GraphError, match="2 GiB"):
        convert(path, tmp_path / "half.onnx", precision="fp16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]


def test_a_data_file_of_somebody_else_stays(lowered, tmp_path):
    path = tmp_path / "net.onnx"
    data_path(path).write_text("mine")
    with pytest.raises(InvalidRequestError, match=r"does not belong to .*--force"):
        export(Layers().eval(), path, inputs=INPUTS)
    assert data_path(path).read_text() == "mine"
    assert export(Layers().eval(), path, inputs=INPUTS, force=True).data
    assert export(Layers().eval(), path, inputs=INPUTS).data  # its own it may replace


def test_a_data_file_can_be_asked_for(tmp_path):
    path = tmp_path / "net.onnx"
    artifact = export(Layers().eval(), path, inputs=INPUTS, external_data=True)
    assert list(artifact.data) == ["net.onnx.data"]
    assert not export(Layers().eval(), path, inputs=INPUTS).data
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_the_users_weights_are_left_alone_by_a_model_that_writes_to_them(lowered, tmp_path):
    torch.manual_seed(0)
    model = Clamped().eval()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(WeightsWritten):
        first_outputs(copying.copy_model(model, share_parameters=True), INPUTS, "net", watched=True)
    first_outputs(Layers().eval(), INPUTS, "net", watched=True)
    export(model, tmp_path / "net.onnx", inputs=INPUTS)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_copies_share_memory_and_not_parameters():
    model = Layers()
    twin = copying.copy_model(model, share_parameters=True, own=("layers.0.weight",))
    first, second = (m.layers[0].weight for m in (model, twin))
    assert first.data_ptr() != second.data_ptr()
    first, second = (m.layers[1].weight for m in (model, twin))
    assert first is not second
    assert first.data_ptr() == second.data_ptr()
    second.data = torch.zeros_like(second)
    assert first.abs().sum() > 0


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path):
    artifact = export(Layers(16384, 3).eval(), tmp_path / "net.onnx", inputs=parse_inputs(["2x3x16384"]))
    assert sum(artifact.data.values()) > 3 << 30
    assert artifact.seal == "whole"
    assert convert(artifact, tmp_path / "seventeen.onnx", opset=17).seal == "whole"
