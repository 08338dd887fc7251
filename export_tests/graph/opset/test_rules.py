"""Opset conversion rules, one tiny graph each, run in ONNX Runtime before and after."""

from __future__ import annotations

import pytest

from export_tests.graph.opset.opset_helpers import Case, check_case

IMAGE = {"x": [(2, 4, 6, 8), (1, 4, 5, 7)]}
X = "float[N,4,H,W] x"
Y = "float[N,4,H,W] y"
ANY4 = "float[A,B,C,D] y"
BELOW_18 = (13, 14, 15, 16, 17)
REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

AXES = "axes = Constant <value_ints = [2, -1]> ()"
CASES = [
    *(
        Case(f"{name}-axes-input", 18, (13, 17), X, ANY4, f"{AXES} y = {name} (x, axes)", IMAGE, "axes from input")
        for name in REDUCTIONS
    ),
    *(
        Case(
            f"{name}-axes-attribute", 17, (18, 25), X, ANY4, f"y = {name} <axes = [2, 3]> (x)", IMAGE, "axes from attr"
        )
        for name in REDUCTIONS
    ),
    Case(
        "reduce-no-keepdims",
        18,
        (13,),
        X,
        "float[N,C] y",
        f"{AXES} y = ReduceMean <keepdims = 0> (x, axes)",
        IMAGE,
        "axes from input",
    ),
    Case("reduce-all", 18, (13,), X, "float y", "y = ReduceMean <keepdims = 0> (x)", IMAGE, "axes from input"),
    Case("reduce-all-up", 17, (18,), X, "float y", "y = ReduceMax <keepdims = 0> (x)", IMAGE),
    Case(
        "reduce-computed-axes",
        18,
        (17,),
        X,
        ANY4,
        "a = Constant <value_int = 3> () z = Constant <value_ints = [0]> () axes = Unsqueeze (a, z) "
        "y = ReduceMean (x, axes)",
        IMAGE,
        "axes from input",
    ),
    *(
        Case(
            f"{name}-noop",
            18,
            (13,),
            X,
            Y,
            f"s = Mul (x, x) one = Constant <value_float = 1.0> () p = Add (s, one) "
            f"y = {name} <noop_with_empty_axes = 1> (p)",
            IMAGE,
            "axes from input",
            (name,),
        )
        for name in ("ReduceMean", "ReduceMax")
    ),
    Case(
        "reduce-max-bool",
        20,
        (13, 19),
        "bool[N,4] x",
        "bool[N,1] y",
        "axes = Constant <value_ints = [1]> () y = ReduceMax (x, axes)",
        {"x": [(3, 4)]},
        "booleans",
    ),
    Case("reduce-sum", 18, (13, 25), X, ANY4, f"{AXES} y = ReduceSum (x, axes)", IMAGE),
    Case(
        "split-static",
        18,
        (13, 17),
        "float[N,5] x",
        "float[N,2] a, float[N,2] b, float[N,1] c",
        "a, b, c = Split <axis = 1, num_outputs = 3> (x)",
        {"x": [(2, 5)]},
        "explicit",
    ),
    Case(
        "split-dynamic",
        18,
        (13, 17),
        "float[N,M] x",
        "float[N,A] a, float[N,B] b, float[N,C] c",
        "a, b, c = Split <axis = 1, num_outputs = 3> (x)",
        {"x": [(2, 5), (2, 6), (1, 10)]},
        "explicit",
    ),
    Case(
        "split-equal-up",
        13,
        (18, 25),
        "float[N,6] x",
        "float[N,3] a, float[N,3] b",
        "a, b = Split <axis = 1> (x)",
        {"x": [(2, 6)]},
        "number of outputs",
    ),
    Case(
        "split-sizes",
        18,
        (13, 25),
        "float[N,6] x",
        "float[N,2] a, float[N,4] b",
        "s = Constant <value_ints = [2, 4]> () a, b = Split <axis = 1> (x, s)",
        {"x": [(2, 6)]},
    ),
    *(
        Case(
            f"pad-axes-{mode}",
            18,
            (13, 17),
            X,
            ANY4,
            f'p = Constant <value_ints = [1, 2, 3, 0]> () {AXES} y = Pad <mode = "{mode}"> (x, p, , axes)',
            IMAGE,
            "pads of all axes",
        )
        for mode in ("constant", "reflect", "edge")
    ),
    Case(
        "pad-axes-dynamic-pads",
        18,
        (13,),
        f"{X}, int64[4] p",
        ANY4,
        f"{AXES} y = Pad (x, p, , axes)",
        {**IMAGE, "p": [(4,), (4,)]},
        "pads of all axes",
    ),
    Case(
        "pad-wrap",
        19,
        (13, 18),
        X,
        ANY4,
        'p = Constant <value_ints = [0, 0, 2, 1, 0, 0, 1, 3]> () y = Pad <mode = "wrap"> (x, p)',
        IMAGE,
        "wrap",
    ),
    Case(
        "pad-plain",
        18,
        (13, 25),
        X,
        ANY4,
        "p = Constant <value_ints = [0, 0, 2, 1, 0, 0, 1, 3]> () y = Pad (x, p)",
        IMAGE,
    ),
    Case("shape-range", 15, (13, 14), X, "int64[2] y", "y = Shape <start = 1, end = 3> (x)", IMAGE, "Slice"),
    Case("shape-negative", 18, (13, 14), X, "int64[K] y", "y = Shape <start = -2> (x)", IMAGE, "Slice"),
    Case("shape-whole", 18, (13, 25), X, "int64[4] y", "y = Shape <start = 0> (x)", IMAGE),
    Case(
        "reshape-allowzero",
        18,
        (13,),
        X,
        "float[N,M] y",
        "s = Shape <start = 0, end = 1> (x) m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (s, m) "
        "y = Reshape <allowzero = 1> (x, t)",
        IMAGE,
        "allowzero",
    ),
]


@pytest.mark.parametrize(
    ("case", "target"), [pytest.param(c, t, id=f"{c.name}-{c.opset}-{t}") for c in CASES for t in c.targets]
)
def test_rule(case: Case, target: int) -> None:
    check_case(case, target)
