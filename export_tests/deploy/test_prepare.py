"""A file made ready for an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from attn_deploy import build, diagnose
from attn_deploy.cli import app
from attn_deploy.deploy.build import build_model
from attn_deploy.deploy.prepare import parse_fix, parse_rename, prepared_file
from attn_deploy.engine.profile import make_profiles
from attn_deploy.errors import EngineBuildError, InvalidRequestError
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.graph.interface import cast_bytes_first, free_axes
from export_tests.conversion import graphs_from_elsewhere as elsewhere
from export_tests.conversion.runs import run


def test_a_file_that_is_ready_is_left_alone(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    assert prepared_file(source) == source


def test_axes_are_fixed_and_outputs_renamed(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    made = prepared_file(source, fix={"N": 2}, rename={"y": "detections", "x": "images"})
    artifact = read_onnx(made)
    assert made.name == "d-prepared.onnx"
    assert [str(t) for t in (*artifact.inputs, *artifact.outputs)] == [
        "images float[2, 3, 32, 32]",
        "detections float[2, 12, 64]",
    ]
    assert artifact.evidence.history[-1]["changes"] == ["fixed N=2", "renamed y to detections, x to images"]
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(run(made, images=x)[0], run(source, x=x)[0])
    assert read_onnx(prepared_file(source, tmp_path / "o.onnx", fix={"x[0]": 3})).inputs[0].shape[0] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fix": {"H": 64}}, "--fix H names no axis that moves; those are N"),
        ({"fix": {"N": 0}}, "an axis has at least the length 1"),
        ({"rename": {"boxes": "b"}}, "the inputs and outputs are x, y"),
        ({"rename": {"y": "boxes"}}, "the graph has a tensor 'boxes' already"),
    ],
)
def test_what_cannot_be_prepared(tmp_path, options, words):
    with pytest.raises(InvalidRequestError, match=words):
        prepared_file(elsewhere.detector(tmp_path / "d.onnx"), **options)


def test_texts_are_read():
    assert parse_fix(["N=1,H=640", "images[3]=32"]) == {"N": 1, "H": 640, "images[3]": 32}
    assert parse_rename(["a=b:0=c"]) == {"a=b:0": "c"}
    for text in ("N", "N=x", "=4"):
        with pytest.raises(InvalidRequestError, match="cannot be read"):
            parse_fix([text])
    with pytest.raises(InvalidRequestError, match="'c' twice"):
        parse_rename(["a=c", "b=c"])


def test_bytes_are_cast_before_they_are_moved(tmp_path):
    source = elsewhere.camera(tmp_path / "c.onnx", transpose_first=True)
    model, moved = cast_bytes_first(load_model(source))
    assert (moved, [n.op_type for n in model.graph.node][:2]) == (1, ["Cast", "Transpose"])
    same, none = cast_bytes_first(load_model(elsewhere.camera(tmp_path / "d.onnx", transpose_first=False)))
    assert none == 0
    assert same.graph.node[0].op_type == "Cast"
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(run(prepared_file(source), image=image)[0], run(source, image=image)[0])


def test_a_camera_builds(tmp_path):
    source = elsewhere.camera(tmp_path / "c.onnx", transpose_first=True)
    with pytest.raises(EngineBuildError, match="UInt8"):
        build(source, targets="sm86")
    engine = build_model(source, targets="sm86")
    assert (engine.path, engine.onnx.name) == (tmp_path / "c.engine", "c-prepared.onnx")
    result = CliRunner().invoke(
        app, ["build", str(source), "--target", "sm86", "--fix", "N=1", "-o", str(tmp_path / "one.engine"), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert "one-prepared.onnx" in result.stdout


def sound(path: Path, extent: object = "samples") -> Path:
    """Three convolutions over a sound of at least some hundred samples."""
    nodes, constants, last = [], [], "x"
    for k in range(3):
        nodes.append(
            elsewhere.node("Conv", [last, f"w{k}"], [f"c{k}"], name=f"conv{k}", strides=[4], kernel_shape=[16])
        )
        constants.append(elsewhere.weights(f"w{k}", 4, 1 if k == 0 else 4, 16))
        last = f"c{k}"
    nodes[-1].output[0] = "y"
    inputs, outputs = [elsewhere.value("x", 1, ["N", 1, extent])], [elsewhere.value("y", 1, ["N", 4, "frames"])]
    return elsewhere.save(path, nodes, inputs, outputs, constants)


def test_derived_profiles_fit_the_graph(tmp_path):
    [profile] = make_profiles(read_onnx(sound(tmp_path / "s.onnx")))
    assert str(profile) == "x:1x1x400,8x1x4000,32x1x32000"
    assert build(tmp_path / "s.onnx", targets="sm86").profiles == (profile,)


def test_an_axis_of_which_nothing_usual_fits_is_named(tmp_path):
    nodes, constants = elsewhere.trunk(end="f")
    constants.append(elsewhere.weights("places", 1, 16, 7, 2))
    nodes.append(elsewhere.node("Add", ["f", "places"], ["y"]))
    inputs, outputs = [elsewhere.value("x", 1, ["N", 3, "rows", 8])], [elsewhere.value("y", 1, ["N", 16, 7, 2])]
    path = elsewhere.save(tmp_path / "r.onnx", nodes, inputs, outputs, constants)
    with pytest.raises(
        InvalidRequestError, match=r"no usual range fits the axes rows .*--profile x:MIN,OPT,MAX.*--fix rows="
    ):
        make_profiles(read_onnx(path))
    with pytest.raises(InvalidRequestError, match="no usual range fits"):
        diagnose(path, numbers=False)  # no node is to blame for it


def test_diagnose_takes_a_profile_and_needs_no_reference_for_what_builds(tmp_path):
    report = diagnose(sound(tmp_path / "s.onnx"), profile=["x:1x1x800,2x1x1600,4x1x3200"])
    assert report.passed
    assert "numbers were not compared" in report.notes[0]


def test_names_that_say_nothing_tie_no_axes(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    inputs, outputs = [elsewhere.value("x", 1, ["?", 3, "any", "any"])], [elsewhere.value("y", 1, ["?", 16, "h", "w"])]
    path = elsewhere.save(tmp_path / "q.onnx", nodes, inputs, outputs, constants)
    model, gone = free_axes(load_model(path))
    assert gone == ("?", "any")
    onnx.checker.check_model(model, full_check=True)
    assert str(make_profiles(read_onnx(prepared_file(path)))[0]) == "x:1x3x32x32,8x3x224x224,32x3x448x448"
    ours = elsewhere.save(
        tmp_path / "o.onnx",
        nodes,
        [elsewhere.value("x", 1, ["N", 3, "H", "H"])],
        [elsewhere.value("y", 1, ["N", 16, "h", "w"])],
        constants,
    )
    assert free_axes(load_model(ours))[1] == (), "a symbol of ours that stands twice means a square"
