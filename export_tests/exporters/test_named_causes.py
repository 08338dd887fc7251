"""What an exporter hides or cannot do is an error with the cause by name, and its remedy works."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import onnx
import pytest
from onnx import TensorProto, helper

from attn_deploy.errors import ExportError, OpsetError, ParityError
from attn_deploy.exporters.forms import refuse_later_forms
from attn_deploy.exporters.time_limit import OutOfTimeError, time_limit
from export_tests.exporters.proven_exports import assert_right, copies, images, made
from export_tests.exporters.test_user_models import FOLDER
from export_tests.exporters.user_models import values


@pytest.mark.parametrize(("kind", "gate"), [(values.BetaGate, "beta"), (values.OneMinusGate, "share")])
def test_a_gate_by_another_name_or_at_one_is_opened(kind, gate, tmp_path):
    artifact = made(kind(), tmp_path, exporter="torchscript")
    assert artifact.record["gates"] == [gate]
    assert artifact.dynamic_axes == ("N",), "what is behind the gate holds for one size"


def test_complex_weights_are_shaped_as_real_ones(tmp_path):
    with pytest.raises(ExportError, match=r"no aten.unsqueeze for complex numbers.*torch\.view_as_real") as caught:
        made(values.ComplexGate(), tmp_path, ("1x3x8x8",))
    assert "values.py, line" in str(caught.value)
    model = values.ComplexGate(shaped_as_real=True).eval()
    model.arguments = (True,)
    artifact = made(model, tmp_path, ("1x3x8x8",))
    assert_right(artifact.path, copies(model), *images((3, 3, 10, 8)))


def test_a_gate_at_zero_hides_nothing(tmp_path):
    with pytest.raises(ParityError, match=r"with values in gamma") as caught:
        made(values.ClosedGate(), tmp_path)
    assert caught.value.rule == "overlapping-write"
    artifact = made(values.ClosedGate(wrong=False), tmp_path)
    assert artifact.record["gates"] == ["gamma"]
    assert values.ClosedGate().gamma.item() == 0


def test_an_operator_in_a_form_that_a_later_opset_defines(tmp_path):
    with pytest.raises(OpsetError, match=r"GridSample of rank 5.* opset 17.*--opset 20"):
        made(values.Volume(), tmp_path, ("1x2x4x5x6",), opset=17)
    assert made(values.Volume(), tmp_path, ("1x2x4x5x6",), opset=20).opset == 20


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


@pytest.mark.slow
def test_a_scripted_part_is_named_and_its_remedy_works(tmp_path):
    with pytest.raises(ExportError, match=r"ScriptedPart\.body: .*PYTORCH_JIT=0"):
        made(values.ScriptedPart(), tmp_path)
    name = f"{FOLDER}/values.py:ScriptedPart"
    line = [sys.executable, "-m", "attn_deploy", "export", name, "--input", "1x3x8x8", "-o", str(tmp_path / "m.onnx")]
    done = subprocess.run(line, env={**os.environ, "PYTORCH_JIT": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
