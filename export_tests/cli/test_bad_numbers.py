"""Numbers that no command can mean: each is an error in one line that names it, and nothing is written."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from export_tests.bench.profile_records import record, row
from export_tests.engine.engine_graphs import convolution

PROFILE = "profile m.onnx --runtime ort-cpu --size 16x16"
LINES = {
    f"{PROFILE} --seed -1": "seed",
    f"{PROFILE} --seed 99999999999999999999": "seed",
    f"{PROFILE} --seconds nan": "seconds",
    f"{PROFILE} --seconds inf": "seconds",
    f"{PROFILE} --timeout nan -o out": "timeout",
    f"{PROFILE} --confidence nan": "confidence",
    f"{PROFILE} --threads 0": "threads",
    f"{PROFILE} --images -1 --dataset digits": "images",
    "train resnet8 --dataset digits --seed -1 -o out": "seed",
    "train resnet8 --dataset digits --seed 99999999999999999999 -o out": "seed",
    "train resnet8 --dataset digits --rate inf -o out": "rate",
    "train resnet8 --dataset digits --threads -1 -o out": "threads",
    "evaluate m.onnx --dataset digits --batch -1": "--batch",
    "evaluate m.onnx --dataset digits --batch 0": "--batch",
    "evaluate m.onnx --dataset digits --threads -2": "--threads",
    "evaluate m.onnx --dataset digits --images 0": "images",
    "quantize m.onnx --images -1 -o out.onnx": "--images",
    "quantize m.onnx --keep-accuracy nan -o out.onnx": "--keep-accuracy",
    "quantize m.onnx --calibration digits --seed -1 -o out.onnx": "seed",
    "quantize m.onnx --calibration digits --scale inf -o out.onnx": "--scale",
    "quantize m.onnx --calibration digits --mean nan,0,0 -o out.onnx": "--mean",
    "compare profile profile --alpha nan": "alpha",
    "compare profile profile --alpha 7": "alpha",
    "compare profile profile --threshold nan": "threshold",
    "matrix --models se --timeout nan -o out": "--timeout",
    "matrix --models se --jobs 0 -o out": "--jobs",
    "build m.onnx --target sm86 --timeout nan -o out.engine": "time limit",
    "package m.onnx --max-batch 99999999999999 -o out": "--max-batch",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    place = tmp_path_factory.mktemp("numbers")
    convolution(place / "m.onnx")
    (place / "profile").mkdir()
    record(row("eager", 2.0), row("ort-cpu", 1.0)).write(place / "profile" / "record.json")
    return place


@pytest.mark.parametrize("line", LINES)
def test_a_number_that_cannot_be_meant_is_named(line, sound, monkeypatch):
    monkeypatch.chdir(sound)
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code in (1, 2), done.output
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert LINES[line] in errors[0]
    assert {p.name for p in sound.iterdir()} == {"m.onnx", "profile"}
