"""The checkers must catch what is broken on purpose: a check that cannot fail proves nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_deploy.errors import DynamicAxisError, ExportError, GraphError, OpsetError, ParityError
from attn_deploy.exporters import pipeline
from attn_deploy.exporters.finish import normalise
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export, export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.translate import translate
from attn_deploy.graph import written
from attn_deploy.graph.simplify import Simplified
from attn_deploy.parity.verify import verify_onnx
from attn_deploy.resolve.resolve import parse_inputs


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    return prepare(Block(), inputs=parse_inputs(["1x4x9x12"]))


def report(prepared, model):
    return verify_onnx(
        prepared.original, model.SerializeToString(), prepared.inputs, prepared.dynamic, output_names=prepared.outputs
    )


def raw(prepared, opset=18):
    return translate(prepared, "torchscript", opset).model


def test_the_untouched_graph_passes(block):
    found = report(block, raw(block))
    assert found.passed
    assert len(found.untraced_shapes) >= 3


def test_a_wrong_bias_is_caught(block):
    model = raw(block)
    bias = next(i for i in model.graph.initializer if i.name.endswith("bias"))
    values = numpy_helper.to_array(bias).copy()
    values[2] += 1e-2
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(ParityError, match="disagree at x 2x4x9x12"):
        report(block, model).raise_if_failed("block")


def test_nan_weights_are_caught(tmp_path):
    module = Block()
    with torch.no_grad():
        module.conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ParityError, match="NaN or infinite"):
        export(module, tmp_path / "m.onnx", inputs=parse_inputs(["1x4x9x12"]), exporter="torchscript", opset=17)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("axis", "shape"), [("N", [2, -1]), ("H", [-1, 6 * 9 * 12])])
def test_a_baked_size_is_caught_even_where_the_interface_is_symbolic(block, axis, shape):
    """The file claims N, H and W to move, and a Reshape inside holds the traced size."""

    class Flat(Block):
        def forward(self, x):
            return self.conv(x).relu().flatten(1).sum(1, keepdim=True)

    prepared = prepare(Flat(), inputs=parse_inputs(["1x4x9x12"]))
    model = raw(prepared)
    flat = next(n for n in model.graph.node if n.op_type in ("Flatten", "Reshape"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, "int64"), "baked"))
    flat.CopyFrom(helper.make_node("Reshape", [flat.input[0], "baked"], list(flat.output), name=flat.name))
    found = report(prepared, model)
    assert found.cases[0].passed, "the traced size itself is right, which is why only other sizes find it"
    assert not found.passed


def test_a_file_at_another_opset_is_refused(block):
    with pytest.raises(OpsetError, match="asked for opset 18, the graph has opset 17"):
        normalise(raw(block, 17), block, 18)


def test_an_axis_that_is_a_number_is_refused(block):
    model = raw(block)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9
    with pytest.raises(DynamicAxisError, match=r"axis 2 \(H\) of input 'x' was declared dynamic and is the number 9"):
        normalise(model, block, 18)


def test_an_operator_of_a_custom_domain_is_refused(block):
    model = raw(block)
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(GraphError, match=r"com\.example::Relu"):
        normalise(model, block, 18)


def test_an_invalid_graph_is_refused(block):
    model = raw(block)
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(GraphError, match="not a valid ONNX model"):
        normalise(model, block, 18)


def tampered(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = next(i for i in other.graph.initializer if len(i.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    return other


def test_a_simplifier_that_changes_numbers_loses_its_graph(block, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "simplify_model", lambda m: Simplified(tampered(m), "onnxsim", 9, 9))
    found = export_prepared(block, tmp_path / "m.onnx", ExportOptions(opset=17, exporter="torchscript"))
    assert found.record["simplifier"] == ""
    assert "changed the numbers" in found.record["simplifier_reason"]


@pytest.mark.filterwarnings("ignore::attn_deploy.errors.FileWarning")
def test_a_file_that_is_not_the_verified_graph_is_refused(block, tmp_path, monkeypatch):
    monkeypatch.setattr(written, "write_whole", lambda model, path: onnx.save(tampered(model), path))
    with pytest.raises(GraphError, match="not the one that was verified"):
        export_prepared(block, tmp_path / "m.onnx", ExportOptions(opset=17, exporter="torchscript", simplify=False))
    assert list(tmp_path.iterdir()) == []


def test_auto_falls_back_and_says_why(block, tmp_path, monkeypatch):
    real = pipeline.translate

    def broken(prepared, exporter, opset, **options):
        if exporter == "torchscript":
            raise ExportError("planted")
        return real(prepared, exporter, opset, **options)

    monkeypatch.setattr(pipeline, "translate", broken)
    found = export_prepared(block, tmp_path / "m.onnx", ExportOptions(opset=17))
    assert found.opset == 17
    assert found.record["exporter"] == "dynamo"
    assert found.record["exporter_reason"] == "torchscript failed: planted"


class TrainModeDropout(nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5, training=True)


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [(TrainModeDropout(), "draws random numbers in eval mode"), (BatchStatistics(), "norm.*running statistics")],
)
def test_models_that_no_file_can_follow_are_refused(module, reason, tmp_path):
    with pytest.raises(ExportError, match=reason):
        export(module, tmp_path / "m.onnx", inputs=parse_inputs(["1x4x9x12"]))


def test_a_module_in_train_mode_is_exported_in_eval_mode(tmp_path):
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    found = export(module, tmp_path / "m.onnx", inputs=parse_inputs(["1x4x9x12"]), opset=17)
    assert "Dropout" not in found.operators
    assert module.training
    assert module[1].training


def test_rounding_is_told_from_error():
    """Both sides lose digits to a large number in between, in their own ways: neither is nearer to float64."""
    far = helper.make_tensor("far", TensorProto.FLOAT, [], [1.4e5])
    graph = helper.make_graph(
        [helper.make_node("Sub", ["x", "far"], ["low"]), helper.make_node("Add", ["low", "far"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [far],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    class Lossy(nn.Module):
        def forward(self, x):
            return (x + 1e5) - 1e5

    inputs = parse_inputs(["2x4x9x12"])
    found = verify_onnx(Lossy(), model.SerializeToString(), inputs, ("N", "H", "W"), output_names=("y",))
    assert found.passed
    assert all(c.ratio > 1 and c.noise > 0 for c in found.cases), "the plain tolerance alone would not have passed"
    model.graph.node[1].input[1] = "off"
    model.graph.initializer.append(helper.make_tensor("off", TensorProto.FLOAT, [], [1.4e5 + 1]))
    assert not verify_onnx(Lossy(), model.SerializeToString(), inputs, ("N", "H", "W"), output_names=("y",)).passed, (
        "an error larger than the rounding is still an error"
    )
