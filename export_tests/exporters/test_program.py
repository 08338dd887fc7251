"""Tracing that has no end is cut, and tried in another way before it is given up."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from attn_deploy.errors import DynamicAxisError, ExportError
from attn_deploy.exporters import program
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.suggested import fails_above, suggested_minimum
from attn_deploy.exporters.time_limit import OutOfTimeError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.processes import no_collection


@pytest.fixture
def prepared():
    return prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), inputs=parse_inputs(["1x3x9x9"]))


def endless(always: bool, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    real, named = program._export, []

    def export(prepared, shapes, declaration):
        named.append(declaration.named)
        if declaration.named or always:
            raise OutOfTimeError("tracing took more than 30 s of processor time and was ended")
        return real(prepared, shapes, declaration)

    monkeypatch.setattr(program, "_export", export)
    return named


def test_named_sizes_without_an_end_are_tried_free(prepared, monkeypatch):
    named = endless(False, monkeypatch)
    assert program.exported_program(prepared).program is not None
    assert named == [True, False]


def test_what_has_no_end_in_either_way_is_refused_with_the_bound(prepared, monkeypatch):
    endless(True, monkeypatch)
    with pytest.raises(ExportError, match="more than 30 s") as caught:
        program.exported_program(prepared)
    assert caught.value.rule == "endless-arithmetic"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_a_trace(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with no_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


REFUSAL = """Constraints violated (H, W)! For more information, run with TORCH_LOGS="+dynamic".
  - Not all values of W = L['input'].size()[3] in the specified range W <= 8192 satisfy the generated guard {guard}.
  - Not all values of H = L['input'].size()[2] in the specified range satisfy the generated guard 33 <= L['input'].size()[2]
Suggested fixes:
  H = Dim('H', min=33, max=8192)
  W = Dim('W', min=33, max=8192)
The error above occurred when calling torch.export.export."""


@pytest.mark.parametrize(
    ("guard", "least"),
    [
        ("(1 + (((-7) + (((-1) + L['input'].size()[3]) // 4)) // 8)) != 1", 61),
        ("33 <= L['input'].size()[3] and L['input'].size()[3] <= 8192", 33),
        ("(L['input'].size()[3] % 2) == 0", 33),  # a step, which no least extent brings about
        ("(L['input'].size()[3] // L['input'].size()[2]) != 3", 33),  # two axes
        ("Mod(L['input'].size()[3], 0) > floor(3)", 33),  # not known here
        ("L['input'].size()[3] < 200", 33),
    ],
)
def test_least_extents_are_those_at_which_every_condition_holds(guard, least):
    prepared = prepare(nn.Conv2d(3, 4, 3), inputs=parse_inputs(["1x3x224x224"]))
    assert suggested_minimum(prepared, REFUSAL.format(guard=guard)) == {"H": 33, "W": least}
    assert suggested_minimum(prepared, "Constraints violated (H)!") == {}


@pytest.mark.parametrize(
    ("guard", "above"),
    [
        ("(L['input'].size()[3] // 14)*(L['input'].size()[3] // 14) == 256", True),
        ("(L['input'].size()[3] % 2) == 0", True),
        ("(1 + (((-7) + (((-1) + L['input'].size()[3]) // 4)) // 8)) != 1", False),
        ("(L['input'].size()[3] // L['input'].size()[2]) != 3", False),  # two axes: not known here
        ("Mod(L['input'].size()[3], 0) > floor(3)", False),
    ],
)
def test_a_condition_that_larger_extents_break_is_told_from_one_that_asks_for_more(guard, above):
    prepared = prepare(nn.Conv2d(3, 4, 3), inputs=parse_inputs(["1x3x224x224"]))
    assert fails_above(prepared, REFUSAL.format(guard=guard)) == above


class Square(nn.Module):
    """Adds a table where it fits, as a position embedding is left as it is at the size that it was made for."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(1, 3, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x.shape[2] // 2) * (x.shape[2] // 2) == 64:
            return x + self.table.mean((2, 3), keepdim=True)
        return x - self.table.mean((2, 3), keepdim=True)


def test_no_larger_least_extent_is_tried_against_a_condition_that_it_does_not_mend(monkeypatch):
    declared: list[tuple[bool, int]] = []
    trace = program._export

    def noted(prepared, shapes, declaration):
        declared.append((declaration.named, declaration.floor))
        return trace(prepared, shapes, declaration)

    monkeypatch.setattr(program, "_export", noted)
    prepared = prepare(Square(), inputs=parse_inputs(["2x3x16x16"]), dynamic=["N", "H", "W"])
    with pytest.raises(DynamicAxisError, match=r"would hold for \(H // 2\)\*\(H // 2\) == 64 only: forward"):
        program.exported_program(prepared)
    assert declared == [(True, 1), (False, 1)], (
        "nor is it traced once more where questions about an extent of 1 are asked"
    )
