"""A backbone with a module in its slots exports like any module: every module that fits, through both exporters."""

from __future__ import annotations

import onnx
import pytest

from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.graph.operators import unlisted_operators
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import randomize

pytestmark = pytest.mark.uncounted  # a sweep over the zoo: tests of single cases reach the same lines, in half the time

MODULES = [s.name for f in ("attention", "convolution", "context", "fusion") for s in registry.list_models(f)]
DEFAULT = ("resnet8+ghostmodule",)
SLOW = [
    *(f"resnet8+{m}" for m in MODULES if f"resnet8+{m}" not in DEFAULT),
    *(f"resnet18+{m}" for m in ("sge", "sk", "pyconv", "danet_pam")),  # too narrow for resnet8, or costly there
    *(f"{b}+eca" for b in ("mobilenet_v2", "shufflenet_v2", "googlenet", "densenet121", "vgg16_bn", "efficientnet_b0")),
]


@pytest.mark.parametrize("name", [*DEFAULT, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_exports(name, tmp_path):
    try:
        model = resolve(name)
    except InvalidRequestError as error:
        pytest.skip(f"does not fit: {error}")
    randomize(model.module)
    ready = prepare(model)
    for exporter, opset in (("dynamo", 18), ("torchscript", 13)):
        path = tmp_path / f"{exporter}.onnx"
        artifact = export_prepared(ready, path, ExportOptions(opset=opset, exporter=exporter, simplify=False))
        assert artifact.opset == opset
        assert set(artifact.dynamic_axes) == set(model.dynamic)
        assert artifact.record["parity"]["cases"] >= 4
        assert unlisted_operators(onnx.load(path)) == []
