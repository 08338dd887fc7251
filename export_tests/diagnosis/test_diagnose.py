"""`attn-deploy diagnose`: the module that breaks the build, and the one that first gives wrong numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.errors import EngineBuildError
from attn_deploy.graph.artifact import check_model, load_model
from attn_deploy.parity.graphs import graph_inputs
from export_tests.diagnosis.deep_graphs import DEEP, SHAPE, SIZE, chain, with_weight
from export_tests.diagnosis.deep_graphs import exported as exported
from export_tests.engine.engine_graphs import FLOAT, baked_batch, names_in, node, save


def test_an_unsupported_operator_deep_inside_a_model_is_named_by_its_module(tmp_path: Path) -> None:
    said: list[str] = []
    found = attn_deploy.diagnose(
        f"{DEEP}:mixer=fourier", inputs=SIZE, output=tmp_path / "failing.onnx", progress=said.append
    )
    fault = found.build
    assert fault is not None
    assert found.numbers is None
    assert not found.passed
    assert (fault.module, fault.class_name, fault.operator) == ("blocks.7.mixer", "FourierMixer", "DFT")
    assert fault.operators == {"DFT": 1}
    assert fault.alone
    assert "Plugin not found" in fault.what
    assert "matrix of the transform" in fault.remedy
    assert [t.refused for t in found.trials] == [True, True], "the whole graph, then the operator alone"
    assert any("trial 2: blocks.7.mixer (DFT) alone" in words for words in said)
    # Its numbers are right, at every module that both sides have.
    assert len(found.steps) > 20
    assert not any(s.exceeds for s in found.steps)
    assert names_in(tmp_path) == {"failing.onnx"}
    check_model(load_model(tmp_path / "failing.onnx"), "the part")
    with pytest.raises(EngineBuildError, match=r"DFT node .* in module 'blocks\.7\.mixer'"):
        attn_deploy.build(tmp_path / "failing.onnx")


def test_a_refusal_that_names_no_node_is_found_by_halves(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["a"], module="stem"),
        node("Sigmoid", ["s"], ["scores"], module="head.scores"),
        node("NonMaxSuppression", ["a", "scores", "most"], ["b"], module="head.suppress"),
        node("Cast", ["b"], ["y"], module="head", to=FLOAT),
    ]
    inputs = [("x", FLOAT, [1, 100, 4]), ("s", FLOAT, [1, 2, 100])]
    path = save(tmp_path / "boxes.onnx", nodes, inputs, [("y", FLOAT, ["K", 3])], {"most": np.array([10])})
    found = attn_deploy.diagnose(path, numbers=False)
    assert found.build is not None
    assert (found.build.module, found.build.operator) == ("head.suppress", "NonMaxSuppression")
    assert found.build.operators == {"NonMaxSuppression": 1}
    part = load_model(tmp_path / "boxes-failing.onnx")
    assert {i.name for i in part.graph.input} == {"a", "scores"}


def test_a_builder_that_crashes_is_survived_and_its_cause_is_found(tmp_path: Path) -> None:
    shape = ["N", 4, 64, 16]
    nodes = [
        node("Relu", ["x"], ["a"], module="stem"),
        node("Attention", ["a", "a", "a"], ["b"], module="encoder.0.attention"),
        node("Relu", ["b"], ["y"], module="encoder.0"),
    ]
    path = save(tmp_path / "native.onnx", nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], opset=23)
    found = attn_deploy.diagnose(path, numbers=False)
    assert found.build is not None
    assert (found.build.module, found.build.operators) == ("encoder.0.attention", {"Attention": 1})
    assert "opset 22 or lower" in found.build.remedy


def test_a_batch_that_is_fixed_inside_breaks_build_and_run_at_the_same_node(tmp_path: Path) -> None:
    path = baked_batch(tmp_path / "baked.onnx")
    found = attn_deploy.diagnose(path, against=path, target="onnxruntime", numbers=False)
    assert found.build is not None
    assert found.target == "ONNX Runtime"
    assert (found.build.module, found.build.operator) == ("head.flatten", "Reshape")
    assert attn_deploy.diagnose(path, numbers=False).build.module == "head.flatten"


# --- the numbers -------------------------------------------------------------------------------------------------------


def test_a_wrong_bias_is_named_and_so_is_the_first_of_two(exported: Path, tmp_path: Path) -> None:
    bad = with_weight(exported, tmp_path / "bad.onnx", blocks_2_conv_bias=1.0, blocks_3_mixer_bias=1.0)
    result = CliRunner().invoke(app, ["diagnose", str(bad), "--against", str(exported), "--no-build", "--json"])
    assert result.exit_code == 1, result.output
    record = json.loads(result.stdout)
    fault = record["numbers"]
    assert (fault["module"], fault["operator"], fault["operators"]) == ("blocks.2.conv", "Conv", {"Conv": 1})
    assert "'blocks.2.conv.bias' is up to 1 from the reference's" in fault["what"]
    by_place = {s["module"]: s for s in record["steps"]}
    assert by_place["blocks.1.conv"]["ratio"] < 1 < by_place["blocks.2.conv"]["ratio"]
    assert by_place["blocks.2.conv"]["alone"] > 1
    assert by_place["blocks.2.mixer"]["alone"] is None
    # The part with its inputs shows the fault again, without the rest.
    part = load_model(Path(fault["subgraph"]))
    with np.load(fault["data"]) as data:
        given = {i.name: data[i.name] for i in graph_inputs(part)}
        [expected] = [data[k] for k in data.files if k.startswith("expected:")]
    [got] = onnx.reference.ReferenceEvaluator(part).run(None, given)
    assert np.abs(got - expected)[:, 0].max() == pytest.approx(1.0, abs=1e-3)
    assert np.abs(got - expected)[:, 1:].max() < 1e-3


def test_a_module_that_only_hands_on_an_error_is_not_blamed(tmp_path: Path) -> None:
    right = chain(tmp_path / "right.onnx", scopes=True)
    wrong = chain(tmp_path / "wrong.onnx", scopes=True, bias={2: 0.5})
    found = attn_deploy.diagnose(wrong, against=right, build=False)
    assert found.numbers is not None
    assert found.numbers.module == "body.2.conv"
    assert sum(s.exceeds for s in found.steps) > 4, "all behind it exceed too"


def test_a_file_without_scopes_is_told_by_its_nodes(tmp_path: Path) -> None:
    right, wrong = chain(tmp_path / "right.onnx"), chain(tmp_path / "wrong.onnx", bias={3: 0.5})
    result = CliRunner().invoke(app, ["diagnose", str(wrong), "--against", str(right), "--no-build"])
    assert result.exit_code == 1
    assert "NUMBERS        node node_conv_c3" in result.stdout
    assert "smallest part  Conv 1 in" in result.stdout


def test_an_error_that_grows_without_a_culprit_is_told_as_such(tmp_path: Path) -> None:
    # Each factor is off by 0.9 of what is allowed for one tensor; three of them are not.
    def factors(path: Path, by: float) -> Path:
        nodes = [node("Mul", [last, "f"], [name]) for last, name in (("x", "a"), ("a", "b"), ("b", "y"))]
        return save(path, nodes, [("x", FLOAT, SHAPE)], [("y", FLOAT, SHAPE)], {"f": np.float32(by).reshape(1)})

    right, wrong = factors(tmp_path / "right.onnx", 1.0), factors(tmp_path / "wrong.onnx", 1 + 0.9e-4)
    found = attn_deploy.diagnose(wrong, against=right, build=False)
    assert found.numbers is not None
    assert not found.numbers.alone
    assert "no module is out of tolerance by itself" in found.numbers.what


def test_nothing_wrong_is_exit_code_0_and_no_file(exported: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy = Path("copy.onnx")
    copy.write_bytes(exported.read_bytes())
    result = CliRunner().invoke(app, ["diagnose", "copy.onnx", "--against", str(exported)])
    assert result.exit_code == 0, result.output
    assert "nothing found: TensorRT-RTX takes it and its numbers are right" in result.stdout
    assert names_in(tmp_path) == {"copy.onnx"}


def test_the_reference_of_a_registry_file_is_known(tmp_path: Path) -> None:
    attn_deploy.export("se", tmp_path / "se.onnx", exporter="torchscript")
    bad = with_weight(tmp_path / "se.onnx", tmp_path / "bad.onnx", expand_bias=2.0)
    found = attn_deploy.diagnose(bad, build=False)
    assert found.against == "PyTorch in eager mode"
    assert found.numbers is not None
    assert (found.numbers.module, found.numbers.class_name) == ("expand", "Conv2d")
    assert attn_deploy.diagnose(tmp_path / "se.onnx", build=False).passed


def test_a_size_that_is_fixed_inside_is_found_where_the_run_ends(tmp_path: Path) -> None:
    def flattened(path: Path, batch: int) -> Path:
        nodes = [
            node("Relu", ["x"], ["a"], module="stem"),
            node("Reshape", ["a", "shape"], ["b"], module="head.flatten"),
            node("Tanh", ["b"], ["y"], module="head"),
        ]
        shape = np.array([batch, 32])
        return save(path, nodes, [("x", FLOAT, ["N", 4, 8])], [("y", FLOAT, ["N", 32])], {"shape": shape})

    right, wrong = flattened(tmp_path / "right.onnx", -1), flattened(tmp_path / "wrong.onnx", 2)
    found = attn_deploy.diagnose(wrong, against=right, build=False)
    assert found.numbers is not None
    assert (found.numbers.question, found.numbers.module) == ("numbers", "head.flatten")
    assert found.numbers.operators == {"Reshape": 1}
    assert found.compared_at["x"][0] != 2


def test_a_model_can_be_named_as_the_reference_of_a_file(exported: Path, tmp_path: Path) -> None:
    bad = with_weight(exported, tmp_path / "bad.onnx", blocks_1_mixer_bias=1.0)
    found = attn_deploy.diagnose(bad, against=f"{DEEP}:depth=4", inputs=SIZE, build=False)
    assert found.against == "PyTorch in eager mode"
    assert found.numbers is not None
    assert found.numbers.place == "blocks.1.mixer (Conv2d)"


def test_a_quantization_is_examined_layer_by_layer(exported: Path, tmp_path: Path) -> None:
    output = tmp_path / "failing.onnx"
    found = attn_deploy.diagnose(exported, precision="int8", target="tensorrt-rtx:sm89", output=output)
    assert found.passed
    assert found.precision == "int8"
    assert found.tolerance == {"root_mean_square": 0.1}
    ratios = {s.module: s.ratio for s in found.steps}
    assert 0 < ratios["blocks.1.conv"] < 1
    assert 0 < ratios["head"] < 1
