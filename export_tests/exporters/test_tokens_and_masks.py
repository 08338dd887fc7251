"""Attention over tokens: padding, lengths, masks of every structure, and softmax without needless guards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from attn_deploy.errors import ExportError, ParityError
from attn_deploy.exporters import rewrite
from attn_deploy.exporters.safe_softmax import drop_needless_guards_
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import verification_batches
from export_tests.exporters.proven_exports import assert_right, copies, images, made
from export_tests.exporters.user_models import encoders


def padding(n, length, *kept):
    mask = torch.ones(n, length, dtype=torch.bool)
    for row, count in enumerate(kept):
        mask[row, :count] = False
    return mask


def test_padded_tokens_as_eager_mode_has_them(tmp_path):
    model = encoders.PooledEncoder().eval()
    artifact = made(model, tmp_path, ("tokens:2x7x16", "padding:2x7:bool"))
    scattered = padding(2, 7, 4, 6)
    scattered[0, 1] = True
    cases = [(torch.randn(2, 7, 16), padding(2, 7, 3, 7)), (torch.randn(3, 7, 16), padding(3, 7, 1, 5, 6))]
    assert_right(artifact.path, copies(model), *cases, (torch.randn(2, 7, 16), scattered))
    assert "zeros for padded tokens" in str(artifact.record["rewritten"])
    assert set(artifact.dynamic_axes) == {"N", "L"}


def test_two_lengths_move_and_a_memory_may_be_padding_throughout(tmp_path):
    model = encoders.Decoder().eval()
    inputs = ("tokens:2x5x16", "memory:2x7x16", "mask:5x5:bool", "padding:2x7:bool")
    artifact = made(model, tmp_path, inputs, exporter="torchscript")
    assert [i.shape for i in artifact.inputs] == [("N", "L", 16), ("N", "L1", 16), ("L", "L"), ("N", "L1")]
    cases = [
        (torch.randn(n, q, 16), torch.randn(n, k, 16), torch.ones(q, q).triu(1).bool(), padding(n, k, *kept))
        for n, q, k, kept in ((2, 5, 7, (7, 3)), (3, 4, 9, (0, 9, 2)), (1, 8, 3, (0,)))
    ]
    assert_right(artifact.path, copies(model), *cases)


def test_a_decision_beside_redirected_calls_is_seen(tmp_path):
    with pytest.raises(ExportError, match=r"branch|decision") as caught:
        made(encoders.DecidesBesideAttention(), tmp_path, ("2x7x8",), exporter="torchscript", dynamic=("N",))
    assert caught.value.rule == "branch-on-shape"
    assert "encoders.py, line" in str(caught.value)


def test_masks_with_structure_find_what_scattered_ones_hide(tmp_path, monkeypatch):
    monkeypatch.setattr(rewrite, "patch_encoders_", lambda model: [])
    with pytest.raises(ParityError, match="disagree at tokens"):
        made(encoders.PooledEncoder(), tmp_path, ("tokens:2x7x16", "padding:2x7:bool"), exporter="torchscript")


def test_every_structure_of_a_mask_is_drawn():
    batches = verification_batches(parse_inputs(["x:2x6x6", "mask:2x6x6:bool", "ids:2x6:int64"]), ())
    masks = [b.arrays["mask"] for b in batches]
    ids = [b.arrays["ids"] for b in batches]
    rising = [all((np.diff(m.astype(int), axis=-1) * sign >= 0).all() for _ in "x") for m in masks for sign in (1, -1)]
    assert any(m.all() for m in masks)
    assert not all(m.any() for m in masks)
    assert sum(rising) >= 2
    assert any(np.array_equal(m[0], np.triu(np.ones((6, 6), bool), 1)) for m in masks)
    assert any((np.diff(i, axis=-1) >= 0).all() and len(np.unique(i)) > 1 for i in ids)
    assert any(len(np.unique(i)) == 1 for i in ids)


def test_the_length_of_sequences_moves(tmp_path):
    model = encoders.Tokens().eval()
    artifact = made(model, tmp_path, ("2x7x8",))
    assert_right(artifact.path, copies(model), *images((1, 9, 8), (4, 5, 8)))


def test_no_guard_behind_a_softmax_that_needs_none(tmp_path):
    model = encoders.Attention().eval()
    artifact = made(model, tmp_path, ("2x7x8",), exporter="dynamo")
    assert not {"IsNaN", "Where"} & set(artifact.operators)
    assert_right(artifact.path, copies(model), *images((1, 9, 8), (4, 5, 8)))
    masked = encoders.Attention(masked=True).eval()  # traced with gradients on, its decomposition fails
    masked.arguments = (True,)
    assert_right(made(masked, tmp_path, ("2x7x8",), exporter="dynamo").path, copies(masked), *images((5, 7, 8)))


def guarded(*heads, numbers=()):
    """A softmax with torch's guard behind scores that ``heads`` make of ``x``, ``mask`` and numbers."""
    x, y, mask = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in ("x", "y", "mask"))
    chosen = helper.make_tensor_value_info("chosen", TensorProto.BOOL, [2, 2])
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in {"zero": 0.0, **dict(numbers)}.items()]
    tail = [
        helper.make_node("Softmax", ["scores"], ["s"]),
        helper.make_node("IsNaN", ["s"], ["bad"]),
        helper.make_node("Where", ["bad", "zero", "s"], ["kept"]),
        helper.make_node("MatMul", ["kept", "x"], ["y"]),
    ]
    graph = helper.make_graph([*heads, *tail], "g", [x, mask, chosen], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


PRODUCT = helper.make_node("MatMul", ["x", "x"], ["product"])


@pytest.mark.parametrize(
    ("heads", "numbers", "dropped"),
    [
        ([helper.make_node("MatMul", ["x", "x"], ["scores"])], {}, 1),
        ([PRODUCT, helper.make_node("Add", ["product", "table"], ["scores"])], {"table": -100.0}, 1),
        ([PRODUCT, helper.make_node("Where", ["chosen", "far", "product"], ["scores"])], {"far": -1e4}, 1),
        ([PRODUCT, helper.make_node("Div", ["product", "root"], ["scores"])], {"root": 8.0}, 1),
        ([PRODUCT, helper.make_node("Div", ["product", "root"], ["scores"])], {"root": 0.0}, 0),
        ([PRODUCT, helper.make_node("Add", ["product", "table"], ["scores"])], {"table": -np.inf}, 0),
        ([PRODUCT, helper.make_node("Where", ["chosen", "far", "product"], ["scores"])], {"far": -np.inf}, 0),
        ([PRODUCT, helper.make_node("Add", ["product", "mask"], ["scores"])], {}, 0),
        ([PRODUCT, helper.make_node("Log", ["product"], ["scores"])], {}, 0),
        ([helper.make_node("Add", ["x", "x"], ["scores"])], {}, 0),
        (
            [
                PRODUCT,
                helper.make_node("Constant", [], ["far"], value_float=-np.inf),
                helper.make_node("Add", ["product", "far"], ["scores"]),
            ],
            {},
            0,
        ),
    ],
)
def test_a_guard_goes_where_scores_are_finite(heads, numbers, dropped):
    model = guarded(*heads, numbers=numbers)
    assert drop_needless_guards_(model) == dropped
    assert ("IsNaN" in [n.op_type for n in model.graph.node]) == (not dropped)


@pytest.mark.parametrize(("masked", "exporter"), [(False, "dynamo"), (True, "dynamo"), (True, "torchscript")])
def test_attention_over_other_axes_than_four(masked, exporter, tmp_path):
    model = encoders.GroupedAttention(masked).eval()
    model.arguments = (masked,)
    artifact = made(model, tmp_path, ("2x8x8",), exporter=exporter)
    words = {w for _, w in artifact.record["rewritten"]}
    assert words == {"attention with the axes before the heads as one", "attention with an axis of one batch"}
    assert "N" in artifact.dynamic_axes
    assert_right(artifact.path, copies(model), *images((1, 8, 8), (5, 8, 8)))
