"""TensorRT-RTX builds an engine of every registry entry, in fp32 and in fp16, with a profile that moves its axes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attn_deploy import build, fuse
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import EXEMPLARS, randomize

pytestmark = pytest.mark.uncounted  # a sweep over the zoo: tests of single cases reach the same lines, in half the time

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")

SPECS = catalog.import_all()
TARGETS = "sm86,sm89,sm120"


# By default a quarter of what is hard, in turn in fp32 and in fp16; the slow tier builds all in both.
DEFAULT = {(name, ("fp32", "fp16")[k % 2]) for k, name in enumerate(EXEMPLARS[2::4])}
BUILDS = [
    pytest.param(s, p, id=f"{s.name}-{p}", marks=() if (s.name, p) in DEFAULT else pytest.mark.slow)
    for s in SPECS
    for p in ("fp32", "fp16")
]


def typed_model(spec, precision):
    """The deployed form of a model, its weights and floating-point inputs in ``precision``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resolve(spec.name)
    module = fuse(randomize(model.module))
    if precision == "fp16":
        inputs = tuple(replace(i, dtype="float16") if i.dtype == "float32" else i for i in model.inputs)
        return replace(model, module=module.half(), inputs=inputs)
    return replace(model, module=module)


@pytest.mark.parametrize(("spec", "precision"), BUILDS)
def test_an_engine_builds(spec, precision, tmp_path):
    prepared = prepare(typed_model(spec, precision), fuse=False)
    options = ExportOptions(opset=18, exporter="dynamo", verify=False)
    onnx = export_prepared(prepared, tmp_path / f"{spec.name}.onnx", options)
    engine = build(onnx, targets=TARGETS, timeout=300)
    assert engine.size > 0
    assert engine.targets == tuple(TARGETS.split(","))
    assert {t.name for t in engine.inputs} == {i.name for i in prepared.inputs}
    moving = set(prepared.dynamic)
    assert bool(engine.profiles) == bool(moving)
    dtypes = {t.dtype for t in engine.inputs if t.dtype.startswith("float")}
    assert dtypes == {"float16" if precision == "fp16" else "float32"}
    if engine.network.compute_dtypes:
        assert precision in engine.precision
