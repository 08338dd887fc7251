"""Converted graphs in TensorRT-RTX, which takes them all, also where it refuses the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import pytest

from attn_deploy.graph.opset import convert_opset
from export_tests.graph.opset import test_attention as test_opset_attention
from export_tests.graph.opset import test_images as test_opset_images
from export_tests.graph.opset import test_operators as test_opset_operators
from export_tests.graph.opset import test_rules as test_opset
from export_tests.graph.opset.opset_helpers import Case
from export_tests.graph.opset.opset_models import exported

trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
# The library keeps the first logger it was given for the whole process: a later one must not outlive it.
LOGGER = trt.Logger(trt.Logger.INTERNAL_ERROR)

CASES = [
    *test_opset.CASES,
    *test_opset_operators.ACTIVATIONS,
    *test_opset_operators.NORMS,
    *test_opset_operators.SAMPLING,
    *test_opset_operators.FUNCTIONS,
    *test_opset_attention.CASES,
    *test_opset_images.RESIZE,
    *test_opset_images.POOLING,
    *test_opset_images.SCATTER,
    *test_opset_images.QUANTIZE,
]
# TensorRT-RTX has neither operator, at any opset.
REWRITTEN = [c for c in CASES if c.rule is not None and not c.name.startswith(("dft", "roialign"))]
# An input that is a shape or a mask needs a profile of its own; values given outright say no shapes.
BUILDABLE = [c for c in REWRITTEN if not c.values and not any(kind in c.inputs for kind in ("int64", "bool"))]
# The parser or the builder refuses the source of these, and takes what it was converted to.
REMEDIES = ("plain", "causal", "grouped", "softcap", "cache", "affinegrid-0", "centercroppad", "resize-antialias-sizes")


class Network:
    """A parsed graph; it holds what the parser needs alive."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.builder = trt.Builder(LOGGER)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(flags)
        self.parser = trt.OnnxParser(self.network, LOGGER)
        self.parsed = self.parser.parse(model.SerializeToString())
        self.errors = [self.parser.get_error(i).desc() for i in range(self.parser.num_errors)]

    def builds(self, shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> bool:
        if not self.parsed:
            return False
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        profile = self.builder.create_optimization_profile()
        for index in range(self.network.num_inputs):
            name = self.network.get_input(index).name
            least, most = (tuple(f(axis) for axis in zip(*shapes[name], strict=True)) for f in (min, max))
            profile.set_shape(name, least, shapes[name][0], most)
        assert config.add_optimization_profile(profile) >= 0
        engine: Any = self.builder.build_serialized_network(self.network, config)
        return engine is not None


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.name}-{c.opset}") for c in REWRITTEN])
def test_converted_graphs_parse(case: Case) -> None:
    network = Network(convert_opset(case.model, min(case.targets)).model)
    assert network.parsed, network.errors


@pytest.mark.parametrize("name", REMEDIES)
def test_what_is_refused_builds_after_conversion(name: str) -> None:
    [case] = [c for c in CASES if c.name == name]
    assert not Network(case.model).builds(case.shapes)
    assert Network(convert_opset(case.model, min(case.targets)).model).builds(case.shapes)


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.name}-{c.opset}") for c in BUILDABLE])
def test_converted_graphs_build(case: Case) -> None:
    assert Network(convert_opset(case.model, min(case.targets)).model).builds(case.shapes)


@pytest.mark.slow
@pytest.mark.parametrize("target", [13, 17, 22, 25])
@pytest.mark.parametrize(("name", "exporter", "source"), [("ConvGate", "dynamo", 18), ("MiniViT", "dynamo", 20)])
def test_exported_models_build(name: str, exporter: str, source: int, target: int) -> None:
    model = convert_opset(exported(name, exporter, source), target).model
    [given] = model.graph.input
    assert Network(model).builds({given.name: [(2, 3, 16, 20), (1, 3, 16, 16), (4, 3, 32, 32)]})
