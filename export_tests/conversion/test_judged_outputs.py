"""Each output is judged for itself: scores beside boxes, choices, and comparisons of nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from attn_deploy import convert, quantize, verify_files
from attn_deploy.cli import app
from attn_deploy.errors import GraphError, InvalidRequestError, ParityError
from attn_deploy.graph.artifact import load_model
from export_tests.conversion import graphs_from_elsewhere as elsewhere
from export_tests.conversion.runs import images, run


def relative(path: Path, other: Path) -> np.ndarray:
    """The error of boxes and of scores, each in its own scale; judged by numpy alone."""
    right, got = run(path, x=images())[0], run(other, x=images())[0]
    parts = (slice(0, 4), slice(4, 12))
    return np.array([np.sqrt(((right - got)[:, p] ** 2).mean() / (right[:, p] ** 2).mean()) for p in parts])


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("gpu", ["head.score"]),
        ("cpu", ["head.score", "body"]),  # whose 8 bits are on both sides of a layer: the scores read what body gives
    ],
)
def test_scores_that_eight_bits_would_spoil_keep_their_layer_in_float(tmp_path, target, left):
    source = elsewhere.detector(tmp_path / "d.onnx", spread=100.0)
    artifact = quantize(source, tmp_path / "q.onnx", method="minmax", target=target)
    record = artifact.evidence.quantization
    assert [s["node"] for s in record["sensitive"]] == left
    assert (relative(source, artifact.path) < 0.1).all()
    assert "channels" in record["judged"]["worst"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_scores_that_half_precision_would_spoil_keep_what_leads_to_them_in_fp32(tmp_path, precision):
    source = elsewhere.detector(tmp_path / "d.onnx", cancels=True)
    artifact = convert(source, tmp_path / "h.onnx", precision=precision)
    wide = {n.name for n in load_model(artifact.path).graph.node} & {"head.up", "head.down"}
    assert wide == {"head.up", "head.down"}
    assert artifact.evidence.typing["products"]["float32"] >= 1
    if precision == "fp16":
        assert (relative(source, artifact.path) < 0.02).all()


def test_a_spoiled_output_is_seen_in_one_output_as_in_two(tmp_path):
    """Scores of another network under the right boxes: the error of the whole is a thousandth."""
    source = elsewhere.detector(tmp_path / "a.onnx")
    model = load_model(source)
    scores = next(i for i in model.graph.initializer if i.name == "ws")
    scores.CopyFrom(onnx.numpy_helper.from_array(np.flip(onnx.numpy_helper.to_array(scores), 0).copy(), "ws"))
    onnx.save(model, tmp_path / "b.onnx")
    for precision in ("fp32", "fp16", "int8"):
        comparison = verify_files(source, tmp_path / "b.onnx", precision=precision)
        assert [(o.part, o.passed) for o in comparison.outputs] == [
            ("channels 0 to 3", True),
            ("channels 4 to 11", False),
        ]
        worst = comparison.outputs[1]
        assert worst.where[1] >= 4, "the index is that of the whole output"
        assert abs(worst.expected - worst.got) == pytest.approx(worst.max_abs_error, rel=1e-5)


def test_a_pattern_keeps_nodes_in_fp32(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    artifact = convert(source, tmp_path / "h.onnx", precision="fp16", keep=["head.*"])
    assert artifact.evidence.typing["products"] == {"float16": 2, "float32": 2}
    assert artifact.evidence.typing["kept"]["named with --keep"] == 2
    with pytest.raises(InvalidRequestError, match=r"--keep 'haed\.box' fits no node.*head\.box"):
        convert(source, tmp_path / "h.onnx", precision="fp16", keep=["haed.box"])


# --- choices -----------------------------------------------------------------------------------------------------------


def test_choices_are_compared_as_choices(tmp_path):
    source = elsewhere.chooser(tmp_path / "c.onnx")
    for artifact in (
        convert(source, tmp_path / "h.onnx", precision="fp16"),
        quantize(source, tmp_path / "q.onnx", method="minmax"),
    ):
        evidence = artifact.evidence
        shares = evidence.quantization["judged"]["choices"] if evidence.quantization else evidence.typing["choices"]
        assert set(shares) == {"labels", "places"}
        assert min(shares.values()) > 0.9


def test_other_choices_are_refused(tmp_path):
    source = elsewhere.chooser(tmp_path / "c.onnx")
    model = load_model(source)
    next(n for n in model.graph.node if n.op_type == "ArgMax").op_type = "ArgMin"
    onnx.save(model, tmp_path / "other.onnx")
    comparison = verify_files(source, tmp_path / "other.onnx", precision="int8")
    verdicts = {o.output: o.passed for o in comparison.outputs}
    assert verdicts == {"labels": False, "best": True, "places": True}
    result = CliRunner().invoke(app, ["verify", str(source), str(tmp_path / "other.onnx")])
    assert result.exit_code == 1
    assert "WRONG" in result.stdout


# --- nothing compared --------------------------------------------------------------------------------------------------


def empty_output(path: Path) -> Path:
    nodes = [
        elsewhere.node("Conv", ["x", "w"], ["s"], pads=[1, 1, 1, 1]),
        elsewhere.node("Reshape", ["s", "flat"], ["row"]),
        elsewhere.node("Greater", ["row", "limit"], ["k"]),
        elsewhere.node("Compress", ["row", "k"], ["y"]),
    ]
    constants = [
        elsewhere.weights("w", 4, 3, 3, 3),
        elsewhere.constant("flat", [-1], np.int64),
        elsewhere.constant("limit", 1e9),
    ]
    return elsewhere.save(path, nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, ["K"])], constants)


@pytest.mark.parametrize(
    "step",
    [
        lambda s, t: convert(s, t, opset=20),
        lambda s, t: convert(s, t, precision="fp16"),
        lambda s, t: quantize(s, t),
        lambda s, t: verify_files(s, s),
    ],
    ids=["opset", "fp16", "int8", "verify"],
)
def test_zero_elements_are_no_proof(tmp_path, step):
    with pytest.raises(ParityError, match=r"nothing (was|can be) compared at the output 'y', which (was|is) empty"):
        step(empty_output(tmp_path / "e.onnx"), tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_a_batch_of_zero_is_no_proof(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    inputs, outputs = [elsewhere.value("x", 1, [0, 3, 32, 32])], [elsewhere.value("y", 1, [0, 16, 8, 8])]
    path = elsewhere.save(tmp_path / "zero.onnx", nodes, inputs, outputs, constants)
    for step in (lambda: convert(path, opset=20), lambda: quantize(path)):
        with pytest.raises(GraphError, match="'x' has the fixed size 0 on an axis"):
            step()
