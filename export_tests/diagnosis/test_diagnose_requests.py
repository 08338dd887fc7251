"""What can be diagnosed: parts, files without torch, and the requests that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.engine.flavors import flavor_spec, is_installed
from attn_deploy.errors import InvalidRequestError, ParityError
from attn_deploy.graph.artifact import check_model, load_model
from attn_deploy.graph.parts import Parts
from export_tests.conftest import ROOT
from export_tests.diagnosis.deep_graphs import SHAPE, chain
from export_tests.engine.engine_graphs import FLOAT, fake_modules, names_in, node, quantized, save
from export_tests.helpers import EXEMPLARS


def test_a_part_takes_along_what_cannot_enter_it(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Shape", ["a"], ["s"]),
        node("Slice", ["s", "zero", "two"], ["t"]),
        node("Concat", ["t", "rest"], ["u"], axis=0),
        node("Tanh", ["a"], ["b"]),
        node("Reshape", ["b", "u"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}
    path = save(tmp_path / "sizes.onnx", nodes, [("x", FLOAT, SHAPE)], [("y", FLOAT, ["N", 4, None])], constants)
    parts = Parts(load_model(path))
    part = parts.part([5])
    assert [parts.nodes[i].op_type for i in part.nodes] == ["Shape", "Slice", "Concat", "Reshape"]
    assert part.inputs == ("a", "b"), "floating-point tensors, not the sizes"
    check_model(part.model, "the part")
    entering = [d.dim_param or d.dim_value for d in part.model.graph.input[0].type.tensor_type.shape.dim]
    assert entering == SHAPE, "symbolic axes are kept"
    whole = Parts(load_model(quantized(tmp_path / "int8.onnx")))
    assert whole.part([3]).inputs == ("x",), "neither an int8 tensor nor a weight becomes an input"


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "fp16", "bf16"])
@pytest.mark.parametrize("name", [*EXEMPLARS, "resnet8+cbam"])
def test_nothing_is_found_in_what_exports_prove(name: str, precision: str | None, tmp_path: Path) -> None:
    found = attn_deploy.diagnose(name, precision=precision, output=tmp_path / "none.onnx")
    assert found.passed, found.faults
    assert found.steps
    assert names_in(tmp_path) == set()


def test_files_need_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = chain(tmp_path / "right.onnx", scopes=True, length=2)
    wrong = chain(tmp_path / "wrong.onnx", scopes=True, length=2, bias={1: 0.5})
    fake_modules(tmp_path / "fakes", monkeypatch, torch="raise ImportError('torch is blocked')")
    code = (
        f"import attn_deploy, sys; found = attn_deploy.diagnose({str(wrong)!r}, against={str(right)!r}); "
        "print(found.numbers.module); assert found.build is None; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "fakes"), str(ROOT)])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "body.1.conv"


# --- requests ----------------------------------------------------------------------------------------------------------


def test_a_foreign_file_that_builds_needs_no_reference(tmp_path: Path) -> None:
    path = chain(tmp_path / "foreign.onnx", length=1)
    result = CliRunner().invoke(app, ["diagnose", str(path)])
    assert result.exit_code == 0
    assert "numbers were not compared" in result.stdout
    result = CliRunner().invoke(app, ["diagnose", str(path), "--no-build"])
    assert result.exit_code == 2
    assert "--against SOURCE.onnx" in result.stderr
    assert "--precision fp16" in result.stderr
    nodes = [node("NonZero", ["x"], ["i"], module="head.pick"), node("Cast", ["i"], ["y"], to=FLOAT)]
    path = save(tmp_path / "broken.onnx", nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, None])])
    found = attn_deploy.diagnose(path)
    assert found.build is not None
    assert found.build.module == "head.pick"
    assert "torch.where" in found.build.remedy
    assert "numbers were not compared" in found.notes[0]


@pytest.mark.parametrize("option", [{"opset": 17}, {"dynamic": ("N",)}, {"exporter": "dynamo"}])
def test_what_says_how_a_model_is_exported_is_refused_for_a_file(option: dict, tmp_path: Path) -> None:
    path = chain(tmp_path / "net.onnx")
    with pytest.raises(
        InvalidRequestError, match=rf"--{next(iter(option))} .*is for models by name, and .* finished file"
    ):
        attn_deploy.diagnose(path, build=False, **option)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build": False, "numbers": False}, "nothing is left to ask"),
        ({"target": "coreml"}, "the target 'coreml' is unknown"),
        ({"precision": "fp64"}, "precision 'fp64' is unknown"),
        ({"against": "onnxruntime"}, "nothing is converted here"),
        ({"against": "eager"}, "does not say which model in PyTorch"),
        ({"timeout": 0.0}, "leaves no time"),
        ({"output": "no/such/folder.onnx"}, "does not exist"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_work(tmp_path: Path, arguments: dict, message: str) -> None:
    path = chain(tmp_path / "net.onnx", length=1)
    with pytest.raises(InvalidRequestError, match=message):
        attn_deploy.diagnose(path, **arguments)


def test_files_that_are_not_one_model_and_models_that_give_nan_are_told(tmp_path: Path) -> None:
    path = chain(tmp_path / "net.onnx", length=1)
    other = save(tmp_path / "other.onnx", [node("Relu", ["z"], ["y"])], [("z", FLOAT, SHAPE)], [("y", FLOAT, SHAPE)])
    with pytest.raises(InvalidRequestError, match="they are not one model"):
        attn_deploy.diagnose(path, against=other, build=False)
    nan = save(tmp_path / "nan.onnx", [node("Log", ["x"], ["t0"])], [("x", FLOAT, SHAPE)], [("t0", FLOAT, SHAPE)])
    with pytest.raises(ParityError, match="of the reference itself is NaN"):
        attn_deploy.diagnose(path, against=nan, build=False)


@pytest.mark.skipif(is_installed(flavor_spec("tensorrt")), reason="TensorRT is installed here")
def test_a_missing_target_is_exit_code_3(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["diagnose", str(chain(tmp_path / "net.onnx")), "--target", "tensorrt"])
    assert result.exit_code == 3
    assert "attn-deploy[tensorrt]" in result.stderr
