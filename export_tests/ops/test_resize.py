"""Nearest resizing from half the size: no runtime has anything to round differently, and the file keeps its Resize."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from attn_deploy import export
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.ops import resize_nearest, resize_nearest_from_half
from attn_deploy.resolve.resolve import resolve

_HALVES = [*range(1, 130), 255, 256, 257, 511, 512, 513, 700, 999, 1000, 1001, 1500, 1999]


def _enlarged(half: int) -> list[int]:
    return [n for n in (2 * half - 1, 2 * half, 2 * half + 1) if n > 0]


@pytest.mark.parametrize("axis", [0, 1])
def test_it_picks_what_integer_arithmetic_picks(axis):
    for half in _HALVES:
        x = torch.arange(half, dtype=torch.float32).reshape((1, 1, half, 1) if axis == 0 else (1, 1, 1, half))
        for length in _enlarged(half):
            size = (length, 1) if axis == 0 else (1, length)
            assert torch.equal(resize_nearest_from_half(x, *size), resize_nearest(x, *size)), (half, length)


class _Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        small = x[:, :, ::2, ::2]
        return resize_nearest_from_half(small, x.shape[2], x.shape[3])


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_the_file_resizes_and_picks_the_same(exporter, tmp_path):
    path = tmp_path / "halved.onnx"
    export(_Halved(), path, inputs=parse_inputs(["1x1x24x20"]), exporter=exporter)
    model = onnx.load(path)
    assert [n.op_type for n in model.graph.node].count("Resize") == 1
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for half in (1, 2, 7, 23, 41, 47, 83, 120):
        for height in _enlarged(half)[-2:]:
            x = np.random.default_rng(half).normal(size=(1, 1, height, 3)).astype(np.float32)
            (result,) = session.run(None, {model.graph.input[0].name: x})
            small = torch.from_numpy(x)[:, :, ::2, ::2]
            assert np.array_equal(result, resize_nearest(small, height, 3).numpy()), height


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(9, 14), (10, 11), (12, 7), (17, 16)])
def test_the_gate_of_ghostnetv2_is_enlarged_exactly(stride, size):
    module = resolve("ghostmodule_v2", {"in_channels": 8, "out_channels": 8, "stride": stride}).module.eval()
    x = torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(0))
    maps = module.ghost(x)
    gate = module.gate(nn.functional.avg_pool2d(x, 2)).sigmoid()
    torch.testing.assert_close(module(x), maps * resize_nearest(gate, *maps.shape[2:]), rtol=0, atol=0)
