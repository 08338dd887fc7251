"""Kinds of models on which exporters are wrong or give up: a right file at every size, or an error with the cause."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from attn_deploy.errors import DynamicAxisError, ExportError, InvalidRequestError, OpsetError, ParityError
from attn_deploy.exporters import rewrite
from attn_deploy.exporters.forms import refuse_later_forms
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.safe_softmax import drop_needless_guards_
from attn_deploy.exporters.time_limit import OutOfTimeError, time_limit
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import verification_batches
from attn_deploy.inputs.user_samples import parse_samples, with_samples
from attn_deploy.runtimes.eager import flatten_outputs
from export_tests.exporters.test_user_models import FOLDER
from export_tests.exporters.user_models import kinds

IMAGE = ("1x3x16x20",)
OTHER = ((1, 3, 24, 13), (3, 3, 9, 33))


def made(model, folder, inputs=IMAGE, **options):
    return export(model, folder / "m.onnx", inputs=parse_inputs(inputs), simplify=False, **options)


def assert_right(path, fresh, *cases, tolerance=1e-4):
    """The file against a model that nothing has run before, at sizes and values of the test's own."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    for tensors in cases:
        with torch.no_grad():
            expected = flatten_outputs(fresh()(*(t.clone() for t in tensors)))
        got = session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})
        for right, output in zip(expected, got, strict=True):
            np.testing.assert_allclose(output, right.numpy(), rtol=tolerance, atol=tolerance)


def copies(model):
    """Fresh models with the same weights."""

    def fresh():
        twin = type(model)(*getattr(model, "arguments", ()))
        twin.load_state_dict(model.state_dict())
        return twin.eval()

    return fresh


def images(*shapes):
    return [(torch.randn(*s),) for s in shapes]


@pytest.mark.parametrize(
    "kind", [kinds.KeepsGrid, kinds.OldNorm, kinds.Hooked, kinds.ChecksChannels, kinds.Shifted, kinds.RoundedUp]
)
def test_right_at_sizes_that_nobody_traced(kind, tmp_path):
    model = kind().eval()
    artifact = made(model, tmp_path)
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    sizes = ((1, 3, 24, 16), (3, 3, 8, 32)) if artifact.record["multiple"] else OTHER
    assert_right(artifact.path, copies(model), *images(*sizes))


@pytest.mark.parametrize("spelling", [0, 1])
def test_rounding_up_is_right_in_both_spellings(spelling, tmp_path):
    model = kinds.RoundedUp(spelling).eval()
    model.arguments = (spelling,)
    artifact = made(model, tmp_path, exporter="dynamo", dynamic=("N", "H", "W"))
    assert_right(artifact.path, copies(model), *images(*OTHER))


def test_parts_in_half_precision_keep_their_type(tmp_path):
    model = kinds.HalfPart().eval()
    artifact = made(model, tmp_path)
    assert artifact.record["parity"]["rtol"] == 1e-2
    assert_right(artifact.path, copies(model), *images(*OTHER), tolerance=5e-3)


def test_what_is_kept_of_the_first_run_is_refused_by_name(tmp_path):
    with pytest.raises(ExportError, match=r"'margin' is kept of the first run") as caught:
        made(kinds.KeepsMargin(), tmp_path, ("1x3x16x20",))
    assert caught.value.rule == "cached-by-size"
    assert "kinds.py, line" in str(caught.value)
    model = kinds.KeepsMargin().eval()
    artifact = made(model, tmp_path, ("1x3x17x20",), dynamic=("N",))
    assert_right(artifact.path, copies(model), *images((3, 3, 17, 20)))
    assert model.margin is None, "the user's model is left as it was"


def padding(n, length, *kept):
    mask = torch.ones(n, length, dtype=torch.bool)
    for row, count in enumerate(kept):
        mask[row, :count] = False
    return mask


def test_padded_tokens_as_eager_mode_has_them(tmp_path):
    model = kinds.PooledEncoder().eval()
    artifact = made(model, tmp_path, ("tokens:2x7x16", "padding:2x7:bool"))
    scattered = padding(2, 7, 4, 6)
    scattered[0, 1] = True
    cases = [(torch.randn(2, 7, 16), padding(2, 7, 3, 7)), (torch.randn(3, 7, 16), padding(3, 7, 1, 5, 6))]
    assert_right(artifact.path, copies(model), *cases, (torch.randn(2, 7, 16), scattered))
    assert "zeros for padded tokens" in str(artifact.record["rewritten"])
    assert set(artifact.dynamic_axes) == {"N", "L"}


def test_two_lengths_move_and_a_memory_may_be_padding_throughout(tmp_path):
    model = kinds.Decoder().eval()
    inputs = ("tokens:2x5x16", "memory:2x7x16", "mask:5x5:bool", "padding:2x7:bool")
    artifact = made(model, tmp_path, inputs, exporter="torchscript")
    assert [i.shape for i in artifact.inputs] == [("N", "L", 16), ("N", "L1", 16), ("L", "L"), ("N", "L1")]
    cases = [
        (torch.randn(n, q, 16), torch.randn(n, k, 16), torch.ones(q, q).triu(1).bool(), padding(n, k, *kept))
        for n, q, k, kept in ((2, 5, 7, (7, 3)), (3, 4, 9, (0, 9, 2)), (1, 8, 3, (0,)))
    ]
    assert_right(artifact.path, copies(model), *cases)


def test_padding_to_windows_that_are_at_most_the_map(tmp_path):
    model = kinds.WholeWindows().eval()
    artifact = made(model, tmp_path, ("1x3x32x32",), exporter="torchscript")
    assert artifact.dynamic_axes == ("N", "H", "W")
    step, least = (max(artifact.record[k].values(), default=1) for k in ("multiple", "minimum"))
    sizes = ((3, 3, 24, 40), (1, 3, 48, 16), (2, 3, 30, 44))
    assert_right(artifact.path, copies(model), *images(*(s for s in sizes if not s[2] % step and min(s[2:]) >= least)))


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_multiples_at_which_decisions_on_sizes_come_out_alike(exporter, tmp_path):
    model = kinds.TwoWays().eval()
    artifact = made(model, tmp_path, ("1x3x32x32",), exporter=exporter)
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert artifact.record["multiple"] == {"H": 8, "W": 8}
    assert artifact.record["minimum"] == {"H": 16, "W": 16}
    assert_right(artifact.path, copies(model), *images((3, 3, 24, 40), (1, 3, 48, 16), (2, 3, 16, 64)))
    session = onnxruntime.InferenceSession(artifact.path)
    for shape in ((1, 3, 28, 40), (1, 3, 40, 30), (1, 3, 8, 8)):
        with pytest.raises(Exception, match="H_in_steps_of_8_from_16"):
            session.run(None, {"image": np.zeros(shape, np.float32)})


def test_a_decision_beside_redirected_calls_is_seen(tmp_path):
    with pytest.raises(ExportError, match=r"branch|decision") as caught:
        made(kinds.DecidesBesideAttention(), tmp_path, ("2x7x8",), exporter="torchscript", dynamic=("N",))
    assert caught.value.rule == "branch-on-shape"
    assert "kinds.py, line" in str(caught.value)


@pytest.mark.parametrize("where", ["class", "global", "function", "default", "closure", "list"])
def test_what_is_kept_outside_the_modules_is_refused_by_name(where, tmp_path):
    names = {
        "class": "KeepsOutside.width", "global": "kinds._SEEN", "function": "_of_function.width",
        "default": "a default of kinds._with_default", "closure": "of_closure.cell", "list": "'list'",
    }  # fmt: skip
    for _ in range(2):  # the refusal has put everything back
        with pytest.raises(ExportError, match="first run") as caught:
            made(kinds.KeepsOutside(where), tmp_path, exporter="torchscript")
        assert caught.value.rule == "cached-by-size"
        assert names[where] in str(caught.value)


def test_a_cache_by_size_is_no_history(tmp_path):
    model = kinds.KeepsOutside("by width").eval()
    model.arguments = ("by width",)
    artifact = made(model, tmp_path, dynamic=("N", "H"), exporter="torchscript")
    assert_right(artifact.path, copies(model), *images((3, 3, 9, 20)))


@pytest.mark.parametrize(("kind", "gate"), [(kinds.BetaGate, "beta"), (kinds.OneMinusGate, "share")])
def test_a_gate_by_another_name_or_at_one_is_opened(kind, gate, tmp_path):
    artifact = made(kind(), tmp_path, exporter="torchscript")
    assert artifact.record["gates"] == [gate]
    assert artifact.dynamic_axes == ("N",), "what is behind the gate holds for one size"


def test_complex_weights_are_shaped_as_real_ones(tmp_path):
    with pytest.raises(ExportError, match=r"no aten.unsqueeze for complex numbers.*torch\.view_as_real") as caught:
        made(kinds.ComplexGate(), tmp_path, ("1x3x8x8",))
    assert "kinds.py, line" in str(caught.value)
    model = kinds.ComplexGate(shaped_as_real=True).eval()
    model.arguments = (True,)
    artifact = made(model, tmp_path, ("1x3x8x8",))
    assert_right(artifact.path, copies(model), *images((3, 3, 10, 8)))


def test_masks_with_structure_find_what_scattered_ones_hide(tmp_path, monkeypatch):
    monkeypatch.setattr(rewrite, "patch_encoders_", lambda model: [])
    with pytest.raises(ParityError, match="disagree at tokens"):
        made(kinds.PooledEncoder(), tmp_path, ("tokens:2x7x16", "padding:2x7:bool"), exporter="torchscript")


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


def test_a_gate_at_zero_hides_nothing(tmp_path):
    with pytest.raises(ParityError, match=r"with values in gamma") as caught:
        made(kinds.ClosedGate(), tmp_path)
    assert caught.value.rule == "overlapping-write"
    artifact = made(kinds.ClosedGate(wrong=False), tmp_path)
    assert artifact.record["gates"] == ["gamma"]
    assert kinds.ClosedGate().gamma.item() == 0


def test_an_operator_in_a_form_that_a_later_opset_defines(tmp_path):
    with pytest.raises(OpsetError, match=r"GridSample of rank 5.* opset 17.*--opset 20"):
        made(kinds.Volume(), tmp_path, ("1x2x4x5x6",), opset=17)
    assert made(kinds.Volume(), tmp_path, ("1x2x4x5x6",), opset=20).opset == 20


@pytest.mark.parametrize(
    ("operator", "attribute", "opset", "right"),
    [
        ("GridSample", {"mode": "linear"}, 18, "--opset 20"),
        ("GridSample", {"mode": "bilinear"}, 20, "--opset 19 or below"),
        ("Pad", {"mode": "wrap"}, 18, "--opset 19"),
        ("ScatterElements", {"reduction": "max"}, 17, "--opset 18"),
    ],
)
def test_words_of_attributes_that_an_opset_lacks(operator, attribute, opset, right):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 2, 2]) for n in "xyz"]
    graph = helper.make_graph([helper.make_node(operator, ["x", "y"], ["z"], **attribute)], "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with pytest.raises(OpsetError, match=right):
        refuse_later_forms(model, opset, "net")
    assert isinstance(model, onnx.ModelProto)


def test_values_of_the_user_join_the_proof(tmp_path):
    model = kinds.Resized().eval()
    inputs = ("maps:1x3x8x8", "size:2")
    artifact = made(model, tmp_path, inputs, samples=["size=20,30"])
    maps = torch.randn(2, 3, 8, 8)
    assert_right(artifact.path, copies(model), (maps, torch.tensor([20.0, 30.0])), (maps, torch.tensor([33.0, 7.0])))
    np.savez(tmp_path / "own.npz", maps=np.ones((3, 3, 8, 8), "float32"), size=np.float32([9, 11]))
    artifact = made(model, tmp_path, inputs, samples=[tmp_path / "own.npz"], dynamic=("N",))
    assert {"maps": (3, 3, 8, 8), "size": (2,)} in [
        {n: tuple(s) for n, s in case.items()} for case in artifact.record["verified_shapes"]
    ]


def test_samples_that_cannot_be_used():
    inputs = parse_inputs(["maps:1x3x8x8", "size:2:int64"])
    for text, words in {
        "size": "neither a file",
        "size=a,b": "no list of numbers",
        "gone.npz": "cannot be read",
    }.items():
        with pytest.raises(InvalidRequestError, match=words):
            parse_samples([text])
    for text, words in {
        "size=[[1,2]]": "shape",
        "other=1,2": "inputs are maps, size",
        "size=1.5,2": "not int64",
    }.items():
        with pytest.raises(InvalidRequestError, match=words):
            with_samples(inputs, parse_samples([text]), "net")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 8, 8), bool), r"is bool of shape \(1, 3, 8, 8\), and the input is float32"),
        (np.full((1, 3, 8, 8), 1e300), r"not float32: \[1\.e\+300"),
        (np.zeros((1, 3, 8, 8), complex), "is complex128"),
        (np.zeros((1, 3, 8, 8), "datetime64[s]"), r"datetime64\[s\] of shape"),
        (np.full((1, 3, 8, 8), "1"), "<U1"),
    ],
)
def test_samples_are_not_cast_in_silence(array, words):
    with pytest.raises(InvalidRequestError, match=words):
        with_samples(parse_inputs(["maps:1x3x8x8"]), parse_samples([{"maps": array}]), "net")


def test_an_empty_archive_is_no_sample(tmp_path):
    np.savez(tmp_path / "own.npz")
    with pytest.raises(InvalidRequestError, match=r"own\.npz holds no arrays"):
        parse_samples([str(tmp_path / "own.npz")])


def test_a_scripted_part_is_named_and_its_remedy_works(tmp_path):
    with pytest.raises(ExportError, match=r"ScriptedPart\.body: .*PYTORCH_JIT=0"):
        made(kinds.ScriptedPart(), tmp_path)
    name = f"{FOLDER}/kinds.py:ScriptedPart"
    line = [sys.executable, "-m", "attn_deploy", "export", name, "--input", "1x3x8x8", "-o", str(tmp_path / "m.onnx")]
    done = subprocess.run(line, env={**os.environ, "PYTORCH_JIT": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dicts_lists_and_dataclasses(tmp_path):
    model = kinds.Structured().eval()
    texts = ("scale:1x1x1x1", "batch.maps.1:1x4x8x9", "batch.image:1x3x8x9", "batch.maps.0:1x4x8x9")
    artifact = made(model, tmp_path, texts)
    assert [o.name for o in artifact.outputs] == ["scores", "boxes"]
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    tensors = {t.partition(":")[0]: torch.randn(2, int(t.partition(":")[2][2]), 6, 7) for t in texts[1:]}
    tensors["scale"] = torch.randn(2, 1, 1, 1)
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    got = session.run(None, {n: t.numpy() for n, t in tensors.items()})
    maps = [tensors["batch.maps.0"], tensors["batch.maps.1"]]
    right = model({"image": tensors["batch.image"], "maps": maps}, tensors["scale"])
    np.testing.assert_allclose(got[0], right.scores.detach(), rtol=1e-4, atol=1e-5)


def test_steps_of_any_number_are_found():
    prepared = prepare(kinds.FreeWindow(), inputs=parse_inputs(["1x3x28x42"]))
    assert prepared.dynamic == ("N", "H", "W")
    assert prepared.inputs[0].multiple == {"H": 7, "W": 7}


def test_the_length_of_sequences_moves(tmp_path):
    model = kinds.Tokens().eval()
    artifact = made(model, tmp_path, ("2x7x8",))
    assert_right(artifact.path, copies(model), *images((1, 9, 8), (4, 5, 8)))


def test_an_axis_asked_for_by_name_must_move(tmp_path):
    with pytest.raises(DynamicAxisError, match=r"--dynamic N,H,W|--dynamic"):
        made(kinds.Structured(), tmp_path, ("batch.image:1x3x8x9",), dynamic=("Q",))


def endless():
    started = time.process_time()
    with time_limit(0.2, "a loop"):
        while time.process_time() < started + 20:
            pass


def test_what_has_no_end_is_ended():
    with pytest.raises(OutOfTimeError, match="took more than 0 s of processor time"):
        endless()
    with time_limit(20, "nothing"):
        pass


def test_no_guard_behind_a_softmax_that_needs_none(tmp_path):
    model = kinds.Attention().eval()
    artifact = made(model, tmp_path, ("2x7x8",), exporter="dynamo")
    assert not {"IsNaN", "Where"} & set(artifact.operators)
    assert_right(artifact.path, copies(model), *images((1, 9, 8), (4, 5, 8)))
    masked = kinds.Attention(masked=True).eval()  # traced with gradients on, its decomposition fails
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
    model = kinds.GroupedAttention(masked).eval()
    model.arguments = (masked,)
    artifact = made(model, tmp_path, ("2x8x8",), exporter=exporter)
    words = {w for _, w in artifact.record["rewritten"]}
    assert words == {"attention with the axes before the heads as one", "attention with an axis of one batch"}
    assert "N" in artifact.dynamic_axes
    assert_right(artifact.path, copies(model), *images((1, 8, 8), (5, 8, 8)))


def test_where_maps_are_padded_to_windows_the_faster_trace_comes_first(tmp_path):
    model = kinds.PadsToWindows().eval()
    artifact = made(model, tmp_path, ("1x3x40x48",))
    assert artifact.record["exporter"] == "torchscript"
    assert "padded to whole windows" in artifact.record["exporter_reason"]
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    assert_right(artifact.path, copies(model), *images((1, 3, 41, 67), (3, 3, 64, 39)))


def test_padding_computed_in_a_chain(tmp_path):
    """The sizes stay simple in the trace, and the file holds nothing of the claim that keeps them so."""
    model = kinds.SamePadding().eval()
    artifact = made(model, tmp_path, ("1x3x40x48",), exporter="dynamo", dynamic=("N", "H", "W"))
    assert_right(artifact.path, copies(model), *images((1, 3, 41, 67), (3, 3, 64, 39)))
    assert not any("claim" in n for n in artifact.operators)
