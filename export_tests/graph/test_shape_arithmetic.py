"""Sizes computed in a graph: the same numbers from fewer nodes, at every size."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from attn_deploy.graph.shape_arithmetic import shorten_shape_arithmetic

SHAPES = [(1, 4, 5, 6), (3, 4, 2, 7)]


def model(body, *, opset=17, outputs="float[N,C,L] y", inputs="float[N,4,H,W] x"):
    version = {13: 7, 17: 8, 18: 8, 20: 9}[opset]
    text = f'<ir_version: {version}, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    parsed = onnx.parser.parse_model(text)
    onnx.checker.check_model(parsed, full_check=True)
    return parsed


def run(proto, **feeds):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def operators(proto):
    return [n.op_type for n in proto.graph.node]


def shortened(proto, *shapes):
    """The shortened model, after it was checked and compared with the given one at several sizes."""
    before = proto.SerializeToString()
    made = shorten_shape_arithmetic(proto)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    assert [o.SerializeToString() for o in made.graph.output] == [o.SerializeToString() for o in proto.graph.output]
    for shape in shapes or SHAPES:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for right, got in zip(run(proto, x=x), run(made, x=x), strict=True):
            np.testing.assert_array_equal(got, right)
    return made


SCALARS = """
    s = Shape(x)
    zero = Constant<value_int = 0>() two = Constant<value_int = 2>() three = Constant<value_int = 3>()
    n = Gather<axis = 0>(s, zero) h = Gather<axis = 0>(s, two) w = Gather<axis = 0>(s, three)
    axes = Constant<value_ints = [0]>()
    n1 = Unsqueeze(n, axes) h1 = Unsqueeze(h, axes) w1 = Unsqueeze(w, axes)
"""


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_flatten_becomes_a_constant_target(opset):
    body = """
        s = Shape(x) a = Constant<value_ints = [0]>() b = Constant<value_ints = [2]>() rest = Constant<value_ints = [-1]>()
        kept = Slice(s, a, b, a) t = Concat<axis = 0>(kept, rest) y = Reshape(x, t)
    """
    made = shortened(model(body, opset=opset))
    assert operators(made) == ["Reshape"]
    (target,) = made.graph.initializer
    assert onnx.numpy_helper.to_array(target).tolist() == [0, 0, -1]


def test_sizes_as_python_numbers_become_one_slice():
    body = (
        SCALARS
        + """
        f = Constant<value_ints = [4]>() r = Constant<value_ints = [-1]>()
        flat_target = Concat<axis = 0>(n1, f, r) flat = Reshape(x, flat_target)
        even = Relu(flat)
        t = Concat<axis = 0>(n1, f, h1, w1) y = Reshape(even, t)
    """
    )
    made = shortened(model(body, outputs="float[N,C,H,W] y"))
    assert sorted(operators(made)) == ["Concat", "Relu", "Reshape", "Reshape", "Shape", "Slice"]
    assert not any(a.name in ("start", "end") for n in made.graph.node for a in n.attribute)


def test_ranges_of_shape_stay_ranges():
    body = """
        n = Shape<start = 0, end = 1>(x) h = Shape<start = 2, end = 3>(x) w = Shape<start = 3, end = 4>(x)
        c = Constant<value_ints = [2, 2]>() t = Concat<axis = 0>(n, c, h, w) y = Reshape<allowzero = 1>(x, t)
    """
    made = shortened(model(body, outputs="float[N,A,B,H,W] y"))
    assert sorted(operators(made)) == ["Concat", "Reshape", "Shape"]
    (shape,) = [n for n in made.graph.node if n.op_type == "Shape"]
    assert {a.name: a.i for a in shape.attribute} == {"start": 2, "end": 4}
    (reshape,) = [n for n in made.graph.node if n.op_type == "Reshape"]
    assert not any(a.name == "allowzero" and a.i for a in reshape.attribute)


def test_a_size_that_is_computed_is_the_open_one():
    body = (
        SCALARS
        + """
        hw = Mul(h, w) hw1 = Unsqueeze(hw, axes) c = Constant<value_ints = [4]>()
        t = Concat<axis = 0>(n1, c, hw1) y = Reshape(x, t)
    """
    )
    assert operators(shortened(model(body))) == ["Reshape"]


def test_two_open_sizes_stay_computed():
    body = (
        SCALARS
        + """
        rest = Constant<value_ints = [-1]>() t = Concat<axis = 0>(w1, h1, rest) y = Reshape(x, t)
    """
    )
    made = shortened(model(body))
    assert "Concat" in operators(made)


def test_an_axis_of_another_tensor_is_copied_only_where_the_symbols_agree():
    body = """
        s = Shape(other) i = Constant<value_ints = [0]>() n = Gather<axis = 0>(s, i)
        c = Constant<value_ints = [-1, 2]>() t = Concat<axis = 0>(n, c) y = Reshape(x, t)
    """
    same = model(body, inputs="float[N,4,H,W] x, float[N,9] other")
    assert operators(shorten_shape_arithmetic(same)) == ["Reshape"]
    different = model(body, inputs="float[N,4,H,W] x, float[M,9] other")
    made = shorten_shape_arithmetic(different)
    assert "Concat" in operators(made)
    x, other = np.arange(48, dtype=np.float32).reshape(1, 4, 3, 4), np.zeros((2, 9), np.float32)
    np.testing.assert_array_equal(run(made, x=x, other=other)[0], x.reshape(2, -1, 2))


def test_a_literal_zero_is_left_alone():
    body = """
        n = Shape<start = 0, end = 1>(x) c = Constant<value_ints = [0, 3]>() t = Concat<axis = 0>(n, c)
        y = Reshape<allowzero = 1>(x, t)
    """
    made = shortened(model(body, inputs="float[N,4,H,W] x"), (2, 4, 0, 5))
    assert "Concat" in operators(made)


def test_targets_of_other_operators_join_neighbouring_axes():
    body = (
        SCALARS
        + """
        c = Constant<value_ints = [4]>() t = Concat<axis = 0>(n1, c, h1, w1)
        one = Constant<value_floats = [1.5]>() y = Expand(one, t)
    """
    )
    made = shortened(model(body, outputs="float[N,C,H,W] y"))
    assert sorted(operators(made)) == ["Concat", "Constant", "Expand", "Shape", "Slice", "Slice"]


def test_a_concat_that_is_an_output_keeps_its_name():
    body = SCALARS + "t = Concat<axis = 0>(n1, h1, w1)"
    made = shortened(model(body, outputs="int64[3] t"))
    assert [o.name for o in made.graph.output] == ["t"]


def test_nothing_to_shorten_is_returned_as_it_is():
    plain = model("y = Relu(x)", outputs="float[N,4,H,W] y")
    assert shorten_shape_arithmetic(plain) is plain
