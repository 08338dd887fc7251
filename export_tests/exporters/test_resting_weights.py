"""While ONNX Runtime has a network's weights, eager mode has them only where nobody waits for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_deploy.exporters import pipeline
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.prepare import prepare
from attn_deploy.fusing import copying
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.reference import EagerReference, FreshRunner
from attn_deploy.parity.verify import verify_against
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

WIDTH = 192
INPUTS = parse_inputs([f"2x5x{WIDTH}"])
SOURCE = f'''
import torch
from torch import nn


class Net(nn.Module):
    """Attention has weights that the exporter transposes, and reads as arrays."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention({WIDTH}, 4, batch_first=True)
        self.out = nn.Linear({WIDTH}, {WIDTH})

    def forward(self, x):
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


ready = Net().eval()
'''


@pytest.fixture
def network(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(copying, "LARGE", 1 << 16)
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def held(monkeypatch) -> dict[str, list[int]]:
    """The bytes of the reference's weights when the simplifier starts, and at each run of ONNX Runtime."""
    seen: dict[str, list[int]] = {"simplifier": [], "runs": [], "loads": []}
    references: list[EagerReference] = []
    made, simplify = EagerReference.__init__, pipeline.simplify_model

    def remembering(self, *arguments, **settings) -> None:
        made(self, *arguments, **settings)
        references.append(self)

    def held_now() -> int:
        return sum(p.untyped_storage().nbytes() for p in references[0]._module.parameters() if p.dim() > 1)

    def run(self, method=OnnxRuntimeRunner.enqueue) -> None:
        seen["runs"].append(held_now())
        method(self)

    def load(self, *arguments, method=OnnxRuntimeRunner.__init__, **settings) -> None:
        seen["loads"].append(held_now())
        method(self, *arguments, **settings)

    def simplifying(model):
        seen["simplifier"].append(held_now())
        return simplify(model)

    monkeypatch.setattr(EagerReference, "__init__", remembering)
    monkeypatch.setattr(OnnxRuntimeRunner, "enqueue", run)
    monkeypatch.setattr(OnnxRuntimeRunner, "__init__", load)
    monkeypatch.setattr(pipeline, "simplify_model", simplifying)
    return seen


ALL = 4 * (3 * WIDTH * WIDTH + 2 * WIDTH * WIDTH)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_weights_that_only_we_hold_rest_while_the_file_runs(network, held, tmp_path, exporter):
    artifact = export(f"{network}:Net", tmp_path / "net.onnx", inputs=INPUTS, exporter=exporter)
    assert "N" in artifact.dynamic_axes
    assert held["simplifier"] == [0]
    assert held["loads"] == [0]
    assert held["runs"] == [0] * 5


NORMED = f'''
import torch
from torch import nn


class Net(nn.Module):
    """Fusing makes new weights of the first convolution, and leaves the second."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d({WIDTH}, {WIDTH}, 3, padding=1)
        self.norm = nn.BatchNorm2d({WIDTH})
        self.second = nn.Conv2d({WIDTH}, {WIDTH}, 3, padding=1)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


ready = Net().eval()
'''


@pytest.mark.parametrize("name", ["Net", "ready"])
def test_the_weights_of_the_fused_form_rest_as_well_and_those_of_a_given_module_do_not(
    network, tmp_path, monkeypatch, name
):
    network.write_text(NORMED)
    prepared = prepare(f"{network}:{name}", inputs=parse_inputs([f"2x{WIDTH}x6x7"]))
    before = {n: t.clone() for n, t in prepared.module.state_dict().items()}
    seen: list[tuple[int, ...]] = []

    def run(self, method=OnnxRuntimeRunner.enqueue) -> None:
        convolutions = (prepared.original.first, prepared.module.first, prepared.module.second)
        seen.append(tuple(c.weight.untyped_storage().nbytes() for c in convolutions))
        method(self)

    monkeypatch.setattr(OnnxRuntimeRunner, "enqueue", run)
    options = pipeline.ExportOptions.asked(opset=17, precision="fp32")
    pipeline.export_prepared(prepared, tmp_path / "net.onnx", options)
    size = 0 if name == "Net" else WIDTH * WIDTH * 9 * 4
    assert set(seen) == {(size, 0, size)}
    assert all(torch.equal(t, before[n]) for n, t in prepared.module.state_dict().items())


def test_a_module_that_somebody_holds_keeps_its_weights(network, held, tmp_path):
    namespace: dict[str, type[nn.Module]] = {}
    exec(compile(SOURCE, str(network), "exec"), namespace)
    model = namespace["Net"]().eval()
    export(model, tmp_path / "given.onnx", inputs=INPUTS)
    export(f"{network}:ready", tmp_path / "ready.onnx", inputs=INPUTS)
    assert held["simplifier"] == [ALL, ALL]
    assert set(held["runs"]) == {ALL}


def test_after_the_proof_the_model_is_as_it_was(network, tmp_path):
    prepared = prepare(f"{network}:Net", inputs=INPUTS)
    before = {n: t.clone() for n, t in prepared.original.state_dict().items()}
    for opset in (17, 20):
        options = pipeline.ExportOptions.asked(opset=opset, precision="fp32")
        pipeline.export_prepared(prepared, tmp_path / f"{opset}.onnx", options)
    assert all(torch.equal(t, before[n]) for n, t in prepared.original.state_dict().items())


def test_a_judge_in_float64_elsewhere_leaves_the_weights_where_they_are(network):
    """As diagnose and profile ask for it: what they run next shares the weights."""
    prepared = prepare(f"{network}:Net", inputs=INPUTS)
    arrays = prepared.reference.runner._inputs
    run_once(prepared.reference.rounding.precise(), arrays)
    assert sum(p.untyped_storage().nbytes() for p in prepared.module.parameters() if p.dim() > 1) == ALL
    with torch.no_grad():
        assert prepared.module(*(torch.from_numpy(a) for a in arrays.values())).isfinite().all()


class Cancelling(nn.Module):
    """Sums that nearly cancel: every runtime rounds them otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return (300 * y).sum((1, 2)) - 300 * self.layer(x.flip(2).flip(2)).sum(1).sum(1) + y.mean((1, 2))


def test_the_session_is_closed_while_the_model_runs_in_float64(monkeypatch, tmp_path):
    monkeypatch.setattr(copying, "LARGE", 1 << 16)
    torch.manual_seed(0)
    model = Cancelling().eval()
    path = tmp_path / "net.onnx"
    export(model, path, inputs=INPUTS, dynamic=["N"], verify=False)
    events: list[str] = []
    closed, load = OnnxRuntimeRunner.close, OnnxRuntimeRunner.__init__
    monkeypatch.setattr(OnnxRuntimeRunner, "close", lambda self: (events.append("closed"), closed(self))[1])

    def loading(self, *arguments, **settings) -> None:
        events.append("loaded")
        load(self, *arguments, **settings)

    monkeypatch.setattr(OnnxRuntimeRunner, "__init__", loading)
    fresh = FreshRunner.fresh
    monkeypatch.setattr(
        FreshRunner, "fresh", lambda self: (events.append("float64") if self._precise else None, fresh(self))[1]
    )
    reference = EagerReference(model, ["y"], owned=True)
    weight = model.layer.weight.detach().clone()
    report = verify_against(reference, path, INPUTS, ["N"])
    assert report.passed
    judged = sum(c.noise is not None for c in report.cases)
    assert events.count("float64") == judged + 1 > 2, (
        "a copy for each case, and one for the pair that shows how to run them"
    )
    loaded = 0
    for event in events:
        loaded += {"loaded": 1, "closed": -1, "float64": 0}[event]
        assert loaded == 0 or event != "float64"
    assert loaded == 0
    assert np.array_equal(model.layer.weight.detach(), weight)
