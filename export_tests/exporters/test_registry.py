"""Every registry entry through both exporters, read back and run at sizes that were not traced."""

from __future__ import annotations

import functools

import onnx
import pytest

from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.graph.operators import CONTROL_FLOW, all_nodes, unlisted_operators
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import EXEMPLARS, randomize, tiered

pytestmark = pytest.mark.uncounted  # a sweep over the zoo: tests of single cases reach the same lines, in half the time

SPECS = catalog.import_all()
every_model = pytest.mark.parametrize("spec", tiered(SPECS))
# The default tier takes each entry through one exporter: torch.export, which takes a second or more for each, one
# of each hard kind, and the other one the rest. The slow tier takes all through both, as the matrix does every night.
REST = {s.name for s in SPECS if s.name not in EXEMPLARS}


@functools.cache
def prepared(name: str) -> PreparedModel:
    """A model with every gamma, bias and statistic at a value that shows; prepared once, its trace serves all opsets."""
    model = resolve(name)
    randomize(model.module)
    return prepare(model)


def export_and_read_back(spec, tmp_path, opset, exporter, simplify):
    path = tmp_path / f"{spec.name}.onnx"
    options = ExportOptions(opset=opset, exporter=exporter, simplify=simplify)
    artifact = export_prepared(prepared(spec.name), path, options)
    model = onnx.load(path)
    assert {o.domain: o.version for o in model.opset_import} == {"": opset}
    assert artifact.opset == opset
    assert artifact.record["exporter"] == exporter
    assert set(artifact.dynamic_axes) >= set(spec.dynamic) & set(prepared(spec.name).inputs[0].symbols)
    assert artifact.record["parity"]["cases"] >= 4 or not spec.dynamic
    assert len(artifact.record["verified_shapes"]) >= (3 if spec.dynamic else 0)
    assert not {n.op_type for n in all_nodes(model.graph)} & CONTROL_FLOW
    assert unlisted_operators(model) == []
    return artifact


@pytest.mark.parametrize("spec", tiered(SPECS, default=EXEMPLARS))
def test_torch_export_exporter(spec, tmp_path):
    artifact = export_and_read_back(spec, tmp_path, 18, "dynamo", simplify=spec.name in EXEMPLARS)
    assert artifact.nodes <= artifact.record["nodes_raw"]


@pytest.mark.parametrize("spec", tiered(SPECS, default=REST))
def test_torchscript_exporter(spec, tmp_path):
    export_and_read_back(spec, tmp_path, 13, "torchscript", simplify=False)


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("opset", [13, 17, 20, 22, 23, 25])
def test_torch_export_exporter_at_other_opsets(spec, opset, tmp_path):
    export_and_read_back(spec, tmp_path, opset, "dynamo", simplify=True)


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("opset", [17, 18, 20, 22])
def test_torchscript_exporter_at_other_opsets(spec, opset, tmp_path):
    export_and_read_back(spec, tmp_path, opset, "torchscript", simplify=True)
