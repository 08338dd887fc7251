"""Where a command writes, and what it may overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import output_file
from attn_deploy.graph.artifact import read_onnx


def run(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_carry_the_precision_so_that_fp16_leaves_fp32_alone(folder):
    assert run("export", "eca").exit_code == 0
    before = Path("eca.onnx").read_bytes()
    done = run("export", "eca", "--precision", "fp16")
    assert done.exit_code == 0, done.output
    assert Path("eca.onnx").read_bytes() == before
    assert read_onnx("eca-fp16.onnx").metadata["precision"] == "fp16"


def test_a_file_of_another_kind_stays_unless_forced(folder):
    Path("eca.onnx").write_bytes(b"my notes")
    done = run("export", "eca")
    assert done.exit_code == 2
    assert "eca.onnx exists and is no ONNX file" in done.stderr
    assert "--force" in done.stderr
    assert Path("eca.onnx").read_bytes() == b"my notes"
    assert run("export", "eca", "--force").exit_code == 0
    assert run("export", "eca", "--opset", "17").exit_code == 0, "the same model's may be made again"
    done = run("export", "simam", "-o", "eca.onnx")
    assert done.exit_code == 2
    assert "eca.onnx exists and holds eca in fp32" in done.stderr
    assert run("export", "eca", "--precision", "fp16", "-o", "eca.onnx").exit_code == 2


@pytest.mark.parametrize("ready", [True, False], ids=["there", "to be made"])
def test_a_folder_gets_the_usual_name_inside(folder, ready):
    if ready:
        Path("out").mkdir()
    for command in (
        ("export", "eca", "-o", "out/"),
        ("convert", "out/eca.onnx", "--opset", "17", "-o", "out/"),
        ("simplify", "out/eca.onnx", "-o", "out"),
    ):
        done = run(*command)
        assert done.exit_code == 0, done.output
    assert {p.name for p in Path("out").iterdir()} == {"eca.onnx", "eca-opset17.onnx", "eca-simple.onnx"}


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        (("export", "eca"), ".onnx"),
        (("quantize", "resnet8"), ".onnx"),
        (("build", "eca"), ".engine"),
        (("diagnose", "eca", "--no-build"), ".onnx"),
    ],
)
@pytest.mark.parametrize("name", ["out.txt", "weights.pt", "out"])
def test_a_name_of_another_kind_is_refused(folder, command, ending, name):
    done = run(*command, "-o", name)
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert ending in done.stderr
    assert not Path(name).exists()


def test_the_name_that_the_message_offers_is_accepted(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"name out\.onnx, or a folder as out/") as refusal:
        output_file("out.txt", Path("eca.onnx"), (".onnx",))
    assert "ends in '.txt'" in str(refusal.value)
    assert output_file(tmp_path / "out.onnx", Path("eca.onnx"), (".onnx",)) == tmp_path / "out.onnx"
    assert output_file(f"{tmp_path}/out/", Path("eca.onnx"), (".onnx",)) == tmp_path / "out" / "eca.onnx"


def test_the_weights_of_a_zoo_model_are_called_random(folder):
    text = run("export", "resnet18", "--exporter", "torchscript").stdout
    assert "random (seed 0): for timing and tests" in text
    assert "10 classes" in text
    assert "resnet18:stem=imagenet,num_classes=1000" in text


def test_the_weights_of_a_users_own_model_are_not(folder):
    Path("net.py").write_text(
        "from torch import nn\nclass Net(nn.Conv2d):\n    def __init__(self):\n        super().__init__(3, 4, 1)\n"
    )
    done = run("export", "net.py:Net", "--input", "1x3x8x8")
    assert done.exit_code == 0, done.output
    assert "random" not in done.stdout


def test_a_result_is_wrapped_at_the_width_of_the_terminal(tmp_path):
    arguments = ["export", "se", "-o", str(tmp_path / "se.onnx"), "--exporter", "torchscript"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if len(line) > 80 and " " in line[14:]] == []
    assert "sha256" in result.stdout


def test_a_missing_file_that_may_be_a_model_says_how_its_file_is_written(folder):
    for words in (("convert", "se", "--opset", "17"), ("simplify", "se"), ("inspect", "se")):
        result = run(*words)
        assert result.exit_code == 2
        assert "attn-deploy export se" in result.output
    assert "attn-deploy export" not in run("inspect", "se.onnx").output
