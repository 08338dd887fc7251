"""What a quantization is calibrated with: folders of images, arrays with labels, or noise that is called noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attn_deploy import export, quantize
from attn_deploy.cli import app
from attn_deploy.conversion.calibration import load_calibration
from attn_deploy.errors import DatasetError, InvalidRequestError
from attn_deploy.graph.artifact import load_model
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.conversion.classifiers import Classifier, evidence
from export_tests.conversion.classifiers import exported as exported


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_a_folder_of_images_calibrates(exported, tmp_path):
    folder = tmp_path / "images"
    for k in range(24):
        picture(folder / f"{k}.png", seed=k)
    with pytest.raises(
        InvalidRequestError, match=r"any size, so give the side to which the images of .* are resized: --size 224"
    ):
        quantize(exported, tmp_path / "q.onnx", calibration=folder)
    found = evidence(quantize(exported, tmp_path / "q.onnx", calibration=folder, size=24, images=16))
    assert found["calibration"]["source"] == "images of the folder images, brought to 24x24"
    assert (found["calibration"]["samples"], found["calibration"]["held_out"]) == ("16", "8")
    assert found["judged"]["correct"] is None, "nobody knows the right answers"
    assert found["judged"]["same"] is None, "nothing says that the output is scores for classes"
    named = evidence(quantize(exported, tmp_path / "q.onnx", calibration=folder, size=24, images=16, scores="y"))
    assert named["judged"]["same"] is not None
    assert "assumed" in found["calibration"]["prepared"]


def test_a_folder_that_cannot_be_used(exported, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="empty holds no image; files that count end in"):
        quantize(exported, tmp_path / "q.onnx", calibration=empty, size=32)
    broken = tmp_path / "broken"
    picture(broken / "a.png")
    (broken / "b.png").write_bytes((broken / "a.png").read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"b\.png cannot be read as an image"):
        quantize(exported, tmp_path / "q.onnx", calibration=broken, size=32)
    fixed = export(Classifier(), tmp_path / "fixed.onnx", inputs=parse_inputs(["2x3x32x32"]), dynamic=("N",))
    with pytest.raises(InvalidRequestError, match="--size is 64, and the graph takes images of 32x32"):
        quantize(fixed, tmp_path / "q.onnx", calibration=broken, size=64)
    assert not (tmp_path / "q.onnx").exists()


def test_arrays_of_a_file_with_labels(exported, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x, labels=rng.integers(0, 10, 64))
    found = evidence(quantize(exported, tmp_path / "q.onnx", calibration=tmp_path / "s.npz", method="minmax"))
    assert (found["calibration"]["samples"], found["calibration"]["held_out"]) == ("48", "16")
    assert found["judged"]["correct"] is not None
    x[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "n.npz", x=x)
    with pytest.raises(DatasetError, match="holds a NaN or an infinite value"):
        quantize(exported, calibration=tmp_path / "n.npz")
    np.savez(tmp_path / "w.npz", x=x[:, :2])
    with pytest.raises(
        InvalidRequestError, match=r"has the shape \(64, 2, 32, 32\), and the graph takes \(N, 3, H, W\)"
    ):
        quantize(exported, calibration=tmp_path / "w.npz")


def test_noise_is_said_to_be_noise(exported, tmp_path):
    result = CliRunner().invoke(app, ["quantize", str(exported), "-o", str(tmp_path / "q.onnx"), "--method", "minmax"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "ramped noise: ranges on real data differ; give --calibration, or --sample." in text
    assert "on real data this file may be wrong" in " ".join(text.split())
    assert "int8 in 4 of 5 products" in text
    again = CliRunner().invoke(app, ["quantize", str(exported), "-o", str(tmp_path / "q.onnx"), "--json"])
    assert json.loads(again.stdout)["metadata"]["precision"] == "int8"


def test_images_are_parted_without_overlap(exported):
    from attn_deploy.parity.graphs import graph_inputs

    data = load_calibration("digits", graph_inputs(load_model(exported)), ("N", "H", "W"), images=64)
    seen = {b[k].tobytes() for batch in data.batches for b in batch.values() for k in range(len(b))}
    held = {b[k].tobytes() for batch in data.held_out for b in batch.values() for k in range(len(b))}
    assert len(seen) == 64
    assert not seen & held
    assert sum(map(len, data.labels)) == 1000
