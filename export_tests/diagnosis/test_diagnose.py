"""`attn-deploy diagnose`: the module that breaks the build, and the one that first gives wrong numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.engine.flavors import flavor_spec, is_installed
from attn_deploy.errors import EngineBuildError, InvalidRequestError, ParityError
from attn_deploy.graph.artifact import check_model, load_model
from attn_deploy.graph.evidence import read_evidence, write_evidence
from attn_deploy.graph.parts import Parts
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.graphs import graph_inputs
from export_tests.conftest import ROOT
from export_tests.engine.engine_graphs import FLOAT, HALF, baked_batch, fake_modules, names_in, node, quantized, save
from export_tests.helpers import EXEMPLARS

DEEP = str(Path(__file__).parents[1] / "exporters" / "user_models" / "deep_blocks.py") + ":DeepBlocks"
SIZE = parse_inputs(["2x3x12x12"])
SHAPE = ["N", 4, "H", "W"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    attn_deploy.export(f"{DEEP}:depth=4", path, inputs=SIZE, verify=False)
    return path


def chain(path: Path, *, bias: dict[int, float] | None = None, scopes: bool = False, length: int = 6) -> Path:
    """1x1 convolutions and Tanh in turn; ``bias`` adds to that of some convolutions."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "x"
    for k in range(length):
        constants[f"w{k}"] = (rng.standard_normal((4, 4, 1, 1)) * 0.5).astype(np.float32)
        constants[f"b{k}"] = np.full(4, (bias or {}).get(k, 0.0), np.float32)
        module = f"body.{k}" if scopes else ""
        nodes.append(node("Conv", [last, f"w{k}", f"b{k}"], [f"c{k}"], module=module and f"{module}.conv"))
        nodes.append(node("Tanh", [f"c{k}"], [f"t{k}"], module=module))
        last = f"t{k}"
    return save(path, nodes, [("x", FLOAT, SHAPE)], [(last, FLOAT, SHAPE)], constants)


def with_weight(source: Path, target: Path, **changes: float) -> Path:
    """A copy of a file with something added to the first element of some weights."""
    model = load_model(source)
    for tensor in model.graph.initializer:
        if tensor.name.replace(".", "_") in changes:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] += changes.pop(tensor.name.replace(".", "_"))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert not changes, "no weight of that name"
    evidence = read_evidence(model)
    if evidence is not None:
        write_evidence(model, evidence)  # as if the wrong weights had been there from the start: the seal is whole
    onnx.save(model, target)
    return target


# --- the build ---------------------------------------------------------------------------------------------------------


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


# --- precisions --------------------------------------------------------------------------------------------------------


def test_an_overflow_is_named_and_repaired_by_the_rule_of_the_range(tmp_path: Path) -> None:
    name, place = f"{DEEP}:mixer=attention,depth=5,at=3", "blocks.3.mixer"
    model = {"inputs": SIZE, "precision": "fp16", "exporter": "torchscript"}
    made = attn_deploy.export(name, tmp_path / "half.onnx", **model)
    overflow = made.record["typing"]["overflow"]
    assert (overflow["operator"], overflow["module"]) == ("MatMul", place)
    assert made.record["parity"]["max_abs_error"] < 1e-2

    output = tmp_path / "failing.onnx"
    found = attn_deploy.diagnose(name, **model, output=output)
    assert found.passed
    assert found.precision == "fp16"
    assert not output.exists()
    assert found.overflow.startswith(f"MatMul in module '{place}': reaches 2")
    assert "; kept in fp32" in found.overflow

    found = attn_deploy.diagnose(name, **model, by_range=False, output=output, build=False)
    fault = found.numbers
    assert fault is not None
    assert found.against == "PyTorch in eager mode"
    assert (fault.module, fault.class_name, fault.operator) == (place, "UnscaledAttention", "MatMul")
    assert fault.operators == {"MatMul": 1}
    assert "NaN or infinite in fp16" in fault.what
    assert "--no-by-range" in fault.remedy
    assert "not kept in fp32" in found.overflow
    part = load_model(output)
    assert {i.type.tensor_type.elem_type for i in part.graph.input} == {HALF}
    with np.load(output.with_suffix(".npz")) as data, np.errstate(over="ignore"):
        a, b = (data[i.name] for i in part.graph.input)
        assert a.dtype == np.float16
        assert np.isinf(np.matmul(a, b)).any()


def test_data_decide_what_overflows(tmp_path: Path) -> None:
    nodes = [
        node("Mul", ["x", "x"], ["s"], module="energy.square"),
        node("Mul", ["s", "c"], ["a"], module="energy"),
        node("Conv", ["a", "k"], ["y"], module="head"),
    ]
    constants = {"c": np.full(1, 1e-3, np.float32), "k": np.ones((4, 4, 1, 1), np.float32)}
    path = save(tmp_path / "net.onnx", nodes, [("x", FLOAT, SHAPE)], [("y", FLOAT, SHAPE)], constants)
    settings = {"precision": "fp16", "by_range": False, "build": False}
    assert attn_deploy.diagnose(path, **settings).passed, "ramps of a few units do not overflow"
    data = tmp_path / "pixels.npz"
    np.savez(data, x=np.random.default_rng(0).uniform(300, 400, (4, 4, 6, 5)).astype(np.float32))
    found = attn_deploy.diagnose(path, **settings, calibration=data)
    assert found.numbers is not None
    assert (found.numbers.module, found.numbers.operators) == ("energy.square", {"Cast": 1, "Mul": 1})
    assert attn_deploy.diagnose(path, precision="fp16", build=False, calibration=data).passed


def test_a_half_file_is_compared_with_its_fp32_source(tmp_path: Path) -> None:
    source = chain(tmp_path / "net.onnx", scopes=True)
    half = attn_deploy.convert(source, precision="fp16").path
    assert attn_deploy.diagnose(half, against=source, build=False).passed
    bad = with_weight(half, tmp_path / "bad.onnx", b4=np.float16(1.0))
    found = attn_deploy.diagnose(bad, against=source, build=False)
    assert found.numbers is not None
    assert found.numbers.module == "body.4.conv"
    brain = attn_deploy.diagnose(source, precision="bf16", target="tensorrt-rtx:sm86")
    assert brain.passed
    assert brain.precision == "bf16"
    assert brain.against == "the fp32 graph in ONNX Runtime"


def test_a_quantized_file_works_like_any_other(tmp_path: Path) -> None:
    path = quantized(tmp_path / "int8.onnx")
    assert attn_deploy.diagnose(path, against=path).passed
    found = attn_deploy.diagnose(with_weight(path, tmp_path / "bad.onnx", scales=0.1), against=path, build=False)
    assert found.numbers is not None
    assert found.precision == "int8"
    assert found.numbers.operators == {"Conv": 1, "DequantizeLinear": 2, "QuantizeLinear": 1}


def test_a_quantization_is_examined_layer_by_layer(exported: Path, tmp_path: Path) -> None:
    output = tmp_path / "failing.onnx"
    found = attn_deploy.diagnose(exported, precision="int8", target="tensorrt-rtx:sm89", output=output)
    assert found.passed
    assert found.precision == "int8"
    assert found.tolerance == {"root_mean_square": 0.1}
    ratios = {s.module: s.ratio for s in found.steps}
    assert 0 < ratios["blocks.1.conv"] < 1
    assert 0 < ratios["head"] < 1


# --- parts -------------------------------------------------------------------------------------------------------------


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
