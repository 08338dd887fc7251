"""What does not fit in memory is a row with its reason, before its inputs are made."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import attn_deploy
from attn_deploy.bench.fit import Need, need_of
from attn_deploy.bench.isolated import ChildMaker
from attn_deploy.bench.layer_views import layer_views
from attn_deploy.bench.make import InlineMaker
from attn_deploy.bench.plan import Variant
from attn_deploy.bench.request import plan_profile
from attn_deploy.inputs import samples as inputs_module
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import ramped
from export_tests.bench.isolated_runs import QUICK, convolution, profile, write_model


def test_a_batch_that_does_not_fit_in_memory_is_a_row(tmp_path):
    node, weight = convolution(256)
    path = write_model(tmp_path / "wide.onnx", [node], weights=[weight], channels=256)
    record = profile(path, tmp_path / "run", batch=(1, 40_000, 4_000_000), memory_limit=1 << 30)
    small, middle, large = record.rows
    assert small.status == "ok", small.reason
    assert (middle.status, large.status) == ("failed", "failed")
    assert "llocate" in middle.reason  # the input fits, the output of 2.6 GB does not
    assert "llocate" in large.reason  # the input alone is 3 GB
    assert "ONNX Runtime failed" in middle.reason


BIG = """
from torch import nn
class Big(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, padding=1)
    def forward(self, x):
        return self.conv(x).mean((2, 3))
"""


def test_what_cannot_fit_is_refused_before_its_inputs_are_made(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(BIG)
    name, inputs, limit = f"{tmp_path / 'net.py'}:Big", parse_inputs(["1x3x64x64"]), 32 << 30

    def must_not(self, inputs):
        raise AssertionError(f"{inputs} was tried")

    monkeypatch.setattr(ChildMaker, "rows", must_not)
    monkeypatch.setattr(InlineMaker, "rows", must_not)
    for save in (None, tmp_path / "run"):
        started = time.monotonic()
        record = attn_deploy.profile(
            name, inputs=inputs, batch=(100_000,), options=QUICK, memory_limit=limit, save=save
        )
        assert time.monotonic() - started < 60, "to tell it takes seconds"
        assert [r.status for r in record.rows] == ["failed", "failed"]
        for row in record.rows:
            assert "does not fit in memory: the inputs need" in row.reason
            assert "the output of its largest layer 104.9 GB, and 34.4 GB can be allocated" in row.reason


def test_layers_of_what_cannot_fit_are_not_looked_at():
    plan = plan_profile("resnet8", runtimes=["eager"], batch=[2_000_000], memory_limit=1 << 30)
    found = layer_views(plan)
    assert not found.reports
    assert "does not fit in memory" in found.missing["eager fp32"]


def test_the_least_memory_of_a_shape_is_no_more_than_what_is_surely_held():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten())
    inputs = parse_inputs(["100000x3x16x16"])
    own = 100_000 * 3 * 256 * 4
    eager, both = (Variant("eager"),), (Variant("eager"), Variant("ort-cpu"))
    layer = 100_000 * 8 * 256 * 4
    assert need_of(net, inputs, eager, "cpu", together=False) == Need(2 * own, layer)
    assert need_of(net, inputs, both, "cpu", together=False) == Need(own, layer)
    assert need_of(net, inputs, both, "cpu", together=True) == Need(3 * own, layer)
    assert need_of(net, inputs, (Variant("eager", "bf16"),), "cpu", together=False) == Need(2 * own, layer // 2)
    assert need_of(net, inputs, both, "cuda", together=True) == Need(own)
    assert need_of(None, inputs, both[1:], "cpu", together=True) == Need(own)
    looks = torch.nn.Sequential(net[0], Looks())
    assert need_of(looks, inputs, eager, "cpu", together=False) == Need(2 * own, layer)
    assert Need(10, 5).refusal(15) == Need(10, 5).refusal(None) == ""


class Looks(torch.nn.Module):
    """Cannot be run without values."""

    def forward(self, x):
        return x if x.sum().item() > 0 else -x


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_a_large_test_tensor_is_the_same_drawn_in_parts(dtype, monkeypatch):
    whole = ramped((7, 3, 5, 4), dtype, seed=3)
    monkeypatch.setattr(inputs_module, "_AT_A_TIME", 130)
    assert np.array_equal(ramped((7, 3, 5, 4), dtype, seed=3), whole)
