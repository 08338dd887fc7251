"""Values with structure: masks in both polarities, indices, boxes and time steps, by the type and the name of an input."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import draws_of, example_arrays, verification_batches
from attn_deploy.inputs.structures import structures, usual


def drawn(name, dtype, shape, bound=None):
    return [d(np.random.default_rng(3), shape) for d in structures(name, dtype, bound)]


def is_right_padded(mask):
    return all((np.diff(row.astype(int)) >= 0).all() for row in mask)


def test_masks_have_padding_on_either_side_a_full_row_and_both_ends():
    masks = drawn("x", "bool", (4, 9))
    right, left = masks[0], masks[1]
    assert is_right_padded(right)
    assert is_right_padded(left[:, ::-1])
    assert not right[0].any(), "a row without padding stands among padded ones"
    assert right.any()
    assert any(not m.any() for m in masks)
    assert any(m.all() for m in masks)
    square = drawn("x", "bool", (5, 5))
    assert any(np.array_equal(m, np.triu(np.ones((5, 5), bool), 1)) for m in square)
    assert any(np.array_equal(m, np.tril(np.ones((5, 5), bool))) for m in square)


@pytest.mark.parametrize("name", ["attn_mask", "key_padding_mask", "relative_bias"])
def test_a_mask_of_numbers_is_kept_or_added(name):
    masks = drawn(name, "float32", (2, 1, 6, 6))
    assert any(np.isneginf(m).any() for m in masks)
    assert any((m == np.finfo(np.float32).min).any() for m in masks)
    assert any(set(np.unique(m)) == {0.0, 1.0} for m in masks)
    assert any((m == -1e4).any() for m in masks)
    assert any(not m.any() for m in masks)
    assert drawn("image", "float32", (2, 3, 6, 6)) == []


def test_integers_are_sorted_repeated_and_masks():
    values = drawn("ids", "int64", (2, 7))
    assert any((np.diff(v) >= 0).all() and len(np.unique(v)) > 2 for v in values)
    assert any(len(np.unique(v)) == 1 for v in values)
    assert any(set(np.unique(v)) == {0, 1} for v in values)
    assert max(v.max() for v in drawn("timestep", "int64", (64,))) > 100
    assert max(v.max() for v in drawn("timestep", "int64", (64,), bound=20)) < 20


def test_what_is_drawn_first_is_what_the_name_says():
    inputs = parse_inputs(["mask:2x9:int64", "gate_mask:2x9", "boxes:2x5x4", "lengths:8:int64", "orig_size:8:int64"])
    first = {i.name: example_arrays([i])[i.name] for i in inputs}
    assert set(np.unique(first["mask"])) == set(np.unique(first["gate_mask"])) == {0, 1}
    assert first["mask"][:, 0].all()
    assert (first["boxes"][..., :2] <= first["boxes"][..., 2:]).all()
    assert first["lengths"].min() >= 1
    assert first["orig_size"].min() >= 16
    assert usual("image", "float32", None) is None
    assert usual("ids", "int64", None) is None


def test_boxes_have_their_corners_in_order():
    for boxes in drawn("boxes", "float32", (3, 5, 4)):
        assert (boxes[..., 0] <= boxes[..., 2]).all()
        assert (boxes[..., 1] <= boxes[..., 3]).all()
    for rois in drawn("rois", "float32", (5, 5)):
        assert (rois[:, 0] == 0).all()
        assert (rois[:, 1:3] <= rois[:, 3:]).all()


def test_every_structure_is_in_the_proof():
    inputs = parse_inputs(["x:2xL=10x16", "attn_mask:LxL"])
    batches = verification_batches(inputs, ("N", "L"))
    assert sum(b.extra for b in batches) == draws_of(inputs) - 1
    assert any(np.isneginf(b.arrays["attn_mask"]).any() for b in batches)
