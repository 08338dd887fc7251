"""Profiles: every row has a number with its evidence, and what is not proven gets none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import attn_deploy
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.subject import make_subject
from attn_deploy.errors import InvalidRequestError, ProviderError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.runtimes import table as runtimes
from export_tests.bench.small_profiles import FILE_INPUT, QUICK, text_of, write_file
from export_tests.bench.small_profiles import folder as folder
from export_tests.bench.small_profiles import net as net
from export_tests.bench.small_profiles import record as record


def test_every_row_has_a_number_and_its_evidence(record):
    assert record.passed
    assert [(r.runtime, r.batch) for r in record.rows] == [("eager", 1), ("ort-cpu", 1), ("eager", 3), ("ort-cpu", 3)]
    for row in record.rows:
        assert row.shapes == {"x": (row.batch, 3, 16, 16)}
        assert row.latency.n >= 48
        assert row.latency.p50_ms > 0
        assert row.cold.load_seconds > 0
        assert row.cold.first_run_seconds > 0
        assert row.info.threads == 1
        assert row.info.precision == "float32"
    assert {len(r.latency.rounds) for r in record.rows} == {QUICK.rounds}


def test_the_candidate_is_compared_at_exactly_the_timed_shape(record):
    for row in record.rows:
        if row.runtime == "eager":
            assert row.parity is None
            assert row.speedup is None
        else:
            assert {tuple(c.shapes["x"]) for c in row.parity.cases} == {(row.batch, 3, 16, 16)}
            assert row.parity.passed
            assert row.parity.max_abs_error < 1e-5
            assert row.speedup.interval.low <= row.speedup.speedup <= row.speedup.interval.high


def test_the_record_survives_its_file(record, tmp_path):
    record.write(tmp_path / "record.json")
    assert ProfileRecord.read(tmp_path / "record.json") == record
    data = json.loads((tmp_path / "record.json").read_text())
    assert data["schema_version"] == 2
    assert data["rows"][1]["summary"]["p50_ms"] == record.rows[1].latency.p50_ms
    assert data["rows"][1]["summary"]["n"] == sum(map(len, data["rows"][1]["latency"]["rounds"]))
    assert data["environment"]["packages"]["torch"] == torch.__version__
    assert data["onnx"][0]["opset"] == 17
    assert list(tmp_path.iterdir()) == [tmp_path / "record.json"]
    assert len((tmp_path / "record.json").read_text().splitlines()) < 1000  # samples stand on few lines


def test_a_model_of_a_file_has_the_same_name_in_every_folder(tmp_path):
    code = "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 4)\n"
    names = set()
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        (place / "net.py").write_text(code)
        names.add(make_subject(f"{place}/net.py:Net", inputs=parse_inputs(["1x4"])).name)
    assert names == {"net.py:Net"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not JSON"),
        ("[]", "holds a list"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1}', r"x\.json cannot be read as a profile record: name is missing"),
    ],
)
def test_other_files_are_no_records(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidRequestError, match=message):
        ProfileRecord.read(tmp_path / "x.json")


def test_a_file_with_wrong_numbers_gets_none(net, folder):
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "wrong.onnx", options=QUICK)
    eager, ort = record.rows
    assert eager.status == "ok"
    assert (ort.status, ort.latency, ort.speedup) == ("invalid", None, None)
    assert "disagree" in ort.reason
    assert ort.parity.max_abs_error == pytest.approx(0.01, rel=1e-3)
    assert not record.passed
    shown = text_of(profile_report(record))
    assert "invalid" in shown
    line = next(line for line in shown.splitlines() if "│ ort-cpu" in line)
    assert "ms" not in line
    assert "0.01" in line or "1.0e-02" in line


def test_work_on_another_provider_gets_no_number(net, folder, monkeypatch):
    entry = replace(runtimes.RUNTIMES["ort-cpu"], provider="CUDAExecutionProvider")
    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", entry)
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert record.row("ort-cpu").status == "invalid"
    assert "ran on CPUExecutionProvider" in record.row("ort-cpu").reason
    assert record.row("eager").status == "ok"


def test_a_runner_that_refuses_to_fall_back_is_invalid(net, folder, monkeypatch):
    def make(work):
        raise ProviderError("CUDAExecutionProvider was asked for, and ONNX Runtime fell back to CPUExecutionProvider.")

    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", replace(runtimes.RUNTIMES["ort-cpu"], make=make))
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert (record.row("ort-cpu").status, record.row("ort-cpu").latency) == ("invalid", None)


class Forgetful:
    """A runner whose outputs change while it is timed."""

    def __init__(self, inner):
        self.inner, self.runs = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def enqueue(self):
        self.runs += 1
        self.inner.enqueue()

    def outputs(self):
        return {n: v + (1.0 if self.runs > 30 else 0.0) for n, v in self.inner.outputs().items()}


def test_outputs_that_change_while_timed_get_no_number(net, folder, monkeypatch):
    entry = runtimes.RUNTIMES["ort-cpu"]
    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", replace(entry, make=lambda work: Forgetful(entry.make(work))))
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert record.row("ort-cpu").status == "invalid"
    assert "last timed run" in record.row("ort-cpu").reason


class Small(nn.Module):
    def forward(self, x):
        if x.shape[0] > 1:
            raise RuntimeError("batch 1 only")
        return x * 2


def test_eager_that_fails_takes_only_its_own_shape_along(folder):
    record = attn_deploy.profile(Small(), runtimes=["eager"], inputs=FILE_INPUT, batch=(1, 2), options=QUICK)
    assert [r.status for r in record.rows] == ["ok", "failed"]
    assert record.rows[1].reason == "RuntimeError: batch 1 only"


def test_without_the_reference_a_candidate_is_not_believed(folder):
    record = attn_deploy.profile(
        Small(), runtimes=["ort-cpu"], inputs=FILE_INPUT, batch=(2,), onnx=folder / "right.onnx", options=QUICK
    )
    assert record.rows[0].status == "invalid"
    assert "could not be compared with eager: RuntimeError: batch 1 only" in record.rows[0].reason


def test_a_candidate_alone_is_compared_too(net, folder):
    right, wrong = (
        attn_deploy.profile(net, runtimes=["ort-cpu"], inputs=FILE_INPUT, onnx=folder / name, options=QUICK)
        for name in ("right.onnx", "wrong.onnx")
    )
    assert right.passed
    assert right.baseline is None
    assert right.rows[0].parity.passed
    assert wrong.rows[0].status == "invalid"


def half_file(path, net):
    """The file of a `Net` with the convolution in float16 and an interface in float32."""
    model = onnx.load(write_file(path, net))
    for index, value in enumerate(model.graph.initializer):
        half = numpy_helper.to_array(value).astype(np.float16)
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(half, value.name))
    conv, relu = model.graph.node
    conv.input[0], relu.output[0] = "x16", "y16"
    casts = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
    ]
    nodes = [casts[0], conv, relu, casts[1]]
    graph = helper.make_graph(nodes, "half", model.graph.input, model.graph.output, model.graph.initializer)
    onnx.save(helper.make_model(graph, opset_imports=model.opset_import, ir_version=8), path)
    return path


def test_half_precision_is_found_in_the_weights_and_judged_as_such(net, tmp_path):
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=half_file(tmp_path / "half.onnx", net), options=QUICK)
    row = record.row("ort-cpu")
    assert row.status == "ok", row.reason
    assert row.info.precision == "float16"
    assert row.parity.rtol == TOLERANCES["float16"].rtol
    assert 1e-5 < row.parity.max_abs_error < 1e-2
    assert record.row("eager").info.precision == "float32"


def test_inputs_of_both_sides_are_the_same(net, folder):
    """Eager takes inputs in order, ONNX Runtime by name; a file under other names is bound in order."""
    model = onnx.load(folder / "right.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
    onnx.save(model, folder / "renamed.onnx")
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "renamed.onnx", options=QUICK)
    assert record.passed
    assert record.row("eager").shapes == {"pixels": (1, 3, 16, 16)}
    assert np.isfinite(record.row("eager").latency.p50_ms)
