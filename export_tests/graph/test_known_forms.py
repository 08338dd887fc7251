"""Forms that runtimes fuse: the rewrites are exact, made where they are meant to be, and ONNX Runtime does fuse them."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from attn_deploy.exporters.pipeline import export
from attn_deploy.graph.known_forms import write_known_forms_
from attn_deploy.graph.opset import convert_opset
from attn_deploy.inputs.grammar import parse_inputs


def kernels(model, folder):
    """The operators that ONNX Runtime runs for a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(folder / "optimised.onnx").graph.node]


def run(model, *arrays):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})


def graph_of(nodes, inputs, numbers, opset=18, rank=3):
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [*"NHWC"][:rank]) for n in (*inputs, "y")}
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in numbers.items()]
    graph = helper.make_graph(nodes, "g", [values[i] for i in inputs], [values["y"]], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


ROOT = math.sqrt(2)


def gelu(half=0.5, root=ROOT, swapped=False, shared=False):
    numbers = {"root": np.float32(root), "one": np.float32(1), "half": np.float32(half)}
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["error"]),
        helper.make_node("Add", ["error", "one"], ["raised"]),
        helper.make_node("Mul", ["raised", "half"] if swapped else ["half", "raised"], ["cdf"]),
        helper.make_node("Mul", ["cdf", "x"] if swapped else ["x", "cdf"], ["product"]),
        helper.make_node("Add", ["product", "cdf" if shared else "x"], ["y"]),
    ]
    return graph_of(nodes, ["x"], numbers)


@pytest.mark.parametrize("swapped", [False, True])
def test_gelu_is_ordered_as_runtimes_know_it(swapped, tmp_path):
    model = gelu(swapped=swapped)
    array = np.random.default_rng(0).normal(0, 3, (2, 5, 7)).astype("float32")
    before = run(model, array)[0]
    assert "Gelu" not in kernels(model, tmp_path)
    assert write_known_forms_(model) == {"gelu": 1}
    onnx.checker.check_model(model)
    assert "Gelu" in kernels(model, tmp_path)
    np.testing.assert_allclose(run(model, array)[0], before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", [gelu(half=0.4), gelu(root=2.0), gelu(shared=True)])
def test_what_only_looks_like_gelu_stays(model):
    before = model.SerializeToString()
    assert write_known_forms_(model) == {}
    assert model.SerializeToString() == before


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.up = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.up(F.gelu(y))


def test_keys_are_transposed_in_one_step(tmp_path):
    model = Attention().eval()
    artifact = export(
        model, tmp_path / "m.onnx", inputs=parse_inputs(["2x7x8"]), opset=18, exporter="dynamo", simplify=False
    )
    graph = onnx.load(artifact.path).graph
    makers = {o: n for n in graph.node for o in n.output}
    products = [n for n in graph.node if n.op_type == "MatMul"]
    scores = next(n for n in products if any(s.op_type == "Softmax" and s.input[0] in n.output for s in graph.node))
    key = makers[scores.input[1]]
    while key.op_type == "Mul":
        key = makers[key.input[0]]
    assert key.op_type == "Transpose"
    assert list(key.attribute[0].ints) == [0, 1, 3, 2]
    assert {"Gelu", "LayerNormalization"} <= set(kernels(onnx.load(artifact.path), tmp_path))


def folded(order=(0, 2, 1), middle=(-2, -1)):
    def cut(start, end, name):
        return helper.make_node("Slice", ["shape", start, end], [name])

    numbers = {
        "rest": np.int64([-1]),
        "first": np.int64([np.iinfo(np.int64).min]),
        "last": np.int64([np.iinfo(np.int64).max]),
        "m1": np.int64([-1]),
        "m2": np.int64([-2]),
        "m3": np.int64([-3]),
    }
    names = {-3: "m3", -2: "m2", -1: "m1"}
    nodes = [
        helper.make_node("Relu", ["x"], ["k"]),
        helper.make_node("Shape", ["k"], ["shape"]),
        cut("m1", "last", "wide"),
        cut(names[middle[0]], names[middle[1]], "high"),
        cut("first", "m2", "lead"),
        helper.make_node("Concat", ["rest", "high", "wide"], ["flat"], axis=0),
        helper.make_node("Reshape", ["k", "flat"], ["three"]),
        helper.make_node("Transpose", ["three"], ["swapped"], perm=list(order)),
        helper.make_node("Concat", ["lead", "wide", "high"], ["whole"], axis=0),
        helper.make_node("Reshape", ["swapped", "whole"], ["y"]),
    ]
    return graph_of(nodes, ["x"], numbers, rank=4)


def test_a_folded_transposition_is_unfolded():
    model = folded()
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    before = run(model, array)[0]
    assert write_known_forms_(model) == {"transposed keys": 1}
    np.testing.assert_array_equal(run(model, array)[0], before)


@pytest.mark.parametrize("model", [folded(order=(0, 1, 2)), folded(order=(1, 0, 2)), folded(middle=(-3, -2))])
def test_another_folding_stays(model):
    assert write_known_forms_(model) == {}


def test_a_norm_written_out_is_one_kernel_again(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "L", 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "L", 8])
    numbers = [numpy_helper.from_array(np.linspace(0.5, 2, 8, dtype="float32"), n) for n in ("scale", "bias")]
    node = helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["y"], axis=-1)
    model = helper.make_model(
        helper.make_graph([node], "g", [value], [result], numbers), opset_imports=[helper.make_opsetid("", 17)]
    )
    converted = convert_opset(model, 13).model
    converted.ir_version = 8
    assert kernels(converted, tmp_path) == ["LayerNormalization"]
