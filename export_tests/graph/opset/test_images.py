"""Resize, pooling, padding, scattering, quantisation and transforms across opsets."""

from __future__ import annotations

import numpy as np
import pytest

from export_tests.graph.opset.opset_helpers import Case, check_case

IMAGE = {"x": [(2, 4, 6, 8), (1, 4, 5, 7)]}
X, Y = "float[N,4,H,W] x", "float[N,4,H,W] y"
ANY4 = "float[A,B,C,D] y"
TWICE = "s = Constant <value_floats = [1.0, 1.0, 2.0, 1.5]> ()"
TO_SIZE = "z = Constant <value_ints = [9, 4]> ()"
QUANTIZED = "sc = Constant <value_float = 0.05> ()"
PER_CHANNEL = "sc = Constant <value_floats = [0.05, 0.02, 0.1, 0.04]> ()"
BOXES = (
    "r0 = Constant <value_floats = [0.0, 0.0, 5.0, 5.0, 1.0, 2.0, 6.0, 7.0]> () "
    "q = Constant <value_ints = [2, 4]> () r = Reshape (r0, q) b = Constant <value_ints = [0, 0]> ()"
)

RESIZE = [
    *(
        Case(
            f"resize-{mode}-{coordinates}",
            18,
            (13, 17, 25),
            X,
            ANY4,
            f'{TWICE} y = Resize <mode = "{mode}", coordinate_transformation_mode = "{coordinates}"> (x, , s)',
            IMAGE,
        )
        for mode in ("nearest", "linear", "cubic")
        for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    ),
    *(
        Case(f"resize-{mode}-up", 13, (18, 19, 25), X, ANY4, f'{TWICE} y = Resize <mode = "{mode}"> (x, , s)', IMAGE)
        for mode in ("nearest", "linear", "cubic")
    ),
    Case(
        "resize-axes-scales",
        18,
        (13, 17),
        X,
        ANY4,
        's = Constant <value_floats = [2.0, 1.5]> () y = Resize <mode = "linear", axes = [2, 3]> (x, , s)',
        IMAGE,
        "new attributes",
    ),
    Case(
        "resize-axes-sizes",
        18,
        (13, 17),
        X,
        ANY4,
        f'{TO_SIZE} y = Resize <mode = "linear", axes = [2, -1]> (x, , , z)',
        IMAGE,
        "new attributes",
    ),
    Case(
        "resize-computed-sizes",
        18,
        (13,),
        f"{X}, int64[2] z",
        ANY4,
        'y = Resize <mode = "cubic", axes = [2, 3]> (x, , , z)',
        IMAGE,
        "new attributes",
        values={"z": np.array([5, 11])},
    ),
    *(
        Case(
            f"resize-symmetric-{mode}",
            19,
            (13, 18),
            X,
            ANY4,
            f'{TO_SIZE} y = Resize <mode = "{mode}", axes = [2, 3], coordinate_transformation_mode = '
            '"half_pixel_symmetric"> (x, , , z)',
            IMAGE,
            "half_pixel",
        )
        for mode in ("linear", "cubic")
    ),
    *(
        Case(
            f"resize-antialias-{mode}-{exclude}-{'down' if scales == '0.4, 0.6' else 'both'}",
            18,
            (13, 17),
            X,
            ANY4,
            f's = Constant <value_floats = [1.0, 1.0, {scales}]> () y = Resize <mode = "{mode}", antialias = 1, '
            f"exclude_outside = {exclude}> (x, , s)",
            {"x": [(2, 4, 11, 13), (1, 4, 16, 9)]},
            "new attributes",
        )
        for mode in ("linear", "cubic")
        for exclude in (0, 1)
        for scales in ("0.4, 0.6", "1.5, 0.5")
    ),
    Case(
        "resize-antialias-sizes",
        18,
        (13,),
        X,
        ANY4,
        f'{TO_SIZE} y = Resize <mode = "linear", antialias = 1, axes = [2, 3], coordinate_transformation_mode = '
        '"align_corners"> (x, , , z)',
        {"x": [(2, 4, 11, 13)]},
        "new attributes",
    ),
]
POOLING = [
    *(
        Case(
            f"averagepool-{ceil}-{count}",
            opset,
            targets,
            X,
            ANY4,
            f"y = AveragePool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0], ceil_mode = {ceil}, "
            f"count_include_pad = {count}> (x)",
            IMAGE,
        )
        for opset, targets in ((18, (13, 19, 22, 25)), (22, (13, 18, 21)))
        for ceil in (0, 1)
        for count in (0, 1)
    ),
    Case(
        "averagepool-dilations",
        19,
        (13, 18),
        X,
        ANY4,
        "y = AveragePool <kernel_shape = [2, 2], dilations = [1, 1]> (x)",
        IMAGE,
        "dilations",
    ),
    Case(
        "maxpool",
        22,
        (13, 21),
        X,
        ANY4,
        "y = MaxPool <kernel_shape = [3, 3], dilations = [2, 1], ceil_mode = 1> (x)",
        IMAGE,
        exact=True,
    ),
    Case("globalaveragepool", 22, (13, 21), X, ANY4, "y = GlobalAveragePool (x)", IMAGE),
    Case(
        "lppool",
        22,
        (13, 17),
        X,
        ANY4,
        "y = LpPool <kernel_shape = [2, 2], dilations = [1, 1], ceil_mode = 0> (x)",
        IMAGE,
        "dilations",
    ),
]
SCATTER = [
    Case(
        "scatternd",
        18,
        (13, 15, 25),
        "float[4,3] x, float[2,3] u",
        "float[4,3] y",
        "i0 = Constant <value_ints = [2, 0]> () q = Constant <value_ints = [2, 1]> () i = Reshape (i0, q) "
        'y = ScatterND <reduction = "none"> (x, i, u)',
        {"x": [(4, 3)], "u": [(2, 3)]},
    ),
    Case(
        "scatternd-add",
        18,
        (16, 17),
        "float[4,3] x, float[2,3] u",
        "float[4,3] y",
        "i0 = Constant <value_ints = [2, 0]> () q = Constant <value_ints = [2, 1]> () i = Reshape (i0, q) "
        'y = ScatterND <reduction = "add"> (x, i, u)',
        {"x": [(4, 3)], "u": [(2, 3)]},
    ),
    Case(
        "topk",
        24,
        (13, 23),
        "float[N,9] x",
        "float[N,3] y, int64[N,3] i",
        "k = Constant <value_ints = [3]> () y, i = TopK (x, k)",
        {"x": [(4, 9)]},
        exact=True,
    ),
    Case("cumsum", 14, (13, 25), X, Y, "a = Constant <value_int = 2> () y = CumSum (x, a)", IMAGE),
    Case(
        "where",
        16,
        (13, 15),
        f"bool[N,4,H,W] c, {X}",
        Y,
        "z = Neg (x) y = Where (c, x, z)",
        {"c": IMAGE["x"], **IMAGE},
        exact=True,
    ),
    Case("prelu", 16, (13, 15), X, Y, "s0 = Constant <value_float = 0.3> () y = PRelu (x, s0)", IMAGE),
    Case("leakyrelu", 16, (13, 25), X, Y, "y = LeakyRelu <alpha = 0.2> (x)", IMAGE),
    Case(
        "equal-where-isnan",
        20,
        (13,),
        X,
        "bool[N,4,H,W] y",
        "n = IsNaN (x) m = Not (n) e = Equal (x, x) y = And (e, m)",
        IMAGE,
    ),
    Case(
        "dft",
        20,
        (17, 19),
        "float[N,8,1] x",
        "float[N,8,2] y",
        "a = Constant <value_int = 1> () y = DFT (x, , a)",
        {"x": [(3, 8, 1)]},
        "axis from input",
    ),
    Case(
        "dft-default",
        20,
        (17,),
        "float[N,8,1] x",
        "float[N,8,2] y",
        "y = DFT (x)",
        {"x": [(3, 8, 1)]},
        "axis from input",
    ),
    Case(
        "dft-up",
        17,
        (20, 25),
        "float[N,8,1] x",
        "float[N,8,2] y",
        "y = DFT <axis = 1> (x)",
        {"x": [(3, 8, 1)]},
        "axis from attribute",
    ),
    Case(
        "dft-up-default",
        17,
        (20,),
        "float[N,8,1] x",
        "float[N,8,2] y",
        "y = DFT (x)",
        {"x": [(3, 8, 1)]},
        "axis from attribute",
    ),
    Case(
        "roialign-up",
        13,
        (16, 21),
        "float[1,2,8,8] x",
        "float[2,2,2,2] y",
        f"{BOXES} y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, r, b)",
        {"x": [(1, 2, 8, 8)]},
        "output_half_pixel",
    ),
    Case(
        "roialign-down",
        16,
        (13, 15),
        "float[1,2,8,8] x",
        "float[2,2,2,2] y",
        f"{BOXES} y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2, "
        'coordinate_transformation_mode = "output_half_pixel"> (x, r, b)',
        {"x": [(1, 2, 8, 8)]},
        "output_half_pixel",
    ),
]
QUANTIZE = [
    Case(
        "qdq",
        21,
        (13, 19, 25),
        X,
        Y,
        f"{QUANTIZED} z0 = Constant <value_int = 0> () z = Cast <to = 3> (z0) q = QuantizeLinear (x, sc, z) "
        "y = DequantizeLinear (q, sc, z)",
        IMAGE,
    ),
    Case(
        "qdq-channels",
        21,
        (13,),
        X,
        Y,
        f"{PER_CHANNEL} q = QuantizeLinear <axis = 1, output_dtype = 3> (x, sc) "
        "y = DequantizeLinear <axis = 1> (q, sc)",
        IMAGE,
        "zero point",
    ),
    Case(
        "qdq-redundant-type",
        21,
        (13,),
        X,
        Y,
        f"{QUANTIZED} z0 = Constant <value_int = 0> () z = Cast <to = 3> (z0) q = QuantizeLinear <output_dtype = 3> "
        "(x, sc, z) y = DequantizeLinear (q, sc, z)",
        IMAGE,
        "zero point",
    ),
    Case(
        "qdq-output-type",
        23,
        (13, 22),
        X,
        Y,
        f"{QUANTIZED} q = QuantizeLinear (x, sc) y = DequantizeLinear <output_dtype = 1> (q, sc)",
        IMAGE,
        "scale",
    ),
]


def parameters(cases: list[Case]) -> list[object]:
    return [pytest.param(c, t, id=f"{c.name}-{c.opset}-{t}") for c in cases for t in c.targets]


@pytest.mark.parametrize(("case", "target"), parameters(RESIZE))
def test_resize(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize(("case", "target"), parameters(POOLING))
def test_pooling(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize(("case", "target"), parameters(SCATTER))
def test_indices_and_transforms(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize(("case", "target"), parameters(QUANTIZE))
def test_quantization(case: Case, target: int) -> None:
    check_case(case, target)
