"""Names for the extents at a Softmax: the weights take the memory of the logits, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from attn_deploy.graph.softmax_memory import name_softmax_extents_

ATTENTION = """
    target = Constant<value_ints = [0, 4, -1]>()
    tokens = Reshape(x, target)
    turned = Transpose<perm = [0, 2, 1]>(tokens)
    logits = MatMul(turned, tokens)
"""
TWICE = (
    ATTENTION
    + """
    first = Softmax<axis = 2>(logits) more = MatMul(logits, first) second = Softmax<axis = 2>(more)
    y = MatMul(tokens, second)
"""
)
PEAK = """
import re, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.zeros((1, 4, 64, 64), np.float32)})
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def model(body, *, inputs="float[N,4,H,W] x", outputs="float[N,4,L] y"):
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    parsed = onnx.parser.parse_model(text)
    onnx.checker.check_model(parsed, full_check=True)
    return parsed


def named(parsed):
    """The names given, by tensor; the rest of the model is as it was."""
    before = onnx.ModelProto()
    before.CopyFrom(parsed)
    name_softmax_extents_(parsed)
    onnx.checker.check_model(parsed, full_check=True)
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in parsed.graph.value_info
    }
    bare = onnx.ModelProto()
    bare.CopyFrom(parsed)
    del bare.graph.value_info[:]
    assert bare.SerializeToString() == before.SerializeToString()
    return shapes


def outputs(parsed, shape):
    session = onnxruntime.InferenceSession(parsed.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)})


def test_unknown_extents_are_named_and_known_ones_are_kept():
    parsed = model(ATTENTION + "weights = Softmax<axis = 2>(logits) y = MatMul(tokens, weights)")
    before = {shape: outputs(parsed, shape) for shape in ((1, 4, 3, 5), (2, 4, 1, 1), (3, 4, 7, 2))}
    assert named(parsed) == {"logits": ["N", "softmax0_axis1", "softmax0_axis2"]}
    for shape, right in before.items():
        np.testing.assert_array_equal(outputs(parsed, shape)[0], right[0])


def test_the_name_stands_before_the_scaling():
    body = (
        ATTENTION
        + """
        scale = Constant<value_float = 0.5>() scaled = Mul(logits, scale)
        weights = Softmax<axis = 2>(scaled) y = MatMul(tokens, weights)
    """
    )
    assert list(named(model(body))) == ["logits"]


def test_a_mask_may_widen_the_logits_so_that_the_name_stands_behind_it():
    body = ATTENTION + "masked = Add(logits, mask) weights = Softmax<axis = 2>(masked) y = MatMul(tokens, weights)"
    inputs = "float[N,4,H,W] x, float[N,L,L] mask"
    assert list(named(model(body, inputs=inputs))) == ["masked"]


def test_a_scalar_of_higher_rank_widens_too():
    body = (
        ATTENTION
        + """
        scale = Constant<value = float[1,1,1,1] {0.5}>() scaled = Mul(logits, scale)
        weights = Softmax<axis = 3>(scaled) y = MatMul(tokens, weights)
    """
    )
    assert list(named(model(body, outputs="float[1,N,4,L] y"))) == ["scaled"]


@pytest.mark.parametrize(
    "body",
    [
        "weights = Softmax<axis = 1>(x) axes = Constant<value_ints = [0, 4, -1]>() y = Reshape(weights, axes)",
        "y = Relu(x)",
    ],
    ids=["all known", "no softmax"],
)
def test_nothing_is_named_without_need(body):
    assert named(model(body, outputs="float[N,4,L] y" if "Softmax" in body else "float[N,4,H,W] y")) == {}


def test_two_softmaxes_share_no_name():
    names = [n for shape in named(model(TWICE)).values() for n in shape if str(n).startswith("softmax")]
    assert len(names) == len(set(names)) == 4


def test_a_name_that_an_axis_has_is_given_to_no_other():
    """A file may have been through this before, with a Softmax less; one name for two extents would make memory too small."""
    parsed = model(TWICE, inputs="float[N,4,softmax1_axis2,W] x")
    whole = named(parsed)
    kept = [v for v in parsed.graph.value_info if v.name == "more"]
    again = model(TWICE, inputs="float[N,4,softmax1_axis2,W] x")
    again.graph.value_info.extend(kept)
    name_softmax_extents_(again)
    for made in (whole, {v.name: [d.dim_param for d in v.type.tensor_type.shape.dim] for v in again.graph.value_info}):
        names = [n for shape in made.values() for n in shape if str(n).startswith("softmax")]
        assert len(names) == len(set(names)) == 4
        assert "softmax1_axis2" not in names


@pytest.mark.skipif(sys.platform != "linux", reason="reads the largest memory of a process from /proc")
def test_the_weights_take_the_memory_of_the_logits(tmp_path):
    body = ATTENTION + "weights = Softmax<axis = 2>(logits) y = MatMul(tokens, weights)"
    peaks = {}
    for name in ("bare", "named"):
        parsed = model(body)
        if name == "named":
            name_softmax_extents_(parsed)
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(parsed.SerializeToString())
        ran = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
        peaks[name] = int(ran.stdout) * 1024
    weights = 4096 * 4096 * 4
    assert peaks["bare"] - peaks["named"] > 0.9 * weights, peaks
