"""Whether eight bits pay: timing in turn, and convolutions on large maps that are faster in float."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.conversion import pace
from attn_deploy.conversion.pace import Pace, pace_of, pace_words
from attn_deploy.deploy.quantize import quantize
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.graph.quantize import QuantOptions, quant_format, scheme_for
from attn_deploy.report.quantization import quantization_text
from export_tests.conversion.graphs_from_elsewhere import FLOAT, constant, node, save, value, weights


class Turning:
    """A runner that computes for so many turns."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def enqueue(self) -> None:
        sum(range(self.turns))

    def synchronize(self) -> None: ...

    def close(self) -> None: ...


def test_what_takes_three_times_as_long_is_a_third_as_fast() -> None:
    measured = pace_of(Turning(60_000), Turning(20_000))
    assert 2.0 < measured.ratio < 4.5
    assert measured.low <= measured.ratio <= measured.high
    assert measured.first_ms > measured.second_ms


@pytest.mark.parametrize("standing", [range(10**9), range(0, 10**9, 3)], ids=["always", "now and then"])
def test_a_clock_that_stands_still_is_not_believed(monkeypatch, standing) -> None:
    readings = itertools.count()
    last = [0.0]

    def clock() -> float:
        if next(readings) // 2 not in standing:
            last[0] = time.thread_time()
        return last[0]

    monkeypatch.setattr(pace, "_thread_clock", clock)
    measured = pace_of(Turning(60_000), Turning(20_000))
    assert 1.5 < measured.ratio < 6.0
    assert measured.second_ms > 0.05


def test_a_long_run_is_timed_once(monkeypatch) -> None:
    """Of a large graph each run takes seconds, of which a dozen would be most of a quantization."""
    runs = []

    class Counted(Turning):
        def enqueue(self) -> None:
            runs.append(self.turns)
            super().enqueue()

    monkeypatch.setattr(pace, "_LONG", 0.001)
    monkeypatch.setattr(pace, "_ROUND_SECONDS", 0.0)
    measured = pace_of(Counted(600_000), Counted(200_000))
    assert runs == [600_000, 200_000]
    assert 1.5 < measured.ratio < 6.0
    assert measured.low == measured.ratio == measured.high


def gated(path: Path) -> Path:
    """Two convolutions on a large map, a gate from its mean, and two on a smaller one."""

    def convolution(name: str, source: str, to: str, **settings: object) -> object:
        return node("Conv", [source, f"w_{name}", f"b_{name}"], [to], name=name, **settings)

    nodes = [
        convolution("stem", "x", "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["mean"]),
        convolution("gate", "mean", "g"),
        node("Sigmoid", ["g"], ["s"]),
        node("Mul", ["b", "s"], ["m"]),
        convolution("down", "m", "d", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["d"], ["e"]),
        convolution("last", "e", "y"),
    ]
    shapes = {"stem": (8, 3, 3, 3), "gate": (8, 8, 1, 1), "down": (16, 8, 3, 3), "last": (4, 16, 1, 1)}
    constants = [weights(f"w_{n}", *s) for n, s in shapes.items()]
    constants += [constant(f"b_{n}", np.zeros(s[0])) for n, s in shapes.items()]
    return save(path, nodes, [value("x", FLOAT, ["N", 3, 32, 32])], [value("y", FLOAT, ["N", 4, 16, 16])], constants)


def test_layers_are_grouped_by_the_size_of_their_maps(tmp_path):
    form = quant_format("int8")
    scheme = scheme_for(load_model(gated(tmp_path / "g.onnx")), form, QuantOptions(target="cpu"))
    groups = pace._by_map(scheme.prepared, scheme.plan.layers, {"x": (1, 3, 32, 32)})
    assert groups == [{"stem", "gate"}]  # the gate with what it gates, and never all of them


def scripted(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> None:
    left = iter(ratios)

    def next_pace(*_: object) -> Pace:
        ratio = next(left)
        return Pace(ratio, ratio, ratio, 2.0, 2.0 / ratio)

    monkeypatch.setattr(pace, "pace_of", next_pace)
    monkeypatch.setattr("attn_deploy.conversion.quantizer.pace_of", next_pace)


def samples(path: Path) -> Path:
    np.savez(path, x=np.random.default_rng(2).standard_normal((16, 3, 32, 32)).astype(np.float32))
    return path


def quantized(tmp_path: Path, **options: object) -> tuple[dict[str, object], str]:
    artifact = quantize(
        gated(tmp_path / "g.onnx"),
        tmp_path / "q.onnx",
        calibration=samples(tmp_path / "c.npz"),
        method="minmax",
        target="cpu",
        **options,  # type: ignore[arg-type]
    )
    record = json.loads(artifact.metadata["quantization"])
    if "speed" in artifact.metadata:
        record["speed"] = json.loads(artifact.metadata["speed"])
    assert "speed" not in read_onnx(artifact.path).metadata  # another in each run
    return record, quantization_text(artifact)


def test_layers_that_are_slower_in_eight_bits_stay_in_float(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 1.2, 1.1)  # slower than float; without the large maps faster than with them; in the end
    record, text = quantized(tmp_path)
    assert {left["node"]: left["reason"] for left in record["left"]} == {
        "stem": "measured faster in float",
        "gate": "measured faster in float",
    }
    assert (record["layers"], record["speed"]["ratio"]) == (2, 1.1)
    assert "1.10x the speed of float here" in text


def test_a_group_that_gains_nothing_stays_in_eight_bits(tmp_path, monkeypatch):
    scripted(monkeypatch, 1.1, 1.01, 1.1)
    assert quantized(tmp_path)[0]["layers"] == 4


@pytest.mark.parametrize(
    ("options", "ratios"), [({}, (1.5, 1.5)), ({"only": ["Conv"]}, (0.5,)), ({"timed": False}, ())]
)
def test_nothing_is_looked_for_where_it_need_not_be(tmp_path, monkeypatch, options, ratios):
    scripted(monkeypatch, *ratios)
    assert quantized(tmp_path, **options)[0]["layers"] == 4


def test_a_file_that_is_slower_says_so(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 1.0, 0.9)
    record, text = quantized(tmp_path)
    assert record["layers"] == 4
    assert "SLOWER than float" in " ".join(text.split())
    assert "SLOWER" not in pace_words({**record["speed"], "ratio": 1.0})


def test_what_is_moved_has_a_range_wherever_the_eight_bits_begin(tmp_path):
    """A Split between convolutions: with the first in float, its parts are the first tensors in 8 bits."""
    nodes = [
        node("Conv", ["x", "w_a"], ["a"], name="first"),
        node("Split", ["a"], ["b", "c"], axis=1, name="parts"),
        node("Conv", ["b", "w_b"], ["d"], name="left"),
        node("Conv", ["c", "w_b"], ["e"], name="right"),
        node("Add", ["d", "e"], ["y"]),
    ]
    constants = [weights("w_a", 8, 3, 1, 1), weights("w_b", 4, 4, 1, 1)]
    source = save(
        tmp_path / "s.onnx", nodes, [value("x", FLOAT, ["N", 3, 8, 8])], [value("y", FLOAT, ["N", 4, 8, 8])], constants
    )
    scheme = scheme_for(load_model(source), quant_format("int8"), QuantOptions(target="cpu"))
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    for name in scheme.names:
        scheme.add(name, images)
    scheme.choose("minmax")
    for without in ((), ("first",), ("left", "right"), ("first", "left")):
        graph = scheme.write(without).model.graph
        assert sum(n.op_type == "Conv" for n in graph.node) == 3
