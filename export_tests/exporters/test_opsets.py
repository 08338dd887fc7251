"""Opsets above 22, the exporter that `auto` picks, and the one trace that serves them all."""

from __future__ import annotations

import collections

import onnx
import pytest
import torch

from attn_deploy.errors import OpsetError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export, export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.exporters.user_models.broken import Spectrum, WarpsByAffineGrid
from export_tests.exporters.user_models.vit import ViT

INPUTS = parse_inputs(["1x3x32x32"])


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return prepare(ViT(depth=1), inputs=INPUTS, dynamic=("N",))


def test_one_trace_serves_all_opsets_and_attention_is_decomposed(vit, tmp_path, monkeypatch):
    traces = collections.Counter()
    real = torch.export.export

    def counted(*args, **kwargs):
        traces["torch.export"] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    for opset in (23, 25, 18):
        made = export_prepared(vit, tmp_path / f"{opset}.onnx", ExportOptions(opset=opset, simplify=False))
        model = onnx.load(made.path)
        assert {o.domain: o.version for o in model.opset_import} == {"": opset}
        assert made.record["exporter"] == "dynamo"
        assert "Attention" not in made.operators
        assert made.operators["Softmax"] == 1
        assert made.record["parity"]["cases"] >= 4
    assert traces == {"torch.export": 1}


@pytest.mark.parametrize("opset", [23, 25])
def test_native_attention(vit, opset, tmp_path):
    options = ExportOptions(opset=opset, simplify=False, native_attention=True)
    made = export_prepared(vit, tmp_path / "m.onnx", options)
    assert made.opset == opset
    assert made.operators["Attention"] == 1
    assert "Softmax" not in made.operators
    assert made.record["native_attention"] is True


def test_the_torchscript_exporter_ends_at_22():
    with pytest.raises(OpsetError, match=r"asked for opset 23 with the TorchScript exporter, which ends at 22: use"):
        ExportOptions(opset=23, exporter="torchscript")


def test_auto_falls_back_both_ways_and_records_why(tmp_path):
    low = export(Spectrum(), tmp_path / "a.onnx", inputs=parse_inputs(["1x3x8x6"]), opset=17, simplify=False)
    assert low.record["exporter"] == "dynamo"
    assert "torchscript failed" in low.record["exporter_reason"]
    assert "Fourier" in low.record["exporter_reason"]
    high = export(WarpsByAffineGrid(), tmp_path / "b.onnx", inputs=parse_inputs(["1x3x8x6"]), opset=20, simplify=False)
    assert high.record["exporter"] == "torchscript"
    assert "dynamo failed" in high.record["exporter_reason"]
