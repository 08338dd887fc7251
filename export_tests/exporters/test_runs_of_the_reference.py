"""What the export runs in eager mode: each set of inputs once."""

from __future__ import annotations

from torch import nn

from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.reference import FreshRunner


def test_no_inputs_are_run_twice_by_the_reference(monkeypatch, tmp_path):
    seen: list[bytes] = []
    prepare = FreshRunner.prepare

    def prepared(self, inputs):
        seen.append(b"".join(a.tobytes() for a in inputs.values()))
        prepare(self, inputs)

    monkeypatch.setattr(FreshRunner, "prepare", prepared)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    artifact = export(model, tmp_path / "m.onnx", inputs=parse_inputs(["1x3x24x20"]))
    assert {"N", "H", "W"} <= set(artifact.dynamic_axes)
    assert len(seen) == len(set(seen))
    assert (
        len(seen) == 5
    )  # the sizes of the proof but the first, which the first run was at; and other values at one of them
