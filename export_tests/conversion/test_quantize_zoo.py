"""The zoo in int8: quantized, judged and built for the supported GPUs without one."""

from __future__ import annotations

import importlib.util
import json

import pytest

from attn_deploy import build, quantize
from attn_deploy.errors import NothingToConvertError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.precision.rules import PRODUCTS
from attn_deploy.resolve import catalog

pytestmark = pytest.mark.uncounted  # a sweep over the zoo: tests of single cases reach the same lines, in half the time

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
DEFAULT = ("se", "condconv", "swish")
NETWORKS = ("resnet18+se", "resnet18+cbam", "resnet18+non_local")
TARGETS = ("sm86", "sm89", "sm120")


def entries() -> list:
    names = [s.name for s in catalog.import_all()]
    return [pytest.param(n, marks=[] if n in DEFAULT else [pytest.mark.slow]) for n in (*names, *NETWORKS)]


@pytest.mark.parametrize("name", entries())
def test_an_entry_in_int8(name, tmp_path):
    artifact = export_prepared(prepare(name), tmp_path / "net.onnx", ExportOptions(exporter="torchscript"))
    try:
        small = quantize(artifact, tmp_path / "net-int8.onnx", target="gpu")
    except NothingToConvertError:
        # What products it has multiply two activations, or patterns of averages that are no weights.
        model = load_model(artifact.path)
        constants = {i.name for i in model.graph.initializer}
        products = [n for n in model.graph.node if n.op_type in PRODUCTS and n.op_type != "Einsum"]
        assert not [n.name for n in products if n.input[1] in constants and n.input[0] not in constants]
        return
    found = json.loads(small.metadata["quantization"])
    assert found["layers"] >= 1
    assert found["judged"]["error"] <= 0.1
    assert found["onnxruntime"]["ran"]
    assert small.dynamic_axes == artifact.dynamic_axes
    assert small.opset == artifact.opset
    if HAS_RTX:
        engine = build(small, tmp_path / "net.engine", flavor="tensorrt-rtx")
        assert engine.targets == TARGETS
        assert "int8" in engine.precision.split("+")
        assert engine.network.compute_dtypes["int8"] == found["layers"]
