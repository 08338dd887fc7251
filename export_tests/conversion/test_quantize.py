"""Eight bits for GPUs: symmetric pairs, the method that is best, and sensitive layers in float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from attn_deploy import build, export, quantize
from attn_deploy.diagnosis.contents import inspect
from attn_deploy.errors import GraphError, InvalidRequestError, NothingToConvertError, PrecisionError
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.quantize import METHODS
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.conversion.classifiers import Classifier, Uneven, evidence, saved
from export_tests.conversion.classifiers import exported as exported
from export_tests.conversion.classifiers import uneven as uneven

INT8, FP8 = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN


def test_a_file_holds_symmetric_pairs_and_weights_by_channel(exported, tmp_path):
    artifact = quantize(exported, tmp_path / "q.onnx", calibration="digits", images=64, target="gpu")
    model = load_model(artifact.path)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    quantizing = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    dequantizing = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    # stem's input, the shared input of left and right, the head's input; the product of two activations is left
    assert len(quantizing) == 3
    assert len(dequantizing) == 3 + 4
    for node in (*quantizing, *dequantizing):
        assert kinds[node.input[2]] == INT8
        assert not constants[node.input[2]].any(), "TensorRT takes no zero point"
        assert (constants[node.input[1]] > 0).all()
    stored = {n.input[0]: n for n in dequantizing if n.input[0] in constants}
    assert {constants[w].dtype for w in stored} == {np.dtype(np.int8)}
    assert all(np.abs(constants[w].astype(int)).max() == 127 for w in stored), "the largest weight of a channel is 127"
    axes = {constants[w].shape: next(a.i for a in n.attribute if a.name == "axis") for w, n in stored.items()}
    assert axes[8, 3, 3, 3] == axes[8, 8, 1, 1] == axes[8, 1, 3, 3] == 0
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert [y["operator"] for y in evidence(artifact)["left"]] == ["MatMul"]
    made_by = {o: n.op_type for n in model.graph.node for o in n.output}
    assert all(made_by[name] == "DequantizeLinear" for n in products for name in n.input[:2])
    assert all(constants[n.input[2]].dtype == np.float32 for n in products if len(n.input) > 2), "biases stay in float"
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert artifact.metadata["precision"] == "int8"
    report = inspect(artifact.path)
    assert (report.pairs, report.dequantized_weights) == (3, 4)


def test_methods_are_compared_and_the_best_is_taken(exported, tmp_path):
    found = evidence(quantize(exported, tmp_path / "q.onnx", calibration="digits", images=64))
    assert set(found["methods"]) == set(METHODS)
    best = min(found["methods"], key=lambda m: (-found["methods"][m]["same"], found["methods"][m]["error"]))
    assert found["method"] == best
    assert found["judged"]["error"] == found["methods"][best]["error"] < 0.05
    assert found["calibration"]["data"] == "digits"
    assert len(found["calibration"]["sha256"]) == 64
    assert (found["calibration"]["samples"], found["calibration"]["held_out"]) == ("64", "1000")
    assert found["judged"]["samples"] == 1000
    assert found["onnxruntime"]["ran"]
    for method in METHODS:
        asked = evidence(quantize(exported, tmp_path / "m.onnx", calibration="digits", images=64, method=method))
        assert asked["method"] == method
        assert asked["judged"]["error"] == pytest.approx(found["methods"][method]["error"], rel=1e-6)


def test_the_same_seed_gives_the_same_file(exported, tmp_path):
    first, second, other = (
        quantize(exported, tmp_path / f"{k}.onnx", calibration="digits", images=64, seed=seed, method="minmax")
        for k, seed in enumerate((0, 0, 1))
    )
    assert first.sha256 == second.sha256
    assert first.sha256 != other.sha256


def test_a_sensitive_layer_is_found_and_left_in_float(uneven, tmp_path):
    artifact = quantize(uneven, tmp_path / "q.onnx", target="gpu")
    found = evidence(artifact)
    assert all(judged["error"] > 0.1 for judged in found["methods"].values())
    assert [s["module"] for s in found["sensitive"]] == ["uneven"]
    assert found["sensitive"][0]["error_alone"] > 0.1
    assert found["judged"]["error"] < 0.1
    assert (found["layers"], found["products"]) == (1, 2)
    assert inspect(artifact.path).pairs == 1
    # Answers that change are counted too, where a bound on them is asked for.
    options = {"calibration": "digits", "images": 64, "target": "gpu"}
    kept = evidence(quantize(uneven, tmp_path / "k.onnx", keep_accuracy=1.0, **options))
    assert kept["judged"]["points_lost"] <= 1.0 < 100 * (1 - kept["methods"][kept["method"]]["same"] / 1000)


def test_a_bound_that_no_choice_of_layers_meets_is_an_error(tmp_path):
    torch.manual_seed(0)
    net = Uneven()
    path = export(
        nn.Sequential(nn.Identity(), OnlyUneven(net)), tmp_path / "n.onnx", inputs=parse_inputs(["2x3x32x32"])
    )
    with pytest.raises(PrecisionError, match=r"int8 cannot keep to .* Most sensitive: Conv in module '1\.uneven'"):
        quantize(path, tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


class OnlyUneven(nn.Module):
    def __init__(self, net: Uneven) -> None:
        super().__init__()
        self.uneven = net.uneven

    def forward(self, x: Tensor) -> Tensor:
        return self.uneven(torch.cat([x, x.mean(1, keepdim=True) * 3000.0], 1))


def test_an_int8_engine_multiplies_in_int8(exported, tmp_path):
    artifact = quantize(exported, tmp_path / "q.onnx", calibration="digits", images=32, method="minmax", target="gpu")
    engine = build(artifact, targets="sm86,sm89,sm120")
    assert engine.precision == "int8+fp32"
    assert engine.network.compute_dtypes == {"int8": 4, "float32": 1}


def test_an_fp8_file_is_for_the_gpus_that_have_it(exported, tmp_path):
    artifact = quantize(exported, tmp_path / "q.onnx", precision="fp8", calibration="digits", images=32)
    model = load_model(artifact.path)
    assert {i.data_type for i in model.graph.initializer if i.name.endswith("_fp8")} == {FP8}
    found = evidence(artifact)
    assert found["judged"]["error"] < 0.1
    assert not found["onnxruntime"]["ran"] or "usable" in found["onnxruntime"]
    engine = build(artifact)
    assert (engine.precision, engine.targets) == ("fp8+fp32", ("sm89", "sm120"))
    with pytest.raises(PrecisionError, match=r"in fp8, which GPUs have from sm89 on, .* include sm86"):
        build(artifact, targets="sm86,sm89")


def test_a_file_in_fp16_keeps_it_around_the_pairs(tmp_path):
    torch.manual_seed(0)
    half = export(Classifier(), tmp_path / "half.onnx", inputs=parse_inputs(["2x3x32x32"]), precision="fp16", opset=17)
    artifact = quantize(half, tmp_path / "q.onnx", calibration="digits", images=32, method="minmax")
    assert artifact.opset == 19, "scales in fp16 need it"
    scales = {i.data_type for i in load_model(artifact.path).graph.initializer if i.name.endswith("_scale")}
    assert scales == {onnx.TensorProto.FLOAT16}
    engine = build(artifact, targets="sm86")
    assert engine.precision == "int8+fp16"
    assert engine.network.layer_dtypes["float16"] > 0


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("y = Conv (x, x)", {}, "its weights are computed"),
        ("y = MatMul (w, x)", {"w": np.ones((4, 4), np.float32)}, "the constant on its left"),
        ('y = Einsum <equation = "nchw,cd->ndhw"> (x, w)', {"w": np.ones((4, 4), np.float32)}, "no quantized form"),
        ("t = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul (t, x)", {}, "it multiplies two activations"),
        ("y = Relu (x)", {}, "no product with weights, so int8 would change nothing"),
    ],
)
def test_what_cannot_be_quantized_is_said(body, weights, reason, tmp_path):
    sizes = "float[4,4,4,4] x" if "Conv" in body else "float[N,4,4,W] x"
    outputs = "float[4,4,1,1] y" if "Conv" in body else "float[N,4,4,W] y"
    path = saved(tmp_path / "n.onnx", 17, body, sizes, outputs, **weights)
    with pytest.raises(NothingToConvertError, match=reason):
        quantize(path, target="gpu")
    assert [p.name for p in tmp_path.iterdir()] == ["n.onnx"]


def test_requests_that_cannot_be_used(exported, tmp_path):
    out = tmp_path / "q.onnx"
    quantized = quantize(exported, out, calibration="digits", images=32, method="minmax")
    with pytest.raises(PrecisionError, match="it is quantized already"):
        quantize(quantized)
    with pytest.raises(PrecisionError, match="'int4' is not a quantized type: choose int8 or fp8"):
        quantize(exported, precision="int4")
    with pytest.raises(InvalidRequestError, match="method 'mse' is unknown; use auto, minmax, entropy, percentile"):
        quantize(exported, method="mse")
    with pytest.raises(InvalidRequestError, match="must be at least 0 and below 100, not -1"):
        quantize(exported, keep_accuracy=-1)
    with pytest.raises(InvalidRequestError, match=r"15 samples are held out, .* a limit of 0\.5 needs at least 200"):
        quantize(exported, keep_accuracy=0.5, scores="y")
    with pytest.raises(InvalidRequestError, match=r"None ends in a softmax or sigmoid, .* name it with --scores"):
        quantize(exported, keep_accuracy=0.5)
    with pytest.raises(InvalidRequestError, match="--scores 'logits': the outputs are y"):
        quantize(exported, scores="logits")
    with pytest.raises(InvalidRequestError, match=r"not found\. Give cifar10, digits"):
        quantize(exported, calibration="imagenet")
    with pytest.raises(GraphError, match="no such ONNX file"):
        quantize(tmp_path / "none.onnx")
    bf16 = export("se", tmp_path / "b.onnx", precision="bf16", opset=22)
    with pytest.raises(PrecisionError, match="is in bf16"):
        quantize(bf16)
    module = export("se", tmp_path / "se.onnx")
    with pytest.raises(InvalidRequestError, match="--keep-accuracy needs an output with a score for each class"):
        quantize(module, keep_accuracy=0.5)
    with pytest.raises(InvalidRequestError, match="images of digits fit a graph with one input N x 3 x H x W"):
        quantize(module, calibration="digits")


def test_weights_that_two_products_share_are_stored_for_each(tmp_path):
    """One tensor of 8-bit weights for both is a file that ONNX Runtime cannot load with its optimisations."""
    body = "a = Conv (x, w) b = Relu (a) y = Conv (b, w)"
    path = saved(tmp_path / "n.onnx", 17, body, w=np.random.default_rng(0).random((4, 4, 1, 1)).astype(np.float32))
    artifact = quantize(path, tmp_path / "q.onnx")
    assert evidence(artifact)["onnxruntime"]["ran"]
    assert inspect(artifact.path).dequantized_weights == 2
