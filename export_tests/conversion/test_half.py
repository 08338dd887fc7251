"""fp16 and bf16 typed graphs: what stays in fp32, what is found to overflow, and what the written file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from typer.testing import CliRunner

from attn_deploy import convert, export, unguarded
from attn_deploy.cli import app
from attn_deploy.conversion.half import measured_ranges, to_half
from attn_deploy.errors import GraphError, InvalidRequestError, OpsetError, ParityError, PrecisionError
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.graph.precision import apply_plan, half_type, plan_precision, prepared_graph, rounded
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.parity.graphs import graph_inputs
from attn_deploy.parity.verify import compare_on
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from export_tests.graph.opset.opset_helpers import parse

FLOAT, HALF, BFLOAT = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
ONES = np.ones((4, 4, 1, 1), np.float32)
X, Y = "float[N,4,H,W] x", "float[N,4,H,W] y"


class LargeLogits(nn.Module):
    """Attention whose logits are some 1e5, as unscaled products of large features are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 1)
        self.attention = LogitsBlock()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.stem(x))


class LogitsBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1, 1) * 700)

    def forward(self, x: Tensor) -> Tensor:
        # Each channel against a fixed direction: logits far apart, so that the winner is the same in every precision.
        score = (x.abs() + 0.5).mean((2, 3), keepdim=True).sign() * self.scale
        logits = torch.matmul(score.flatten(1).unsqueeze(2), score.flatten(1).unsqueeze(1))
        return torch.matmul(logits.softmax(-1), x.flatten(2)).view_as(x)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logits") / "logits.onnx"
    torch.manual_seed(0)
    export(LargeLogits(), path, inputs=parse_inputs(["2x4x9x12"]), exporter="dynamo")
    return path


def saved(tmp_path: Path, opset: int, body: str, inputs: str = X, outputs: str = Y, **weights: np.ndarray) -> Path:
    model = parse(opset, inputs, outputs, body)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def typing(artifact) -> dict:
    return json.loads(artifact.metadata["typing"])


def dtypes(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        i.name: i.data_type for i in inferred.graph.initializer
    }


def test_an_overflow_is_named_by_module_and_repaired_by_keeping_the_node_in_fp32(overflowing: Path) -> None:
    model = load_model(overflowing)
    inputs = graph_inputs(model)
    batches = [example_arrays(inputs)]
    reference = OnnxRuntimeRunner(model.SerializeToString(), optimize=False)
    given = {
        "io": "fp32",
        "batches": batches,
        "judge": lambda candidate, tolerance: compare_on(reference, candidate, batches, tolerance=tolerance),
        "owner": "logits",
    }
    with pytest.raises(PrecisionError, match=r"the result of MatMul in module 'attention' is NaN or infinite"):
        to_half(model, "fp16", by_range=False, **given)
    made = to_half(model, "fp16", **given)
    assert made.report.passed
    overflow = made.record["overflow"]
    assert (overflow["operator"], overflow["module"]) == ("MatMul", "attention")
    assert "reaches 4.9e+05" in overflow["reason"]
    assert {"attention"} == {k["module"] for k in made.record["kept_by_range"]}
    # The range is a matter of fp16 alone.
    assert to_half(load_model(convert(overflowing, opset=22).path), "bf16", **given).record["overflow"] is None


def test_the_command_tells_of_the_overflow(overflowing: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    result = CliRunner().invoke(app, ["convert", str(overflowing), "--precision", "fp16", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "MatMul in attention reaches 4.9e+05, fp16 ends at 65504; kept in fp32" in " ".join(result.stdout.split())
    assert read_onnx(out).metadata["precision"] == "fp16"


@pytest.mark.parametrize(
    ("body", "wide", "weights"),
    [
        ("y = Softmax <axis = 1> (x)", "Softmax", {}),
        ("y = LayerNormalization (x, w)", "LayerNormalization", {"w": np.ones(6, np.float32)}),
        ("m = ReduceMean <axes = [2, 3]> (x) y = Sub (x, m)", "ReduceMean", {}),
        ("c = Exp (x) y = Sigmoid (c)", "Exp", {}),
        ("f = Floor ( x) i = Cast <to = 7> (f) g = Cast <to = 1> (i) y = Sub (x, g)", "Floor", {}),
        ("f = Floor ( x) s = Sub ( x, f) y = Mul (s, x)", "Sub", {}),
        ("c = Constant <value_float = 1e-9> () a = Abs (x) y = Add (a, c)", "Add", {}),
        ("c = Constant <value_float = 1e5> () a = Min (x, c) y = Relu (a)", "Min", {}),
        ("s = Shape (x) f = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (f) y = Div (x, m)", "Div", {}),
    ],
    ids=lambda v: v if isinstance(v, str) and len(v) < 30 else "",
)
def test_a_row_of_the_table_keeps_its_operator_in_fp32(tmp_path: Path, body: str, wide: str, weights: dict) -> None:
    inputs = "float[N,4,5,6] x"
    body = f"p = Conv (x, k) {body.replace('(x', '(p')}"
    kernel = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    path = saved(tmp_path, 17, body, inputs, "float[N,4,5,6] y", k=kernel, **weights)
    artifact = convert(path, precision="fp16")
    model = load_model(artifact.path)
    types = dtypes(model)
    [node] = [n for n in model.graph.node if n.op_type == wide]
    assert types[node.input[0]] == FLOAT
    [conv] = [n for n in model.graph.node if n.op_type == "Conv"]
    assert {types[n] for n in conv.input} == {HALF}


def test_a_value_that_changes_sides_is_cast_once(tmp_path: Path) -> None:
    body = "c = Conv (x, k) a = Exp (c) b = Softmax (c) s = Mul (a, b) y = Mul (s, c)"
    path = saved(tmp_path, 17, body, k=np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1))
    artifact = convert(path, precision="fp16")
    model = load_model(artifact.path)
    sources = [n.input[0] for n in model.graph.node if n.op_type == "Cast"]
    assert len(sources) == len(set(sources))
    assert artifact.operators["Cast"] == typing(artifact)["casts"] <= 5


@pytest.mark.parametrize(("io", "kind"), [("fp32", FLOAT), ("same", HALF)])
def test_the_interface_is_kept_or_converted(tmp_path: Path, io: str, kind: int) -> None:
    path = saved(tmp_path, 17, "r = Relu (x) y = Conv (r, k)", k=ONES)
    artifact = convert(path, precision="fp16", io=io)
    graph = load_model(artifact.path).graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {kind}
    assert [v.name for v in (*graph.input, *graph.output)] == ["x", "y"]
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert typing(artifact)["onnxruntime"]["ran"]


def test_bf16_raises_the_opset_and_says_what_could_not_be_run(tmp_path: Path) -> None:
    path = saved(tmp_path, 17, "y = Conv (x, k)", k=ONES)
    artifact = convert(path, precision="bf16")
    assert artifact.opset == 22
    types = dtypes(load_model(artifact.path))
    assert BFLOAT in types.values()
    assert "lacks a kernel" in typing(artifact)["onnxruntime"]["reason"]
    with pytest.raises(OpsetError, match="at opset 17: convolutions have it from opset 22"):
        convert(path, precision="bf16", opset=17)


def test_an_operator_that_no_engine_has_in_bf16_stays_in_fp32(tmp_path: Path) -> None:
    path = saved(tmp_path, 17, "c = Conv (x, k) y = ConvTranspose (c, k)", k=ONES)
    for precision, products in (("bf16", {"bfloat16": 1, "float32": 1}), ("fp16", {"float16": 2})):
        assert typing(convert(path, precision=precision))["products"] == products


def test_rounding_after_every_operator_sees_what_onnx_runtime_hides() -> None:
    """1 + 2**-12 is 1 in fp16: the difference vanishes where each result is rounded."""
    model = parse(
        17, "float[4] x", "float[4] y", "h = Cast <to = 10> (x) s = Add (h, h) d = Sub (s, h) y = Cast <to = 1> (d)"
    )
    feeds = {"x": np.array([40000.0, 1.0, 2049.0, 3.0], np.float32)}
    got = run_once(OnnxRuntimeRunner(rounded(model).SerializeToString(), optimize=False), feeds)["y"]
    np.testing.assert_array_equal(got, [np.inf, 1.0, 2048.0, 3.0])


def test_wrong_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of the finished graph fails when its weights are not those of the source."""
    path = saved(tmp_path, 17, "y = Conv (x, k)", k=ONES)

    def off(array, half):
        return (array * 1.1).astype(half.dtype.numpy())

    monkeypatch.setattr("attn_deploy.graph.precision.rewrite.rounded_to_half", off)
    with pytest.raises(ParityError, match="in fp16"), unguarded():  # in this process, where the plant is
        convert(path, precision="fp16")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_nan_in_fp32_is_named_and_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 17, "a = Neg (x) b = Abs (a) c = Neg (b) l = Log (c) y = Relu (l)")
    with pytest.raises(PrecisionError, match=r"in fp32 already, the result of Log in node .* is NaN or infinite"):
        convert(path, precision="fp16")


def test_a_graph_without_anything_half_is_not_called_half(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        17,
        "a = Mul (x, c) y = Conv (a, k)",
        c=np.float32(1e6).reshape(1),
        k=ONES,
    )
    with pytest.raises(PrecisionError, match=r"no product of the graph can be fp16.*--precision bf16"):
        convert(path, precision="fp16")


def test_quantized_and_half_graphs_are_refused(tmp_path: Path) -> None:
    body = "q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) y = Relu (d)"
    with pytest.raises(PrecisionError, match="quantized already"):
        convert(saved(tmp_path, 17, body, s=np.float32(0.1)), precision="fp16")
    half = saved(tmp_path, 17, "y = Relu (x)", "float16[N] x", "float16[N] y")
    with pytest.raises(PrecisionError, match="'x' is fp16: the graph is in half precision already"):
        convert(half, precision="fp16")


def test_calibration_data_decide_the_range(tmp_path: Path) -> None:
    """Pixels of 0 to 255 squared pass the range that ramps of a few units do not."""
    path = saved(
        tmp_path,
        17,
        "s = Mul (x, x) a = Mul (s, c) y = Conv (a, k)",
        c=np.float32(1e-3).reshape(1),
        k=ONES,
    )
    assert typing(convert(path, precision="fp16"))["kept_by_range"] == []
    data = tmp_path / "pixels.npz"
    np.savez(data, x=np.random.default_rng(0).uniform(200, 255, (12, 4, 6, 5)).astype(np.float32))
    found = typing(convert(path, precision="fp16", calibration=data))
    assert [k["operator"] for k in found["kept_by_range"]] == ["Mul", "Mul"]
    assert found["calibration"]["samples"] == "12"
    assert len(found["calibration"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"z": np.zeros((2, 4, 5, 5))}, "'x' is not among them"), ({"x": np.zeros((2, 3, 5, 5))}, "has the shape")],
)
def test_calibration_data_that_do_not_fit(tmp_path: Path, arrays: dict, message: str) -> None:
    path = saved(tmp_path, 17, "y = Relu (x)")
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InvalidRequestError, match=message):
        convert(path, precision="fp16", calibration=tmp_path / "data.npz")


def test_weights_that_vanish_are_named(tmp_path: Path) -> None:
    kernel = np.full((4, 4, 1, 1), 1e-9, np.float32)
    kernel[:, 0] = 1
    path = saved(tmp_path, 17, "y = Conv (x, k)", k=kernel)
    [lost] = typing(convert(path, precision="fp16"))["weights_lost"]
    assert lost == {"name": "k", "share": 0.75}


def test_measured_ranges_are_those_of_numpy(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, 17, "a = Mul (x, x) y = Neg (a)"))
    x = example_arrays(graph_inputs(model))["x"]
    found = measured_ranges(prepared_graph(model), [{"x": x}, {"x": 3 * x}], "net")
    assert found["a"].largest == pytest.approx(float((9 * x * x).max()))
    assert all(r.finite for r in found.values())


def test_a_plan_leaves_the_margin(tmp_path: Path) -> None:
    prepared = prepared_graph(load_model(saved(tmp_path, 17, "a = Mul (x, x) y = Relu (a)")))
    ranges = measured_ranges(prepared, [{"x": np.full((1, 4, 2, 2), 150, np.float32)}], "net")  # 150**2 = 22500
    half = half_type("fp16")
    assert set(plan_precision(ir.from_proto(prepared), half, ranges).wide) == {n.name for n in prepared.graph.node}
    assert not plan_precision(ir.from_proto(prepared), half, ranges, margin=1.0).wide
    working = ir.from_proto(prepared)
    typed = apply_plan(working, plan_precision(working, half, None), same_io=True)
    assert set(dtypes(typed.model).values()) == {HALF}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--precision", "fp8"], 2),
        (["--precision", "fp16", "--io", "half"], 2),
        (["--io", "same"], 2),
        ([], 2),
    ],
)
def test_the_command_refuses_what_it_cannot_do(tmp_path: Path, arguments: list[str], code: int) -> None:
    path = saved(tmp_path, 17, "y = Relu (x)")
    assert CliRunner().invoke(app, ["convert", str(path), *arguments]).exit_code == code
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_export_refuses_half_precision_without_evidence(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="--no-verify"):
        export("se", tmp_path / "se.onnx", precision="fp16", verify=False)
    with pytest.raises(OpsetError, match="opset 22"):
        export("se", tmp_path / "se.onnx", precision="bf16", opset=20)


def test_an_invalid_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such ONNX file"):
        convert(tmp_path / "none.onnx", precision="fp16")
