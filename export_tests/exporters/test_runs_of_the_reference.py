"""What the export runs in eager mode: each set of inputs once."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.reference import EagerReference, FreshRunner
from attn_deploy.runtimes.base import run_once


def test_no_inputs_are_run_twice_by_the_reference(monkeypatch, tmp_path):
    seen: list[bytes] = []
    prepare = FreshRunner.prepare

    def prepared(self, inputs):
        seen.append(b"".join(a.tobytes() for a in inputs.values()))
        prepare(self, inputs)

    monkeypatch.setattr(FreshRunner, "prepare", prepared)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    artifact = export(model, tmp_path / "m.onnx", inputs=parse_inputs(["1x3x24x20"]))
    assert {"N", "H", "W"} <= set(artifact.dynamic_axes)
    assert len(seen) == len(set(seen))
    assert (
        len(seen) == 5
    )  # the sizes of the proof but the first, which the first run was at; and other values at one of them


class Returned(nn.Module):
    """Gives out a tensor that it writes to at every run."""

    def __init__(self):
        super().__init__()
        self.kept = torch.zeros(2, 3)

    def forward(self, x):
        return self.kept.copy_(x)


def test_what_is_remembered_of_the_first_run_does_not_change_with_the_next():
    model = Returned()
    reference = EagerReference(model)
    first, second = (np.full((2, 3), value, np.float32) for value in (1.0, 2.0))
    reference.remember({"x": first}, model(torch.from_numpy(first)))
    model(torch.from_numpy(second))
    assert (run_once(reference.runner, {"x": first})["y"] == 1.0).all()


@pytest.mark.parametrize("precise", [False, True])
def test_no_copy_of_the_model_outlives_its_run(precise, monkeypatch):
    copies: list[weakref.ref] = []
    fresh = FreshRunner.fresh

    def noted(self):
        runner = fresh(self)
        copies.append(weakref.ref(runner))
        return runner

    monkeypatch.setattr(FreshRunner, "fresh", noted)
    runner = FreshRunner(nn.Linear(3, 2), precise=precise)
    outputs = [run_once(runner, {"x": np.full((2, 3), value, np.float32)})["y"] for value in (1.0, 2.0)]
    assert len(copies) == 2
    assert [c() for c in copies] == [None, None]
    assert not np.array_equal(*outputs)
    assert runner.info.precision == ("float64" if precise else "float32")
    assert runner.info is runner.info
    assert len(copies) == 2, "what runs here is known of the copies that ran"
