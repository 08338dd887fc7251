"""The sizes of the proof: every axis moves, height and width differ, and none is much more work than what was traced."""

from __future__ import annotations

import math

import pytest

from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import verification_batches, verification_sizes


@pytest.mark.parametrize("extent", [22, 64, 224, 320])
def test_the_largest_maps_stand_in_the_smallest_batches(extent):
    inputs = parse_inputs([f"2x3x{extent}x{extent}"])
    shapes = [inputs[0].shape(s) for s in verification_sizes(inputs, ("N", "H", "W"))]
    assert len(set(shapes)) == 4
    assert {n for n, *_ in shapes} == {1, 3, 4, 5}
    assert all(h != w for *_, h, w in shapes)
    assert any(h > extent for *_, h, _ in shapes)
    assert any(w > extent for *_, w in shapes)
    traced = math.prod(inputs[0].shape())
    assert max(map(math.prod, shapes)) <= 1.05 * traced, "a proof needs no more memory than the model as it is traced"


def test_a_network_of_one_size_is_proven_at_every_batch_up_to_five():
    inputs = parse_inputs(["2x3x224x224"])
    assert sorted(inputs[0].shape(b.sizes)[0] for b in verification_batches(inputs, ("N",))) == [1, 2, 3, 4, 5]
