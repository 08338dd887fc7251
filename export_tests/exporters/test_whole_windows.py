"""Pooling windows computed from the size of the map are reductions in the file, and hold at every size."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.rewrite import rewrite
from attn_deploy.exporters.whole_windows import whole_axes
from attn_deploy.inputs.grammar import parse_inputs


class Channels(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        window = (x.size(2), x.size(3))
        mean, top = F.avg_pool2d(x, window, stride=window), F.max_pool2d(x, window)
        return x * torch.sigmoid(self.mix(mean) + self.mix(top))


class Strips(Channels):
    def forward(self, x):
        return self.mix(x) * F.avg_pool2d(x, (x.size(2), 1)) + F.max_pool2d(x, kernel_size=(1, x.shape[3]))


@pytest.mark.parametrize("model", [Channels, Strips])
def test_the_file_holds_at_other_sizes(model, tmp_path):
    torch.manual_seed(0)
    module = model().eval()
    artifact = export(module, tmp_path / "m.onnx", inputs=parse_inputs(["1x4x16x24"]))
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert any("as a reduction" in words for _, words in artifact.record["rewritten"])
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((3, 4, 9, 31)).astype(np.float32)
    with torch.no_grad():
        right = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], right, rtol=1e-4, atol=1e-5)


class Fixed(nn.Module):
    """A window that is as large as the map at one size alone."""

    def forward(self, x):
        return F.avg_pool2d(x, 8)


def test_a_window_that_is_a_number_stays_one():
    examples = [(torch.randn(1, 3, 8, 8),), (torch.randn(1, 3, 16, 24),)]
    assert rewrite(Fixed(), examples, batch=True, space=True, label="m").changes == ()


@pytest.mark.parametrize(
    ("kernel", "settings", "axes"),
    [
        ((8, 6), {}, (True, True)),
        ((8, 1), {}, (True, False)),
        ((8, 2), {}, None),
        ((8, 6), {"padding": 1}, None),
        ((8, 1), {"stride": (1, 2)}, None),
        ((8, 6), {"return_indices": True}, None),
        ((3, 3), {}, None),
    ],
)
def test_what_is_a_whole_window(kernel, settings, axes):
    assert whole_axes((torch.zeros(1, 1, 8, 6), kernel), settings) == axes
