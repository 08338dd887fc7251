"""Which axes move: what a network of one size costs, and that a shorter way hides nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_deploy.exporters.prepare import prepare
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.reference import FreshRunner


class Patches(nn.Module):
    """Patches of 8 of a map that a check takes."""

    def __init__(self, check):
        super().__init__()
        self.check = check
        self.embed = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, x):
        if not self.check(x.shape[2], x.shape[3]):
            raise ValueError("this size is not taken")
        return self.embed(x).flatten(2).mean(2)


class Positions(Patches):
    """Patches of 8 that are added to a table of 8 x 8."""

    def __init__(self):
        super().__init__(lambda height, width: height % 8 == width % 8 == 0)
        self.table = nn.Parameter(torch.randn(1, 4, 8, 8))

    def forward(self, x):
        if not self.check(x.shape[2], x.shape[3]):
            raise ValueError("this size is not taken")
        return (self.embed(x) + self.table).flatten(2).mean(2)


def prepared(model, extent=64):
    torch.manual_seed(0)
    return prepare(model.eval(), inputs=parse_inputs([f"1x3x{extent}x{extent}"]))


@pytest.mark.parametrize("model", [Patches(lambda height, width: height == width == 64), Positions()])
def test_a_network_of_one_size_is_copied_for_few(model, monkeypatch):
    runs = []
    enqueue = FreshRunner.enqueue

    def counted(self):
        runs.append(1)
        enqueue(self)

    monkeypatch.setattr(FreshRunner, "enqueue", counted)
    found = prepared(model)
    assert found.dynamic == ("N",)
    assert set(found.fixed) == {"H", "W"}
    assert len(runs) <= 10, "four sizes of the proof, the first refusals of each kind, and no more"


def test_a_network_of_one_size_runs_once_at_each_batch_of_the_proof(tmp_path):
    written = tmp_path / "batches"  # a list would be copied with the model, or put back as it was

    class Written(Positions):
        def forward(self, x):
            outputs = super().forward(x)
            with written.open("a") as file:
                file.write(f"{len(x)} ")
            return outputs

    prepare(Written().eval(), inputs=parse_inputs(["2x3x64x64"]))
    batches = written.read_text().split()
    assert (batches.count("5"), batches.count("4")) == (1, 1), "the largest, which no other check needs"


@pytest.mark.parametrize(
    ("check", "step"),
    [
        (lambda height, width: height % 8 == width % 8 == 0, 8),
        (lambda height, width: height % 16 == width % 16 == 0, 16),
        # Two reasons on one line: what rejects a step of 1 rejects twice the size too, and 16 between is taken.
        (lambda height, width: height % 16 == width % 16 == 0 and max(height, width) <= 112, 16),
    ],
)
def test_steps_are_found_behind_a_check(check, step):
    found = prepared(Patches(check))
    assert found.dynamic == ("N", "H", "W")
    assert found.inputs[0].multiple == {"H": step, "W": step}


class Remembering(Patches):
    """Fails once it has run at a size that it does not take."""

    failed = False

    def forward(self, x):
        if self.failed:
            raise ValueError("no more")
        self.failed = not self.check(x.shape[2], x.shape[3])
        return super().forward(x)


def test_a_copy_that_has_failed_is_not_believed():
    found = prepared(Remembering(lambda height, width: height % 16 == width % 16 == 0))
    assert found.dynamic == ("N", "H", "W")
    assert found.inputs[0].multiple == {"H": 16, "W": 16}
