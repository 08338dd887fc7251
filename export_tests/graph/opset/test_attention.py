"""Attention (opset 23) written out for older opsets, against ONNX Runtime's own operator."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.graph.opset import convert_opset
from export_tests.graph.opset.opset_helpers import Case, assert_same, check_case, feeds_of, run

QKV = "float[N,4,L,8] q, float[N,4,S,8] k, float[N,4,S,8] v"
SHAPES = {"q": [(2, 4, 5, 8), (1, 4, 3, 8)], "k": [(2, 4, 6, 8), (1, 4, 3, 8)], "v": [(2, 4, 6, 8), (1, 4, 3, 8)]}
Y = "float[N,4,L,8] y"
PACKED = "float[N,L,32] q, float[N,S,32] k, float[N,S,32] v"
PACKED_SHAPES = {"q": [(2, 5, 32), (1, 3, 32)], "k": [(2, 6, 32), (1, 3, 32)], "v": [(2, 6, 32), (1, 3, 32)]}
GROUPED = "float[N,4,L,8] q, float[N,2,S,8] k, float[N,2,S,8] v"
GROUPED_SHAPES = {"q": [(2, 4, 5, 8)], "k": [(2, 2, 6, 8)], "v": [(2, 2, 6, 8)]}


def case(
    name: str, inputs: str, shapes: dict, body: str, outputs: str = Y, targets: tuple[int, ...] = (13, 22)
) -> Case:
    return Case(name, 23, targets, inputs, outputs, body, shapes, "written out", ("Attention",))


CASES = [
    case("plain", QKV, SHAPES, "y = Attention (q, k, v)", targets=(13, 14, 17, 22)),
    case("scale", QKV, SHAPES, "y = Attention <scale = 0.2> (q, k, v)"),
    case("softcap", QKV, SHAPES, "y = Attention <softcap = 2.0> (q, k, v)"),
    case("causal", QKV, SHAPES, "y = Attention <is_causal = 1> (q, k, v)"),
    case("float-mask", f"{QKV}, float[L,S] m", {**SHAPES, "m": [(5, 6), (3, 3)]}, "y = Attention (q, k, v, m)"),
    case(
        "bool-mask",
        f"{QKV}, bool[N,1,L,S] m",
        {**SHAPES, "m": [(2, 1, 5, 6), (1, 1, 3, 3)]},
        "y = Attention (q, k, v, m)",
    ),
    case(
        "float-mask-causal",
        f"{QKV}, float[L,S] m",
        {**SHAPES, "m": [(5, 6), (3, 3)]},
        "y = Attention <is_causal = 1> (q, k, v, m)",
    ),
    case(
        "packed",
        PACKED,
        PACKED_SHAPES,
        "y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)",
        "float[N,L,32] y",
    ),
    case("grouped", GROUPED, GROUPED_SHAPES, "y = Attention (q, k, v)"),
    case(
        "cache",
        f"{QKV}, float[N,4,P,8] pk, float[N,4,P,8] pv",
        {**SHAPES, "pk": [(2, 4, 2, 8), (1, 4, 3, 8)], "pv": [(2, 4, 2, 8), (1, 4, 3, 8)]},
        "y, nk, nv = Attention <is_causal = 1> (q, k, v, , pk, pv)",
        "float[N,4,L,8] y, float[N,4,T,8] nk, float[N,4,T,8] nv",
    ),
    case(
        "free-head-size",
        "float[N,4,L,E] q, float[N,4,S,E] k, float[N,4,S,E] v",
        SHAPES,
        "y = Attention (q, k, v)",
        "float[N,4,L,E] y",
    ),
    case(
        "free-heads",
        "float[N,K,L,E] q, float[N,K,S,E] k, float[N,K,S,E] v",
        SHAPES,
        "y = Attention (q, k, v)",
        "float[N,K,L,E] y",
    ),
]


@pytest.mark.parametrize(("case", "target"), [pytest.param(c, t, id=f"{c.name}-{t}") for c in CASES for t in c.targets])
def test_attention(case: Case, target: int) -> None:
    check_case(case, target)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scores_output(mode: int) -> None:
    """The optional fourth output, at each of its four stages (minus infinity included)."""
    body = f"y, nk, nv, w = Attention <softcap = 3.0, qk_matmul_output_mode = {mode}> (q, k, v, m)"
    outputs = f"{Y}, float[N,4,S,8] nk, float[N,4,S,8] nv, float[N,4,L,S] w"
    given = case("scores", f"{QKV}, float[L,S] m", {**SHAPES, "m": [(5, 6), (3, 3)]}, body, outputs)
    check_case(given, 22)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_rows_without_keys_give_zeros(kind: str) -> None:
    """The standard asks for zeros, where a plain softmax over minus infinity gives NaN."""
    given = case("masked-row", f"{QKV}, {kind}[L,S] m", SHAPES, "y = Attention (q, k, v, m)")
    feeds = feeds_of(given)[0]
    keep = np.ones((5, 6), bool)
    keep[2] = False
    keep[3, 1:] = False
    feeds["m"] = keep if kind == "bool" else np.where(keep, 0, -np.inf).astype(np.float32)
    got = run(convert_opset(given.model, 17).model, feeds)["y"]
    assert np.isfinite(got).all()
    assert not got[:, :, 2].any()
    expected = run(given.model, feeds)
    assert_same(expected, {"y": got}, kind)


def test_constant_mask_needs_no_guard() -> None:
    """The mask of a window attention is known and leaves keys everywhere: three nodes fewer, and a plain pattern."""
    values = ", ".join("-100.0" if i % 7 == 1 else "0.0" for i in range(30))
    body = (
        f"f = Constant <value_floats = [{values}]> () s = Constant <value_ints = [5, 6]> () m = Reshape (f, s) "
        "y = Attention (q, k, v, m)"
    )
    given = case("constant-mask", QKV, {n: s[:1] for n, s in SHAPES.items()}, body)
    converted = check_case(given, 17)
    assert not {"ReduceMax", "Equal", "Where"} & {n.op_type for n in converted.graph.node}


def test_grouped_queries_through_packed_inputs() -> None:
    shapes = {"q": [(2, 5, 32)], "k": [(2, 6, 16)], "v": [(2, 6, 16)]}
    given = case(
        "packed-grouped",
        "float[N,L,32] q, float[N,S,16] k, float[N,S,16] v",
        shapes,
        "y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v)",
        "float[N,L,32] y",
    )
    check_case(given, 17)
