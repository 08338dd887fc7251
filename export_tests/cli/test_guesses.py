"""What people type before they read: it works, or the answer names what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.cli.guesses import reworded
from attn_deploy.errors import InvalidRequestError, UnknownModelError
from attn_deploy.resolve.wanted import check_name, registry_parts

NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


def run(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-V",), "attn-deploy 0."),
        (("help",), "COMMAND"),
        (("help", "export"), "Export a model to ONNX"),
        (("help", "benchmark"), "Time a model in several runtimes"),
        (("list", "--family", "attention"), "attention ("),
        (("info", "resnet18+se"), "resnet18"),
        (("info", "resnet18+cbam@layer3"), "cbam"),
        (("info", "PSA"), "psa is also psa_yolo"),
        (("info", "scconv_recon"), "scconv is also sc_conv"),
        (("info", "AAttn"), "a2 is also a2_double_attention"),
    ],
)
def test_guesses_that_work(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("help", "exprot"), "Did you mean 'export'"),
        (("export", "yolo"), "did you mean 'yolo11n', 'yolov8n'"),
        (("export", "best.pt"), "there is no file best.pt here"),
        (("export", "best.pt"), "--weights best.pt"),
        (("profile", "eca", "--device", "cuda:0"), "`profile --on cuda`"),
        (("export", "DSConv"), "several models: 'depthwise_separable_conv' and 'snake_conv'"),
        (("lint", "x.onnx"), "`inspect` and `diagnose` examine it"),
        (("train", "model.engine"), "`profile` and `evaluate` take engines"),
        (("export", "eca", "--precision", "int8"), "attn-deploy quantize MODEL --precision int8"),
        (("export", "eca", "--int8"), "attn-deploy quantize MODEL --precision int8"),
        (("benchmark", "nosuch"), "benchmark is called profile here"),
        (("info", "net.py:Net"), "attn-deploy inspect"),
        (("expor", "eca"), "export"),
        (("evaluate", "resnet8", "--dataset", "digits"), "--weights"),
    ],
)
def test_guesses_that_are_answered(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr


@pytest.mark.parametrize("command", ["export", "build", "quantize", "lint", "diagnose", "profile", "train"])
def test_a_typo_costs_no_import_of_torch(command):
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom attn_deploy.cli import app\n"
        f"done = CliRunner().invoke(app, [{command!r}, 'ghostmodul'])\n"
        "assert done.exit_code == 2 and 'ghostmodule' in done.stderr, done.output\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


VALUES = [
    ("export eca --opset 99", "opset 99 is not supported"),
    ("export eca --precision fp61", "'fp61' is unknown"),
    ("export eca --exporter dynamoo", "'dynamoo' is unknown"),
    ("export eca --io fp16", "belongs to --precision"),
    ("export eca --preprocess imagnet", "imagnet"),
    ("quantize eca --precision int7", "int7"),
    ("build eca --precision fp61", "fp61"),
    ("build eca --device rtx4091", "did you mean 'rtx4090'"),
    ("diagnose eca --precision fp61", "fp61"),
    ("lint eca --target tensort", "tensort"),
    ("package eca --for tritn -o pkg", "tritn"),
    ("package eca --opset 99 -o pkg", "opset 99"),
    ("profile eca --runtime ort-cp", "did you mean 'ort-cpu'"),
    ("profile eca --precision fp61", "fp61"),
    ("matrix eca --opsets 99", "99"),
    ("train resnet8 --dataset digit", "did you mean 'digits'"),
]


def test_a_wrong_value_costs_no_import_of_torch():
    code = (
        "import sys, shlex, json\nfrom typer.testing import CliRunner\nfrom attn_deploy.cli import app\nsaid = []\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(app, shlex.split(line))\n"
        "    said.append([line, done.exit_code, done.stderr, 'torch' in sys.modules])\n"
        "print(json.dumps(said))"
    )
    lines = json.dumps([line for line, _ in VALUES])
    done = subprocess.run([sys.executable, "-c", code, lines], check=True, capture_output=True, text=True)
    for (_, words), (line, exit_code, text, torch_there) in zip(VALUES, json.loads(done.stdout), strict=True):
        assert exit_code == 2, (line, text)
        assert words in text, (line, text)
        assert not torch_there, line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "channel attention"), "search is called list here"),
        (("devices",), "rtx4090"),
        (("list", "--devices", "--json"), '"compute_capability"'),
        (("version",), "attn-deploy 0."),
        (("list", "--type", "x"), "No such option: --type"),
        (("export", "eca", "--dtype", "FP61"), "--dtype is called --precision here"),
        (("export", "eca", "--opset_version", "99"), "opset 99 is not supported"),
        (("export", "eca", "--batch", "4"), "the batch moves by itself"),
        (("export", "eca", "--imgsz=640"), "--input 1x3x640x640"),
        (("profile", "eca", "--runtime", "ort,trtt"), "as a runtime ort is ort-cpu"),
        (("quantize", "nosuch", "--calib", "x"), "--calib is called --calibration here"),
        (("trt", "nosuch"), "trt is called build here"),
    ],
)
def test_words_of_other_tools_for_commands_and_options(arguments, words):
    done = run(*arguments)
    assert words in done.output
    assert done.exit_code in (0, 2)


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("export", ["eca", "--fp16"], ["eca", "--precision", "fp16"]),
        ("build", ["eca", "--half"], ["eca", "--precision", "fp16"]),
        ("export", ["eca", "--precision", "FP16"], ["eca", "--precision", "fp16"]),
        ("profile", ["eca", "--precision=FP32,INT8"], ["eca", "--precision", "fp32,int8"]),
        ("profile", ["eca", "--runtimes", "eager", "--save=d"], ["eca", "--runtime", "eager", "--output=d"]),
        ("train", ["eca", "--device", "cpu"], ["eca", "--on", "cpu"]),
        ("build", ["eca", "--device", "rtx4090"], ["eca", "--device", "rtx4090"]),
        ("matrix", ["--resume", "folder", "--jobs", "2"], ["--output", "folder", "--resume", "--jobs", "2"]),
        ("matrix", ["-o", "folder", "--resume"], ["-o", "folder", "--resume"]),
        ("list", ["--", "--fp16"], ["--", "--fp16"]),
    ],
)
def test_words_of_other_tools_and_of_earlier_versions(command, given, expected):
    assert reworded(command, given) == expected


def test_old_spellings_say_the_new_one(capsys):
    reworded("profile", ["--precisions", "fp16"])
    assert "--precisions of profile is called --precision now" in capsys.readouterr().err


def test_models_of_a_matrix_may_stand_by_themselves(folder):
    done = run(
        *("matrix", "eca", "simam", "--opsets", "20", "--exporter", "dynamo", "--runtime", "ort", "--dynamic", "all"),
        *("--executor", "inline", "--jobs", "1", "-o", "small"),
    )
    assert done.exit_code == 0, done.output
    record = json.loads(Path("small/record.json").read_text())
    assert {c["model"] for c in record["cells"]} == {"eca", "simam"}
    done = run("matrix", "-o", "small", "--resume")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["ghostmodul", "resnet18+cbamm", "resnt18"])
def test_names_are_checked_with_their_parts(name):
    with pytest.raises(UnknownModelError):
        check_name(name)


def test_what_may_exist_is_not_refused():
    for name in ("net.py:Net", "timm:resnet50", "resnet18+se:reduction=8", "ghostmodule:ratio=3", "model.onnx"):
        check_name(name, files=(".onnx",))
    assert registry_parts("resnet18+se:reduction=8") == ("resnet18", "se")
    with pytest.raises(InvalidRequestError, match="about the zoo"):
        registry_parts("timm:resnet50")


def test_a_users_model_goes_all_the_way(folder):
    """With its weights, from one class to a quantized file and to an accuracy."""
    torch.manual_seed(5)
    scope: dict = {}
    exec(NET, scope)
    save_file(scope["Net"]().state_dict(), "net.safetensors")
    own = ("--input", "1x3x32x32", "--weights", "net.safetensors")
    done = run("quantize", "net.py:Net", *own, "--calibration", "digits", "--images", "32", "--method", "minmax")
    assert done.exit_code == 0, done.output
    assert onnx.load("net-int8.onnx").graph.node
    results = {}
    for runtime in ("eager", "ort-cpu"):
        done = run(
            *("evaluate", "net.py:Net", *own, "--dataset", "digits", "--images", "40", "--runtime", runtime, "--json")
        )
        assert done.exit_code == 0, done.output
        results[runtime] = json.loads(done.stdout)[0]
    assert np.array_equal(results["eager"]["predictions"], results["ort-cpu"]["predictions"])
    assert run("evaluate", "net-int8.onnx", "--weights", "net.safetensors", "--dataset", "digits").exit_code == 2
