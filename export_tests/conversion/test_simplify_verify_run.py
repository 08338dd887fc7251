"""The commands simplify, verify and run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from attn_deploy import export
from attn_deploy.cli import app
from attn_deploy.errors import GraphError, ParityError
from attn_deploy.graph.artifact import load_model, read_onnx
from export_tests.conversion import graphs_from_elsewhere as elsewhere
from export_tests.conversion.runs import images, run


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = lambda *words: CliRunner().invoke(app, list(words))  # noqa: E731
    elsewhere.detector(tmp_path / "d.onnx")
    simple = call("simplify", "d.onnx", "-o", "s.onnx")
    assert (simple.exit_code, read_onnx("s.onnx").evidence.history[-1]["step"]) == (0, "simplify")
    np.savez("x.npz", x=images(2))
    same = call("verify", "d.onnx", "s.onnx", "--data", "x.npz")
    assert (same.exit_code, "verdict" in same.stdout) == (0, True)
    ran = call("run", "s.onnx", "--data", "x.npz", "-o", "y.npz")
    assert ran.exit_code == 0, ran.stderr
    with np.load("y.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], run(tmp_path / "d.onnx", x=images(2))[0], rtol=1e-4, atol=1e-3)
    assert call("verify", "d.onnx", "none.onnx").exit_code == 2
    assert call("run", "d.onnx", "--data", "none.npz", "-o", "y.npz").exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.onnx", "b.onnx", "--engine", "c.engine"], "--engine is for the folder of a package"),
        ([".", "--precision", "fp16"], "--precision is for two files"),
        ([".", "--data", "x.npz"], "--data is for two files"),
    ],
)
def test_options_that_verify_would_ignore_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["verify", *words])
    assert result.exit_code == 2
    assert message in result.output


def test_images_are_run_in_the_order_of_their_names(tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    for name, array in zip(("b", "a", "c"), pixels, strict=True):
        image.fromarray(array).save(folder / f"{name}.png")
    source = elsewhere.camera(tmp_path / "c.onnx", transpose_first=True)
    result = CliRunner().invoke(
        app, ["run", str(source), "--data", str(folder), "--size", "32", "-o", str(tmp_path / "y.npz")]
    )
    assert result.exit_code == 0, result.stderr
    assert "bytes of 0 to 255" in result.stdout
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], run(source, image=pixels[[1, 0, 2]])[0], atol=1e-5)


def test_simplify_refuses_other_numbers(tmp_path, monkeypatch):
    from attn_deploy.conversion import convert as module
    from attn_deploy.graph.simplify import Simplified

    source = elsewhere.detector(tmp_path / "d.onnx")
    other = load_model(elsewhere.detector(tmp_path / "e.onnx", spread=3.0))
    monkeypatch.setattr(module, "simplify_model", lambda model: Simplified(other, "planted", 13, 12))
    with pytest.raises(ParityError, match="simplified by planted"):
        module.simplify(source, tmp_path / "s.onnx")  # in this process, where the plant is


@pytest.mark.parametrize("name", ["", "invented"])
def test_what_a_tool_learns_of_an_output_is_no_change(name):
    from attn_deploy.graph.simplify import _same_interface

    def graph(axis: str | int | None) -> onnx.ModelProto:
        nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
        inputs = [elsewhere.value("x", elsewhere.FLOAT, ["N", 4])]
        outputs = [elsewhere.value("y", elsewhere.FLOAT, [axis, 4])]
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs))

    before, after = graph(name or None), graph(1)
    _same_interface(before, after, "it")
    assert after.graph.output[0] == before.graph.output[0]
    with pytest.raises(GraphError, match="changed the inputs or outputs"):
        _same_interface(graph("N"), graph(1), "it")  # the batch of the input


@pytest.mark.parametrize("count", [0, 2])
def test_of_no_sample_there_is_no_answer(count, tmp_path):
    export("se", tmp_path / "se.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((count, 64, 4, 4), np.float32))
    words = ["run", str(tmp_path / "se.onnx"), "--data", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == (0 if count else 2)
    assert (tmp_path / "y.npz").exists() == bool(count)
    assert count or "is empty (0x64x4x4): there is nothing to run" in result.output + result.stderr
