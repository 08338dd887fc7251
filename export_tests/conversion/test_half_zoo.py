"""The zoo in half precision: exported, compared, read back and built for the supported GPUs without one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from attn_deploy import build
from attn_deploy.errors import PrecisionError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.registry import ModelSpec
from attn_deploy.resolve import catalog

pytestmark = pytest.mark.uncounted  # a sweep over the zoo: tests of single cases reach the same lines, in half the time

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
TYPES = {"fp16": ("float16", onnx.TensorProto.FLOAT16), "bf16": ("bfloat16", onnx.TensorProto.BFLOAT16)}
# Each with another kind of trouble.
DEFAULT = ("se", "condconv")
NOTHING_TO_CONVERT = ("add_coords", "global_avg_pool")  # all they do is measured in positions, or is a mean over them
TARGETS = ("sm86", "sm89", "sm120")
ZOO = [s for s in catalog.import_all() if s.family != "backbone" or s.name in ("resnet8", "resnet18")]


def entries() -> list:
    return [pytest.param(s, id=s.name, marks=[] if s.name in DEFAULT else [pytest.mark.slow]) for s in ZOO]


@pytest.mark.parametrize("spec", entries())
def test_an_entry_in_both_half_precisions(spec: ModelSpec, tmp_path: Path) -> None:
    prepared = prepare(spec.name, narrow=True)
    for precision, (name, number) in TYPES.items():
        path = tmp_path / f"{precision}.onnx"
        io = "same" if spec.name in ("se", "psp") else "fp32"
        options = ExportOptions(opset=22, exporter="torchscript", precision=precision, io=io)
        if spec.name in NOTHING_TO_CONVERT:
            with pytest.raises(PrecisionError, match="no operator of the graph can be"):
                export_prepared(prepared, path, options)
            continue
        artifact = export_prepared(prepared, path, options)
        assert read_onnx(path).opset == 22
        assert artifact.metadata["precision"] == precision
        record = artifact.record
        assert (record["precision"], record["parity"]["rtol"]) == (precision, TOLERANCES[name].rtol)
        model = load_model(path)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        held = {v.type.tensor_type.elem_type for v in inferred.value_info}
        held |= {v.type.tensor_type.elem_type for v in inferred.output}
        assert number in held
        interface = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
        floats = interface & {onnx.TensorProto.FLOAT, number}
        assert floats == {number if io == "same" else onnx.TensorProto.FLOAT}
        if HAS_RTX:
            engine = build(artifact, tmp_path / f"{precision}.engine", flavor="tensorrt-rtx")
            assert engine.targets == TARGETS
            assert precision in engine.precision.split("+")


def test_products_in_range_need_no_fp32_for_their_range(tmp_path: Path) -> None:
    """The form that is traced for fp16 keeps the Gram matrix in range where inputs reach far."""
    for narrow in (False, True):
        prepared = prepare("danet_cam", narrow=narrow)
        path = tmp_path / f"{narrow}.onnx"
        export_prepared(prepared, path, ExportOptions(opset=20, exporter="torchscript"))
        assert ("Clip" in read_onnx(path).operators or "Max" in read_onnx(path).operators) == narrow
