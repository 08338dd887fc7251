"""A conversion between opsets: what stays, and that no change of the standard is overlooked."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import defs

from attn_deploy.graph.opset import MAX_OPSET, MIN_OPSET, convert_opset
from attn_deploy.graph.opset.rule import Direction
from attn_deploy.graph.opset.table import RULES, rule_for
from attn_deploy.inputs.samples import ramped
from export_tests.graph.opset.opset_helpers import assert_same, parse, run
from export_tests.graph.opset.scopes import MEAN, X, Y, scoped


def test_metadata_names_and_interface_stay() -> None:
    model = scoped(parse(18, X, Y, f"{MEAN}"), "encoder.pool")
    model.metadata_props.add(key="attn_deploy.model", value="se")
    converted = convert_opset(model, 13).model
    [node] = [n for n in converted.graph.node if n.op_type == "ReduceMean"]
    assert node.name == "node_ReduceMean"
    assert list(node.output) == ["y"]
    assert [p.value for p in node.metadata_props if p.key.endswith("name_scopes")] == [
        "['', 'encoder', 'encoder.pool', 'aten_op']"
    ]
    assert {p.key: p.value for p in converted.metadata_props} == {"attn_deploy.model": "se"}
    assert converted.graph.input[0] == model.graph.input[0]
    assert converted.graph.output[0] == model.graph.output[0]


def test_every_node_of_a_decomposition_says_where_it_comes_from() -> None:
    body = "s = Constant <value_floats = [1.0, 2.0]> () y = LayerNormalization (x, s)"
    model = scoped(parse(17, "float[N,2] x", "float[N,2] y", body), "block.norm")
    converted = convert_opset(model, 13).model
    assert len(converted.graph.node) > 5
    assert all(
        any("block.norm" in p.value for p in n.metadata_props) for n in converted.graph.node if n.op_type != "Constant"
    )


def test_constants_that_nobody_reads_any_more_go() -> None:
    model = parse(18, X, Y, f"{MEAN}")
    converted = convert_opset(model, 13).model
    assert [n.op_type for n in converted.graph.node] == ["ReduceMean"]
    assert not converted.graph.initializer
    shared = parse(18, X, f"{Y}, int64[2] z", f"{MEAN} z = Identity (axes)")
    assert {n.op_type for n in convert_opset(shared, 13).model.graph.node} == {"Constant", "ReduceMean", "Identity"}


def test_equal_constants_are_shared() -> None:
    body = " ".join(f"t{i + 1} = Shape <start = 1, end = 3> (x)" for i in range(4))
    model = parse(15, X, "int64[2] t1, int64[2] t2, int64[2] t3, int64[2] t4", body)
    assert len(convert_opset(model, 13).model.graph.initializer) == 3


def test_same_opset_changes_nothing_but_the_file_version() -> None:
    model = parse(18, X, Y, MEAN)
    result = convert_opset(model, 18)
    assert not result.applied
    assert (model.ir_version, result.model.ir_version) == (10, 8)
    assert [n.op_type for n in result.model.graph.node] == ["Constant", "ReduceMean"]


def test_outputs_that_are_left_out() -> None:
    """An optional output without a name, before one with a name; a rule makes both."""
    model = parse(17, "float[N,4] x", "float[N,4] y, float[N,1] i", "y = Relu (x) i = Relu (x)")
    del model.graph.node[:]
    scale = onnx.numpy_helper.from_array(np.linspace(0.5, 2.0, 4).astype(np.float32), "s")
    model.graph.initializer.append(scale)
    model.graph.node.append(onnx.helper.make_node("LayerNormalization", ["x", "s"], ["y", "", "i"]))
    converted = convert_opset(model, 13).model
    onnx.checker.check_model(converted, full_check=True)
    assert all(o for n in converted.graph.node for o in n.output)
    x = ramped((3, 4))
    got = run(converted, {"x": x})
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got["i"], 1 / deviation, rtol=1e-5)
    np.testing.assert_allclose(
        got["y"], (x - x.mean(-1, keepdims=True)) / deviation * [0.5, 1, 1.5, 2], rtol=1e-4, atol=1e-6
    )


def test_inputs_that_are_left_out_at_the_end() -> None:
    """An empty name in the place of an input that older forms lack is no use of it."""
    model = parse(18, "float[N,4] x", "float[A,B] y", "p = Constant <value_ints = [0, 1, 0, 2]> () y = Pad (x, p)")
    model.graph.node[1].input.extend(["", ""])
    converted = convert_opset(model, 13).model
    assert len(converted.graph.node[1].input) == 2


def test_the_same_request_gives_the_same_bytes() -> None:
    body = "s = Constant <value_floats = [1.0, 2.0]> () n = LayerNormalization (x, s) y = Gelu (n)"
    model = parse(20, "float[N,2] x", "float[N,2] y", body)
    first, second = (convert_opset(model, 13).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_there_and_back_again() -> None:
    body = (
        "axes = Constant <value_ints = [2, 3]> () m = ReduceMean (x, axes) d = Sub (x, m) g = Gelu (d) "
        "a, b = Split <axis = 1, num_outputs = 2> (g) c = Add (a, b) "
        "p = Constant <value_ints = [1, 1, 0, 0]> () y = Pad (c, p, , axes)"
    )
    model = parse(20, X, "float[N,2,A,B] y", body)
    low = convert_opset(model, 13).model
    back = convert_opset(low, 20).model
    feeds = {"x": ramped((2, 4, 5, 6))}
    expected = run(model, feeds)
    assert_same(expected, run(low, feeds), "down")
    assert_same(expected, run(back, feeds), "and up again")


def test_subgraphs_are_converted_too() -> None:
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[N,4,H,W] x, bool flag) => (float[A,B,C,D] y) {
        axes = Constant <value_ints = [2, 3]> ()
        y = If (flag) <
            then_branch = t () => (float[A,B,C,D] a) {
                inner = Constant <value_ints = [-1]> ()
                m = ReduceMean (x, inner)
                a = Mish (m)
            },
            else_branch = e () => (float[A,B,C,D] b) { b = ReduceMax (x, axes) }
        >
    }"""
    model = onnx.parser.parse_model(text)
    result = convert_opset(model, 13)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.applied == {
        "ReduceMean: axes from input to attribute": 1,
        "ReduceMax: axes from input to attribute": 1,
        "Mish: written out": 1,
    }
    back = convert_opset(result.model, 22).model
    for flag in (True, False):
        feeds = {"x": ramped((2, 4, 5, 6)), "flag": np.array(flag)}
        expected = run(model, feeds)
        assert_same(expected, run(result.model, feeds), "down")
        assert_same(expected, run(back, feeds), "and up again")


def test_loop_bodies_are_converted_too() -> None:
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[2,4] x, int64 n) => (float[2,4] y) {
        yes = Constant <value = bool {1}> ()
        y = Loop (n, yes, x) <body = b (int64 i, bool c, float[2,4] s) => (bool d, float[2,4] t) {
            axes = Constant <value_ints = [1]> ()
            m = ReduceMean (s, axes)
            t = Sub (s, m)
            d = Identity (c)
        }>
    }"""
    model = onnx.parser.parse_model(text)
    converted = convert_opset(model, 13).model
    feeds = {"x": ramped((2, 4)), "n": np.array(3)}
    assert_same(run(model, feeds), run(converted, feeds), "loop")


def test_functions_are_inlined() -> None:
    text = """<ir_version: 10, opset_import: ["": 18, "own": 1]> g (float[N,4] x) => (float[N,1] y) {
        h = own.centre (x)
        axes = Constant <value_ints = [1]> ()
        y = ReduceMax (h, axes)
    }
    <domain: "own", opset_import: ["": 18]> centre (a) => (b) {
        axes = Constant <value_ints = [1]> ()
        m = ReduceMean (a, axes)
        b = Sub (a, m)
    }"""
    model = onnx.parser.parse_model(text)
    converted = convert_opset(model, 13).model
    assert not converted.functions
    assert {n.domain for n in converted.graph.node} == {""}
    assert [o.domain for o in converted.opset_import] == [""]
    feeds = {"x": ramped((3, 4))}
    assert_same(run(model, feeds), run(converted, feeds), "function")


def test_other_domains_are_left_alone() -> None:
    text = """<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]> g (float[N,4,H,W] x) => (float[A,B,C,D] y) {
        axes = Constant <value_ints = [2, 3]> ()
        m = ReduceMean (x, axes)
        y = com.microsoft.QuickGelu (m)
    }"""
    converted = convert_opset(onnx.parser.parse_model(text), 15).model
    assert {(o.domain, o.version) for o in converted.opset_import} == {("", 15), ("com.microsoft", 1)}
    assert [n.op_type for n in converted.graph.node] == ["ReduceMean", "QuickGelu"]


# --- nothing overlooked ---------------------------------------------------------------------------------------------
# Attributes that came between opsets 14 and 25 and whose default means what the older form did, as read in the standard.
HARMLESS_DEFAULTS = {
    ("AveragePool", "dilations"), ("Attention", "left_window_size"), ("Attention", "right_window_size"),
    ("BatchNormalization", "training_mode"), ("Cast", "saturate"), ("Cast", "round_mode"), ("CastLike", "saturate"),
    ("CastLike", "round_mode"), ("DequantizeLinear", "block_size"), ("DequantizeLinear", "output_dtype"),
    ("GRU", "layout"), ("GroupNormalization", "stash_type"), ("LSTM", "layout"), ("LpPool", "ceil_mode"),
    ("LpPool", "dilations"), ("QuantizeLinear", "block_size"), ("QuantizeLinear", "output_dtype"),
    ("QuantizeLinear", "precision"), ("QuantizeLinear", "saturate"), ("RNN", "layout"), ("Reshape", "allowzero"),
    ("Resize", "antialias"), ("Resize", "axes"), ("Resize", "keep_aspect_ratio_policy"), ("ScatterElements", "reduction"),
    ("ScatterND", "reduction"), ("Shape", "start"), ("Shape", "end"), ("Split", "num_outputs"),
}  # fmt: skip


def history() -> dict[str, dict[int, defs.OpSchema]]:
    found: dict[str, dict[int, defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, {})[schema.since_version] = schema
    return found


def test_every_change_of_the_standard_has_a_rule_or_is_harmless() -> None:
    """An attribute or input that disappears, or a default that changes, silently means something else without a rule."""
    missing = []
    for operator, versions in history().items():
        for version in sorted(v for v in versions if MIN_OPSET < v <= MAX_OPSET):
            older = [v for v in versions if v < version]
            if not older:
                continue
            before, after = versions[max(older)], versions[version]
            gone = [a for a in before.attributes if a not in after.attributes]
            changed = [
                a for a in before.attributes
                if a in after.attributes
                and before.attributes[a].default_value != after.attributes[a].default_value
            ]  # fmt: skip
            needs_up = gone or changed or after.min_input > before.min_input or after.max_input < before.max_input
            if needs_up and rule_for(operator, version, Direction.UP) is None:
                missing.append(f"{operator} {version} up: {gone + changed}")
            added = [a for a in after.attributes if a not in before.attributes]
            unread = [a for a in added if (operator, a) not in HARMLESS_DEFAULTS]
            if (gone or changed or unread) and rule_for(operator, version, Direction.DOWN) is None:
                missing.append(f"{operator} {version} down: {gone + changed + unread}")
    assert not missing


def test_rules_are_where_the_standard_changes() -> None:
    known = history()
    for rule in RULES:
        assert rule.version in known[rule.operator], f"{rule.operator} has no change at {rule.version}"
    keys = [(r.operator, r.version, r.direction) for r in RULES]
    assert len(set(keys)) == len(keys)
