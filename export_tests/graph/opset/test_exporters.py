"""What the two exporters really write, converted to every opset and compared at sizes that were not traced."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from attn_deploy.graph.opset import MAX_OPSET, MIN_OPSET, convert_opset, standard_opset
from export_tests.graph.opset.opset_helpers import assert_same, run
from export_tests.graph.opset.opset_models import MODELS, exported, prepared

SIZES = ({"N": 1, "H": 24, "W": 12}, {"N": 3, "H": 12, "W": 28})
SOURCES = [("dynamo", 18), ("dynamo", 20), ("dynamo", 22), ("dynamo", 23), ("torchscript", 18)]
SAMPLE = {  # one source for each model in the default tier; the slow tier has all of them
    "ConvGate": ("dynamo", 18),
    "NonLocal": ("torchscript", 18),
    "MiniViT": ("dynamo", 23),
    "Pyramid": ("dynamo", 20),
    "Activations": ("torchscript", 18),
    "Statistics": ("dynamo", 22),
    "Warp": ("torchscript", 18),
    "Masked": ("torchscript", 18),
}
SAMPLE_TARGETS = (13, 22)


def check(name: str, exporter: str, source: int, target: int) -> None:
    model = exported(name, exporter, source)
    assert standard_opset(model) == source
    result = convert_opset(model, target)
    assert standard_opset(result.model) == target
    onnx.checker.check_model(result.model, full_check=True)
    assert {n.domain for n in result.model.graph.node} <= {"", "ai.onnx"}
    assert not {"If", "Loop", "Scan"} & {n.op_type for n in result.model.graph.node}
    case = prepared(name)
    for sizes in SIZES:
        tensors = case.example(sizes)
        feeds = {i.name: t.numpy() for i, t in zip(case.inputs, tensors, strict=True)}
        what = f"{name} from {exporter} {source} to {target} at {sizes}"
        got = run(result.model, feeds)
        assert_same(run(model, feeds), got, what)
        with torch.inference_mode():
            expected = case.original(*tensors).numpy()
        [found] = got.values()
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale, err_msg=what)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("Activations", "Warp") else ()) for n in SAMPLE]
)
def test_exported_models(name: str) -> None:
    exporter, source = SAMPLE[name]
    for target in SAMPLE_TARGETS:
        check(name, exporter, source, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", range(MIN_OPSET, MAX_OPSET + 1))
@pytest.mark.parametrize(("exporter", "source"), SOURCES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_from_every_exporter_to_every_opset(name: str, exporter: str, source: int, target: int) -> None:
    check(name, exporter, source, target)
