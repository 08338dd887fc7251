"""Per-layer views: times that add up, under the modules that they belong to."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.bench.layers import LayerReport, LayerTime, enclosing, middle, write_layers
from attn_deploy.bench.layers_onnxruntime import onnxruntime_layers
from attn_deploy.bench.layers_tensorrt import common_module, layers_of_report, profiled_layers
from attn_deploy.bench.layers_torch import torch_layers
from attn_deploy.cli import app
from attn_deploy.comparison.collection import read_runs
from attn_deploy.engine.scopes import NodePlace
from attn_deploy.errors import GraphError
from attn_deploy.report.layers_text import layers_text
from attn_deploy.report.profile.charts import layers as icicle
from export_tests.bench.profile_records import layer_report


class Uneven(nn.Module):
    """A heavy part, a light part, and something in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.light = nn.Conv2d(3, 8, 1)
        self.heavy = nn.Sequential(nn.Conv2d(8, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1))

    def forward(self, x):
        return self.heavy(self.light(x)).mean((2, 3)) * 2


@pytest.fixture(scope="module")
def uneven():
    torch.manual_seed(0)
    return Uneven().eval()


@pytest.fixture(scope="module", params=["dynamo", "torchscript"])
def exported(request, uneven, tmp_path_factory):
    from attn_deploy.inputs.grammar import parse_inputs

    path = tmp_path_factory.mktemp("layers") / "uneven.onnx"
    return attn_deploy.export(uneven, path, exporter=request.param, inputs=parse_inputs(["1x3x32x32"])).path


ARRAYS = {"x": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}


def times_of(report):
    return {m.module: m.microseconds for m in report.modules}


def check(report):
    times = times_of(report)
    assert times[""] == pytest.approx(report.total_us)
    assert times["heavy"] == pytest.approx(sum(t for m, t in times.items() if m.startswith("heavy.")))
    assert times["heavy.2"] > times["heavy.0"] > 0, "96 channels in, not 8"
    assert times["heavy"] > 5 * times["light"]
    assert report.shapes == {"x": (1, 3, 32, 32)}


def test_onnxruntime_nodes_lie_under_their_modules(exported):
    name = attn_deploy.inspect(exported).artifact.inputs[0].name
    report = onnxruntime_layers(exported, {name: ARRAYS["x"]}, name="uneven", threads=1, runs=12)
    assert {m for m in times_of(report) if m} <= {"light", "heavy", "heavy.0", "heavy.1", "heavy.2"}
    assert report.known_share == 1, "fused products and changes of layout are led back too"
    assert 0.4 * report.whole_us < report.total_us < 1.3 * report.whole_us
    assert report.runtime == "ort-cpu"
    assert {"Conv"} <= {x.operator for x in report.slowest(2)}
    report = LayerReport.from_dict({**json.loads(json.dumps(report.to_dict())), "shapes": {"x": [1, 3, 32, 32]}})
    check(report)


def test_the_profiler_of_torch_says_nothing(uneven, capfd):
    torch_layers(uneven, {"x": np.zeros((1, 3, 16, 16), np.float32)}, name="uneven", runs=1)
    assert capfd.readouterr().err == ""


def test_eager_operators_lie_under_their_modules(uneven):
    report = torch_layers(uneven, ARRAYS, name="uneven", threads=1, runs=12)
    check(report)
    assert report.known_share == 1
    assert {x.operator for x in report.layers if x.module == ""} >= {"mean", "mul"}
    assert sum(x.operator == "conv2d" for x in report.layers) == 3, "what an operator calls is not counted twice"
    assert report.total_us < 1.3 * report.whole_us
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in uneven.modules())


def test_a_file_that_does_not_run_is_refused(tmp_path, exported):
    with pytest.raises(GraphError, match="could not profile"):
        onnxruntime_layers(exported, {"x": np.zeros((1, 5, 8, 8), np.float32)}, name="x", runs=1)


def test_the_middle_half_leaves_disturbances_out():
    assert middle([10, 11, 10, 11, 900, 10, 11, 1]) == pytest.approx(10.5)
    assert middle([3.0]) == 3.0


def test_enclosing_modules_are_told_outermost_first():
    assert enclosing("a.b.0") == ["", "a", "a.b", "a.b.0"]
    assert enclosing("") == [""]


def test_the_flame_adds_up():
    report = layer_report()
    trace = icicle(report)["data"][0]
    values, children = dict(zip(trace["ids"], trace["values"], strict=True)), {}
    for name, parent in zip(trace["ids"], trace["parents"], strict=True):
        children.setdefault(parent, []).append(values[name])
    assert len(set(trace["ids"])) == len(trace["ids"])
    assert children[""] == [report.total_us]
    for parent, parts in children.items():
        if parent:
            assert sum(parts) == pytest.approx(values[parent]), "no gap and no overflow, which plotly would not draw"


def test_the_text_shows_the_tree_and_the_slowest():
    text = layers_text(layer_report())
    lines = text.splitlines()
    assert "6,808 us" in lines[0]
    order = [line.split()[0] for line in lines[2:] if " %  #" in line]
    assert order[:5] == ["resnet18+se", "conv1", "layer1", "0", "conv1"]
    slowest = lines[lines.index("slowest nodes:") + 1]
    assert slowest.split()[-1] == "layer2.0.conv2"


PLACES = (
    NodePlace("node_conv", "Conv", "stem.conv"),
    NodePlace("node_relu", "Relu", "stem.act"),
    NodePlace("node_conv_1", "Conv", "layer1.0.conv1"),
    NodePlace("node_mul", "Mul", ""),
)


def test_tensorrt_layers_are_told_by_the_nodes_in_their_names():
    reported = [
        ("node_conv + node_relu", 0.2),
        ("{ForeignNode[node_conv_1...node_mul]}", 0.3),
        ("Reformatting CopyNode", 0.1),
    ]
    found = layers_of_report(reported * 4, PLACES, runs=4)
    assert [(x.module, x.operator, x.known) for x in found] == [
        ("stem", "Conv+Relu", True),
        ("", "Conv+Mul", True),
        ("", "layer", False),
    ]
    assert [x.microseconds for x in found] == pytest.approx([200, 300, 100])
    assert common_module(["a.b.c", "a.b.d"]) == "a.b"
    assert common_module(["a.b", "a.bc"]) == "a"
    assert common_module(["a.x.c", "a.y.c"]) == "a"
    assert common_module(["a.b"]) == "a.b"
    assert common_module([]) == ""


def test_the_profiler_of_the_real_library_is_used(tmp_path, exported):
    """The class that TensorRT calls is a subclass of its own; a context that calls it stands in for the GPU."""
    trt = pytest.importorskip("tensorrt_rtx")

    class Context:
        profiler = None

    context = Context()

    def run():
        assert isinstance(context.profiler, trt.IProfiler)
        context.profiler.report_layer_time("whole", 0.5)

    found = profiled_layers(trt, context, run, exported, runs=3)
    assert found == (LayerTime("", "layer", "whole", pytest.approx(500.0), False),)
    assert hasattr(trt.IExecutionContext, "profiler")


def test_profile_shows_layers_and_the_report_finds_them(tmp_path):
    arguments = ["profile", "se", "--layers", "--seconds", "0.01", "--threads", "1", "--save", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*arguments, "--executor", "inline"])
    assert done.exit_code == 0, done.output
    assert "slowest nodes:" in done.stdout
    runs = read_runs([tmp_path / "run"])
    assert [r.runtime for r in runs[0].layers] == ["eager", "ort-cpu"]
    assert all(r.known_share == 1 for r in runs[0].layers)
    graph = next(r.graph for r in runs[0].record.rows if r.runtime == "ort-cpu")
    assert graph.macs > 0, "the work of the exported graph is in the record"
    assert graph.bytes_unfused > graph.bytes_ideal > 2 * 4 * 64 * 32 * 32


@pytest.mark.gpu
def test_eager_kernels_on_a_gpu(uneven):
    check(torch_layers(uneven, ARRAYS, name="uneven", device="cuda", runs=12))


def test_layers_survive_their_file(tmp_path):
    write_layers(tmp_path / "layers.json", [layer_report("a"), layer_report("b")])
    assert LayerReport.read_all(tmp_path / "layers.json") == (layer_report("a"), layer_report("b"))


def test_an_engine_without_a_gpu_is_refused_before_it_is_built(tmp_path):
    from attn_deploy.bench.layer_views import layer_views
    from attn_deploy.bench.request import plan_profile

    found = layer_views(plan_profile("eca", runtimes=["tensorrt-rtx", "compile"], threads=1), runs=1)
    assert not found.reports
    assert "GPU" in found.missing["tensorrt-rtx fp32"] or "not installed" in found.missing["tensorrt-rtx fp32"]
    assert "compile has no per-layer view" in found.missing["compile fp32"]
