"""A package of a small classifier of photographs, and what eager mode answers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attn_deploy import PackageRequest, package
from attn_deploy.inputs.grammar import parse_inputs

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.mix = torch.nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, image):
        return self.mix(image).mean((2, 3))
"""


PARTS = ("triton", "python", "docker")
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A package of a small classifier of photographs."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "net.py").write_text(NET)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (31, 23, 3), np.uint8)).save(folder / "photo.png")
    request = PackageRequest(parts=PARTS, name="net", labels=folder / "classes.txt")
    package(
        f"{folder}/net.py:Net", folder / "pkg", request=request, inputs=parse_inputs(["1x3x24x20"]),
        preprocess="imagenet,uint8,nhwc", postprocess="softmax,topk=2", exporter="torchscript",
    )  # fmt: skip
    return folder


@pytest.fixture
def pkg(place, tmp_path):
    """A copy of the package somewhere else."""
    return Path(shutil.copytree(place / "pkg", tmp_path / "elsewhere"))


def call(*words, cwd=None):
    """A script of the package without attn-deploy and torch: those imports fail."""
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'attn_deploy', 'onnx']))\n"
    script = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", block + script, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
    )


def answer_of_eager(place):
    spec = importlib.util.spec_from_file_location("net_of_package", place / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with Image.open(place / "photo.png") as image:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    odds = module.Net()((pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)).softmax(1)
    return odds.detach().topk(2)
