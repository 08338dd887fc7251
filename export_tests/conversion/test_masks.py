"""Masks of float32's lowest number in half precision: within the range where nothing changes by it, else in fp32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from attn_deploy import convert
from attn_deploy.conversion import half
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.precision import clip_masks, half_type, prepared_graph
from export_tests.conversion.graphs_from_elsewhere import FLOAT, constant, node, save, value, weights

LOWEST = float(np.finfo(np.float32).min)
TOKENS = value("x", FLOAT, ["N", 6, 16])
KEEP = value("keep", FLOAT, ["N", 1, 6])


def attention(path: Path, how: str, lowest: float = LOWEST, ending: str = "Softmax") -> Path:
    """Scores of tokens, of which those with ``keep`` 0 must not be seen."""
    masks = {
        "where": [node("Less", ["keep", "half"], ["no"]), node("Where", ["no", "low", "scores"], ["masked"])],
        "sum": [
            node("Sub", ["one", "keep"], ["away"]),
            node("Mul", ["away", "low"], ["bias"]),
            node("Add", ["scores", "bias"], ["masked"]),
        ],
        "filled": [
            node("Shape", ["scores"], ["extent"]),
            node("ConstantOfShape", ["extent"], ["lows"], value=constant("v", [lowest])),
            node("Less", ["keep", "half"], ["no"]),
            node("Where", ["no", "lows", "scores"], ["masked"]),
        ],
    }
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="q"),
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["q", "t"], ["scores"], name="qk"),
        *masks[how],
        node(ending, ["masked"], ["weight"], name="weight"),
        node("MatMul", ["weight", "x"], ["y"], name="av"),
    ]
    constants = [weights("w", 16, 16, scale=0.05), constant("one", 1.0), constant("half", 0.5), constant("low", lowest)]
    return save(path, nodes, [TOKENS, KEEP], [value("y", FLOAT, ["N", 6, 16])], constants)


def feeds(seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = (np.arange(6) < rng.integers(1, 6, (4, 1))).astype(np.float32)[:, None]
    return {"x": rng.standard_normal((4, 6, 16)).astype(np.float32), "keep": keep}


def given(path: Path) -> Path:
    np.savez(path, **feeds(11))
    return path


def outputs(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds())[0]


@pytest.mark.parametrize("how", ["where", "sum", "filled"])
@pytest.mark.parametrize("lowest", [LOWEST, -1e9])
def test_masks_come_into_the_range(tmp_path, how, lowest):
    source = attention(tmp_path / "a.onnx", how, lowest)
    artifact = convert(source, tmp_path / "h.onnx", precision="fp16", samples=[given(tmp_path / "g.npz")])
    typing = json.loads(artifact.metadata["typing"])
    [mask] = typing["masks"]
    assert mask["before"] == pytest.approx(lowest)
    assert mask["after"] == pytest.approx(-16376)
    assert typing["products"] == {"float16": 3}
    np.testing.assert_allclose(outputs(artifact.path), outputs(source), atol=2e-2)


def test_what_is_seen_behind_a_mask_stays(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["s"], name="s"),
        node("Less", ["s", "half"], ["no"]),
        node("Where", ["no", "low", "s"], ["y"], name="choose"),
    ]
    constants = [weights("w", 16, 4), constant("half", 0.0), constant("low", LOWEST)]
    source = save(tmp_path / "v.onnx", nodes, [TOKENS], [value("y", FLOAT, ["N", 6, 4])], constants)
    _, masks = clip_masks(prepared_graph(load_model(source)), half_type("fp16"))
    assert not masks


def test_a_temperature_is_no_mask(tmp_path):
    source = attention(tmp_path / "t.onnx", "sum", 20000.0)
    _, masks = clip_masks(prepared_graph(load_model(source)), half_type("fp16"))
    assert not masks


def test_values_as_low_as_a_mask_keep_it(tmp_path):
    source = attention(tmp_path / "w.onnx", "where", -1e9)
    model = onnx.load(source)
    scaled = next(i for i in model.graph.initializer if i.name == "w")
    scaled.CopyFrom(constant("w", onnx.numpy_helper.to_array(scaled) * 3e4))
    onnx.save(model, source)
    artifact = convert(source, tmp_path / "h.onnx", precision="fp16", samples=[given(tmp_path / "g.npz")])
    assert json.loads(artifact.metadata["typing"])["masks"] == []
    np.testing.assert_allclose(outputs(artifact.path), outputs(source), atol=2e-2)


def test_bounds_beyond_the_range_end_where_it_does(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["s"], name="s"), node("Clip", ["s", "low", "high"], ["y"], name="clip")]
    constants = [weights("w", 16, 4), constant("low", 0.0), constant("high", -LOWEST)]
    source = save(tmp_path / "c.onnx", nodes, [TOKENS], [value("y", FLOAT, ["N", 6, 4])], constants)
    typing = json.loads(convert(source, tmp_path / "h.onnx", precision="fp16").metadata["typing"])
    assert typing["masks"] == [{"node": "clip", "before": -LOWEST, "after": 65504.0}]
    assert typing["nodes_fp32"] == 0


def test_ranges_do_not_depend_on_how_many_are_measured_at_once(tmp_path, monkeypatch):
    prepared = prepared_graph(load_model(attention(tmp_path / "a.onnx", "where", -50.0)))
    whole = half.measured_ranges(prepared, [feeds()], "it")
    monkeypatch.setattr(half, "_AT_ONCE", 2)
    assert half.measured_ranges(prepared, [feeds()], "it") == whole
    assert whole["weight"].largest == pytest.approx(1.0, abs=0.5)
