"""Small classifiers to be quantized, their files, and the evidence of a quantization."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from attn_deploy import export
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.graph.opset.opset_helpers import parse

X, Y = "float[N,4,H,W] x", "float[N,4,H,W] y"


class Classifier(nn.Module):
    """Two branches that share their input, a product of two activations, and scores for ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        left, right = self.left(x).flatten(2), self.right(x).flatten(2)
        weights = torch.matmul(left.softmax(2), right.transpose(1, 2))
        return self.head(weights.mean(2))


class Uneven(nn.Module):
    """A layer whose input has one channel a thousand times larger than those that matter to it."""

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.Conv2d(3, 3, 1)
        self.uneven = nn.Conv2d(4, 10, 1)
        with torch.no_grad():
            self.uneven.weight[:, 3:] *= 1e-5

    def forward(self, x: Tensor) -> Tensor:
        x = self.even(x)
        x = torch.cat([x, x.mean(1, keepdim=True) * 3000.0], 1)
        return self.uneven(x).mean((2, 3))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantize") / "net.onnx"
    torch.manual_seed(0)
    export(Classifier(), path, inputs=parse_inputs(["2x3x32x32"]))
    return path


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantize") / "uneven.onnx"
    torch.manual_seed(0)
    export(Uneven(), path, inputs=parse_inputs(["2x3x32x32"]))
    return path


def saved(path: Path, opset: int, body: str, inputs: str = X, outputs: str = Y, **weights: np.ndarray) -> Path:
    model = parse(opset, inputs, outputs, body)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def evidence(artifact) -> dict:
    return json.loads(artifact.metadata["quantization"])
