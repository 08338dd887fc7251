"""Sequences keep their type, in graphs and in their bodies; and what is made of them is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import attn_deploy
from attn_deploy import convert, quantize
from attn_deploy.errors import GraphError, NothingToConvertError
from attn_deploy.graph.inference import infer_types, is_tensor
from attn_deploy.graph.shape_inference import infer_shapes
from attn_deploy.graph.tensors import infer_tensors
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

node = helper.make_node


def constant(name: str, values: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def saved(path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], output: str = "y") -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", None])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def split(path: Path) -> Path:
    """A product, taken apart into a sequence and put together in another order."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("SplitToSequence", ["a", "sizes"], ["parts"], axis=1, name="parts"),
        node("SequenceAt", ["parts", "second"], ["b"]),
        node("SequenceAt", ["parts", "first"], ["c"]),
        node("SequenceConstruct", ["b", "c"], ["turned"]),
        node("ConcatFromSequence", ["turned"], ["y"], axis=1),
    ]
    constants = [
        constant("w", np.random.default_rng(1).standard_normal((6, 6))),
        constant("sizes", [2, 4], np.int64),
        constant("first", 0, np.int64),
        constant("second", 1, np.int64),
    ]
    return saved(path, nodes, constants)


def conditional(path: Path) -> Path:
    """The same in the body of an If."""

    def body(name: str, order: tuple[str, str]) -> onnx.GraphProto:
        nodes = [
            node("SequenceConstruct", list(order), [f"{name}_s"]),
            node("ConcatFromSequence", [f"{name}_s"], [name], axis=1),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("ReduceSum", ["a"], ["total"], keepdims=0),
        node("Greater", ["total", "nothing"], ["more"]),
        node("If", ["more"], ["y"], then_branch=body("yes", ("a", "x")), else_branch=body("no", ("x", "a"))),
    ]
    weights = np.random.default_rng(1).standard_normal((6, 6))
    return saved(path, nodes, [constant("w", weights), constant("nothing", 0.0)])


@pytest.mark.parametrize("make", [split, conditional])
def test_opset_and_precision(tmp_path, make):
    source = make(tmp_path / "s.onnx")
    x = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)
    right = run_once(OnnxRuntimeRunner(source), {"x": x})["y"]
    raised = convert(source, tmp_path / "o.onnx", opset=21)
    np.testing.assert_array_equal(run_once(OnnxRuntimeRunner(raised.path), {"x": x})["y"], right)
    half = convert(source, tmp_path / "h.onnx", precision="fp16")
    np.testing.assert_allclose(run_once(OnnxRuntimeRunner(half.path), {"x": x})["y"], right, atol=2e-2)


def test_types(tmp_path):
    model = ir.from_proto(onnx.load(split(tmp_path / "s.onnx")))
    infer_types(model)
    kinds = {v.name: is_tensor(v) for n in model.graph for v in n.outputs}
    assert kinds == {"a": True, "parts": False, "b": True, "c": True, "turned": False, "y": True}


def test_a_sequence_at_the_interface_is_refused_by_name(tmp_path):
    path = split(tmp_path / "s.onnx")
    model = onnx.load(path)
    del model.graph.output[:]
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_value_info("turned", kind))
    del model.graph.node[-1]
    onnx.save(model, path)
    with pytest.raises(GraphError, match=r"'turned' is a seq\(tensor\(float\)\), and only tensors"):
        convert(path, tmp_path / "o.onnx", opset=21)


def test_a_scatter_that_sums_stays_in_fp32(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("ScatterElements", ["a", "places", "a"], ["y"], axis=1, reduction="add", name="sum"),
    ]
    constants = [constant("w", np.eye(6)), constant("places", [[0, 0, 1, 2, 3, 4]], np.int64)]
    source = saved(tmp_path / "s.onnx", nodes, constants)
    model = onnx.load(source)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, source)
    record = convert(source, tmp_path / "h.onnx", precision="fp16").evidence.typing
    assert record["onnxruntime"]["ran"]
    assert any("sums what it scatters" in reason for reason in record["kept"])


def test_a_pattern_of_a_cast_has_no_say(tmp_path):
    """CastLike takes the type of its second input, which the conversion changes."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("CastLike", ["endless", "a"], ["low"]),
        node("Greater", ["a", "low"], ["seen"]),
        node("Where", ["seen", "a", "x"], ["y"], name="choose"),
    ]
    constants = [constant("w", np.eye(6) * 0.5), constant("endless", -np.inf)]
    source = saved(tmp_path / "s.onnx", nodes, constants)
    try:
        half = convert(source, tmp_path / "h.onnx", precision="fp16")
    except NothingToConvertError:
        pytest.fail("the product can be half")
    x = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)
    right = run_once(OnnxRuntimeRunner(source), {"x": x})["y"]
    np.testing.assert_allclose(run_once(OnnxRuntimeRunner(half.path), {"x": x})["y"], right, atol=1e-2)


def normalized(path: Path) -> Path:
    """A convolution, a normalisation by groups, a gate that jumps at 0 in what that gives, and another convolution."""
    rng = np.random.default_rng(2)
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        node("GroupNormalization", ["a", "scale", "bias"], ["b"], name="norm", num_groups=2),
        node("Greater", ["b", "zero"], ["high"], name="gate"),
        node("Where", ["high", "a", "zero"], ["c"], name="gated"),
        node("Conv", ["c", "v"], ["y"], name="last"),
    ]
    constants = [
        constant("w", rng.normal(size=(8, 3, 3, 3))),
        constant("scale", rng.normal(size=8)),
        constant("bias", rng.normal(size=8)),
        constant("zero", 0.0),
        constant("v", rng.normal(size=(4, 8, 1, 1))),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_types_and_shapes_go_through_a_normalisation_by_groups(tmp_path):
    """Of which onnx infers nothing from opset 21 on."""
    model = onnx.load(normalized(tmp_path / "m.onnx"))
    before = model.SerializeToString()
    assert infer_tensors(model, {"x": (2, 3, 6, 5)}).shapes["c"] == (2, 8, 6, 5)
    inferred = infer_shapes(model)
    assert {v.name for v in inferred.graph.value_info} >= {"a", "b", "c"}
    assert [n.op_type for n in inferred.graph.node] == [n.op_type for n in model.graph.node]
    working = ir.from_proto(model)
    infer_types(working)
    values = {v.name: v for n in working.graph for v in n.outputs}
    assert [n.op_type for n in working.graph] == [n.op_type for n in model.graph.node]
    assert (values["b"].dtype, values["c"].dtype) == (ir.DataType.FLOAT, ir.DataType.FLOAT)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_gate_is_decided_in_the_type_of_what_it_reads(tmp_path, precision):
    """Rounded before the comparison, what lies near the threshold would change sides."""
    source = normalized(tmp_path / "m.onnx")
    convert(source, tmp_path / "o.onnx", opset=22)
    convert(tmp_path / "o.onnx", tmp_path / "h.onnx", precision=precision)
    model = onnx.load(tmp_path / "h.onnx")
    made = {o: n for n in model.graph.node for o in n.output}
    gate = next(n for n in model.graph.node if n.op_type == "Greater")
    assert made[gate.input[0]].op_type == "GroupNormalization"
    x = np.random.default_rng(7).normal(size=(3, 3, 40, 50)).astype(np.float32)
    right = run_once(OnnxRuntimeRunner(source), {"x": x})["y"]
    if precision == "fp16":  # ONNX Runtime's CPU kernels know no bfloat16
        got = run_once(OnnxRuntimeRunner(tmp_path / "h.onnx"), {"x": x})["y"]
        assert np.abs(got - right).mean() <= 2e-3 * np.abs(right).mean()
        assert (np.abs(got - right) > 0.05 * np.abs(right).max()).mean() < 1e-3


def test_eight_bits_beside_a_normalisation_by_groups(tmp_path):
    source = normalized(tmp_path / "m.onnx")
    quantize(source, tmp_path / "q.onnx", method="minmax")
    x = np.random.default_rng(8).normal(size=(2, 3, 24, 24)).astype(np.float32)
    right = run_once(OnnxRuntimeRunner(source), {"x": x})["y"]
    got = run_once(OnnxRuntimeRunner(tmp_path / "q.onnx"), {"x": x})["y"]
    assert np.sqrt(np.mean((got - right) ** 2)) <= 0.1 * np.sqrt(np.mean(right**2))


def test_inference_is_asked_for_in_one_place():
    """Elsewhere it would stop at what onnx itself does not know."""
    folder = Path(attn_deploy.__file__).parent
    callers = {
        str(p.relative_to(folder))
        for p in folder.rglob("*.py")
        if "shape_inference.infer_shapes(" in p.read_text("utf-8")
    }
    assert callers == {"graph/shape_inference.py", "guarding/server.py"}  # the latter only loads the library
