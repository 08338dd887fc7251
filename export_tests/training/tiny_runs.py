"""A tiny network, the runs that train it, and what their tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.run import train

NETWORK = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 4, stride=4, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                                  nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def eleven():
    return Tiny()

class Scores(Tiny):
    def forward(self, x):
        return super().forward(x)[:, :9]

class Unstable(Tiny):
    def forward(self, x):
        return super().forward(x) * 1e38
"""


EPOCHS = 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("networks") / "net.py"
    path.write_text(NETWORK)
    return f"{path}:Tiny"


def run(model, output, epochs=EPOCHS, **changed):
    settings = {"dataset": "digits", "recipe": recipe_for("digits", epochs=epochs), "output": output, **changed}
    return train(model, **settings)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("run")
    return run(tiny, folder), folder


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def assert_same_weights(folder: Path, other: Path) -> None:
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


class Stopped(BaseException):
    """What stops a run in a test; no code catches it."""
