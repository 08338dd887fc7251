"""Operators that older opsets lack, written out in others: each against ONNX Runtime's own, before and after."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.graph.opset import convert_opset
from attn_deploy.inputs.samples import ramped
from export_tests.graph.opset.opset_helpers import Case, check_case, parse, run

IMAGE = {"x": [(2, 4, 6, 8), (1, 4, 5, 7)]}
X, Y = "float[N,4,H,W] x", "float[N,4,H,W] y"
TOKENS = {"x": [(2, 5, 8), (1, 7, 8)]}
T, U = "float[N,M,8] x", "float[N,M,8] y"
ANY4 = "float[A,B,C,D] y"
RNG = np.random.default_rng(0)


def vector(name: str, values: np.ndarray | list[float]) -> str:
    return f"{name} = Constant <value_floats = [{', '.join(f'{v:.6f}' for v in values)}]> ()"


S8, B8 = vector("s", RNG.uniform(0.5, 1.5, 8)), vector("b", RNG.uniform(-0.5, 0.5, 8))
S4, B4 = vector("s", RNG.uniform(0.5, 1.5, 4)), vector("b", RNG.uniform(-0.5, 0.5, 4))
HALF_IN, HALF_OUT = "c = Cast <to = 10> (x)", "y = Cast <to = 1> (d)"

ACTIVATIONS = [
    Case("gelu", 20, (13, 19), X, Y, "y = Gelu (x)", IMAGE, "written out", ("Gelu",)),
    Case("gelu-tanh", 20, (13, 19), X, Y, 'y = Gelu <approximate = "tanh"> (x)', IMAGE, "written out", ("Gelu",)),
    Case("gelu-up", 20, (21, 25), X, Y, "y = Gelu (x)", IMAGE),
    Case("hardswish", 14, (13,), X, Y, "y = HardSwish (x)", IMAGE, "written out", ("HardSwish",)),
    Case("hardswish", 22, (13, 14, 25), X, Y, "y = HardSwish (x)", IMAGE, rule="maybe"),
    Case("mish", 18, (13, 17), X, Y, "y = Mish (x)", IMAGE, "written out", ("Mish",)),
    Case("swish", 24, (13, 23), X, Y, "y = Swish <alpha = 1.5> (x)", IMAGE, "written out", ("Swish",)),
    Case("swish-plain", 24, (13, 23), X, Y, "y = Swish (x)", IMAGE, "written out", ("Swish",)),
    Case("trilu", 14, (13,), T, U, "y = Trilu <upper = 0> (x)", TOKENS, "written out", ("Trilu",), exact=True),
    Case(
        "trilu-offset",
        18,
        (13,),
        T,
        U,
        "k = Constant <value_int = 1> () y = Trilu (x, k)",
        TOKENS,
        "written out",
        ("Trilu",),
        exact=True,
    ),
    Case(
        "castlike",
        15,
        (13, 14),
        f"{X}, int64[M] t",
        "int64[N,4,H,W] y",
        "y = CastLike (x, t)",
        {**IMAGE, "t": [(1,), (2,)]},
        "Cast",
        ("CastLike",),
    ),
    Case(
        "isinf-half",
        20,
        (13, 19),
        "float16[N] x",
        "bool[N] y",
        "y = IsInf (x)",
        {},
        "float32",
        values={"x": np.array([1, np.inf, -np.inf, 65504], np.float16)},
    ),
]
NORMS = [
    Case(
        "layernorm",
        17,
        (13, 16),
        T,
        U,
        f"{S8} {B8} y = LayerNormalization (x, s, b)",
        TOKENS,
        "written out",
        ("LayerNormalization",),
    ),
    Case(
        "layernorm-no-bias",
        17,
        (13,),
        T,
        U,
        f"{S8} y = LayerNormalization <epsilon = 0.01> (x, s)",
        TOKENS,
        "written out",
        ("LayerNormalization",),
    ),
    Case(
        "layernorm-axis",
        17,
        (13,),
        "float[N,2,4] x",
        "float[N,2,4] y",
        f"{S8} q = Constant <value_ints = [2, 4]> () t = Reshape (s, q) y = LayerNormalization <axis = 1> (x, t)",
        {"x": [(3, 2, 4)]},
        "written out",
        ("LayerNormalization",),
    ),
    Case(
        "layernorm-statistics",
        17,
        (13,),
        T,
        "float[N,M,8] y, float[N,M,1] m, float[N,M,1] i",
        f"{S8} {B8} y, m, i = LayerNormalization (x, s, b)",
        TOKENS,
        "written out",
        ("LayerNormalization",),
    ),
    Case(
        "layernorm-half",
        17,
        (13,),
        T,
        U,
        f"{HALF_IN} {S8} {B8} sh = Cast <to = 10> (s) bh = Cast <to = 10> (b) d = LayerNormalization (c, sh, bh) "
        f"{HALF_OUT}",
        TOKENS,
        "written out",
        ("LayerNormalization",),
        loose=True,
    ),
    Case(
        "rmsnorm", 23, (13, 22), T, U, f"{S8} y = RMSNormalization (x, s)", TOKENS, "written out", ("RMSNormalization",)
    ),
    Case(
        "groupnorm",
        21,
        (13, 20),
        X,
        Y,
        f"{S4} {B4} y = GroupNormalization <num_groups = 2> (x, s, b)",
        IMAGE,
        "written out",
        ("GroupNormalization",),
    ),
    Case(
        "groupnorm-flat",
        21,
        (13, 20),
        "float[N,8] x",
        "float[N,8] y",
        f"{S8} {B8} y = GroupNormalization <num_groups = 2> (x, s, b)",
        {"x": [(3, 8)]},
        "written out",
        ("GroupNormalization",),
    ),
    Case("batchnorm", 15, (13, 14, 22), X, Y, f"{S4} {B4} v = Abs (s) y = BatchNormalization (x, s, b, b, v)", IMAGE),
    Case("batchnorm-13", 13, (14, 25), X, Y, f"{S4} {B4} v = Abs (s) y = BatchNormalization (x, s, b, b, v)", IMAGE),
    Case("instancenorm", 22, (13, 21), X, Y, f"{S4} {B4} y = InstanceNormalization (x, s, b)", IMAGE),
]
SAMPLING = [
    *(
        Case(
            f"gridsample-{mode}-{padding}-{aligned}",
            16,
            (13, 15),
            "float[N,3,H,W] x, float[N,A,B,2] g",
            ANY4,
            f'y = GridSample <mode = "{mode}", padding_mode = "{padding}", align_corners = {aligned}> (x, g)',
            {"x": [(2, 3, 6, 8), (1, 3, 5, 7)], "g": [(2, 4, 5, 2), (1, 7, 3, 2)]},
            "gathers",
            ("GridSample",),
        )
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in ("zeros", "border", "reflection")
        for aligned in (0, 1)
    ),
    *(
        Case(
            f"gridsample-{new}-names",
            20,
            (13, 16, 19),
            "float[N,3,H,W] x, float[N,A,B,2] g",
            ANY4,
            f'y = GridSample <mode = "{new}"> (x, g)',
            {"x": [(2, 3, 6, 8)], "g": [(2, 4, 5, 2)]},
            "old mode names",
        )
        for new in ("linear", "nearest", "cubic")
    ),
    *(
        Case(
            f"gridsample-{old}-up",
            16,
            (20, 25),
            "float[N,3,H,W] x, float[N,A,B,2] g",
            ANY4,
            f'y = GridSample <mode = "{old}"> (x, g)',
            {"x": [(2, 3, 6, 8)], "g": [(2, 4, 5, 2)]},
            "new mode names",
        )
        for old in ("bilinear", "nearest", "bicubic")
    ),
    Case(
        "gridsample-default",
        20,
        (13, 17),
        "float[N,3,H,W] x, float[N,A,B,2] g",
        ANY4,
        "y = GridSample (x, g)",
        {"x": [(2, 3, 6, 8)], "g": [(2, 4, 5, 2)]},
        "old mode names",
    ),
]

FUNCTIONS = [
    *(
        Case(
            f"affinegrid-{aligned}",
            20,
            (13, 19),
            "float[N,2,3] x",
            "float[N,5,7,2] y",
            f"s = Constant <value_ints = [2, 3, 5, 7]> () y = AffineGrid <align_corners = {aligned}> (x, s)",
            {"x": [(2, 2, 3)]},
            "written out",
            ("AffineGrid", "If"),
        )
        for aligned in (0, 1)
    ),
    Case(
        "centercroppad",
        18,
        (13, 17),
        X,
        "float[N,4,C,D] y",
        "s = Constant <value_ints = [5, 9]> () y = CenterCropPad <axes = [2, 3]> (x, s)",
        IMAGE,
        "by its definition",
        ("CenterCropPad",),
        exact=True,
    ),
    Case(
        "rotaryembedding",
        23,
        (13, 22),
        "float[N,2,L,8] x, float[N,L,4] c, float[N,L,4] s",
        "float[N,2,L,8] y",
        "y = RotaryEmbedding (x, c, s)",
        {"x": [(2, 2, 5, 8)], "c": [(2, 5, 4)], "s": [(2, 5, 4)]},
        "by its definition",
        ("RotaryEmbedding",),
    ),
    Case(
        "hannwindow",
        17,
        (13, 16),
        "int64 n",
        "float[K] y",
        "y = HannWindow (n)",
        {},
        "by its definition",
        ("HannWindow",),
        values={"n": np.array(12)},
    ),
]


def parameters(cases: list[Case]) -> list[object]:
    return [pytest.param(c, t, id=f"{c.name}-{c.opset}-{t}") for c in cases for t in c.targets]


@pytest.mark.parametrize(("case", "target"), parameters(ACTIVATIONS))
def test_activation(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize(("case", "target"), parameters(NORMS))
def test_norm(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize(("case", "target"), parameters(SAMPLING))
def test_sampling(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize(("case", "target"), parameters(FUNCTIONS))
def test_defined_by_the_standard(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize("target", [13, 17, 21, 25])
def test_deprecated_group_norm(target: int) -> None:
    """GroupNormalization of opsets 18 to 20 has a scale for each group; no runtime takes it, so numpy is the judge."""
    scale, bias = np.array([0.7, 1.3]), np.array([0.2, -0.4])
    body = f"{vector('s', scale)} {vector('b', bias)} y = GroupNormalization <num_groups = 2> (x, s, b)"
    result = convert_opset(parse(18, X, Y, body), target)
    x = ramped((2, 4, 5, 7))
    groups = x.reshape(2, 2, -1).astype(np.float64)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[:, None] + bias[:, None]).reshape(x.shape)
    np.testing.assert_allclose(run(result.model, {"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
