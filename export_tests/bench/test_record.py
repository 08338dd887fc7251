"""Records: all that stands beside a latency survives the file, and earlier versions are read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from attn_deploy.bench.evidence import AccuracyRow, Conditions, GraphCost, MemoryPeak, Placement
from attn_deploy.bench.latency import ColdStart, LatencyResult
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.comparison.speed_of_light import row_limits
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.devices import load_device
from attn_deploy.machine.environment import describe_environment
from attn_deploy.machine.state import GpuState, MachineState
from attn_deploy.runtimes.base import RuntimeInfo


def whole_row():
    latency = LatencyResult(((1e6, 2e6), (1.5e6,)), 1, 80.0, 10, 0.3, True)
    gpu = GpuState("NVIDIA L4", 1500, 6251, 61, 70.5, 1 << 30, ("power cap",))
    state = MachineState(0.4, 2445.0, (gpu,))
    return ProfileRow(
        runtime="ort-cuda",
        batch=8,
        shapes={"x": (8, 3, 32, 48)},
        status="ok",
        info=RuntimeInfo("ort-cuda", "1", "CUDAExecutionProvider", "float16", None, {"tf32": False}),
        cold=ColdStart(0.1, 0.2, 1.5, 3.0),
        latency=latency,
        precision="fp16",
        size=(32, 48),
        cuda_graph=True,
        device_time=replace(latency, clock_overhead_ns=0.0),
        end_to_end=latency,
        placement=Placement(
            "CUDAExecutionProvider", {"CUDAExecutionProvider": 9, "CPUExecutionProvider": 1}, {"Shape": 1}
        ),
        memory=MemoryPeak(900, 400, 300),
        accuracy=AccuracyRow("digits", "test", "ab" * 32, 360, 350, "eager fp32", 358, 2, 0, 0.5),
        conditions=Conditions(state, replace(state, load_average=1.0, gpus=(replace(gpu, throttle=()),))),
        graph=GraphCost("cd" * 32, 20, 12, 1_000_000, 5000, 9000),
    )


@pytest.fixture(scope="module")
def record():
    return ProfileRecord("net", describe_environment(), BenchOptions(threads=1), (whole_row(),), None)


def test_everything_beside_a_latency_survives_the_file(record, tmp_path):
    record.write(tmp_path / "r.json")
    assert ProfileRecord.read(tmp_path / "r.json") == record


@pytest.mark.parametrize("name", ["rtx4090", "generic-x86"])
def test_the_device_of_the_floors_survives_the_file(record, tmp_path, name):
    named = replace(record, light=load_device(name))
    named.write(tmp_path / "r.json")
    assert ProfileRecord.read(tmp_path / "r.json") == named
    limits = row_limits(ProfileRecord.read(tmp_path / "r.json"))
    assert {x.device for x in limits.values()} == {name}
    before = {k: v for k, v in json.loads(record.to_json()).items() if k != "light"}
    assert ProfileRecord.from_dict(before) == record


def test_what_is_derived(record):
    row = record.rows[0]
    assert row.key == "ort-cuda fp16 b8 32x48 cuda-graph"
    assert row.placement.share == pytest.approx(0.9)
    assert row.memory.host_added == 500
    assert row.accuracy.top1 == 350 / 360
    assert row.accuracy.agreement == 358 / 360
    assert row.conditions.throttled == ("power cap",)


def test_records_of_the_first_version_are_read(record):
    data = json.loads(record.to_json())
    data["schema_version"] = 1
    old = ("runtime", "batch", "shapes", "status", "reason", "info", "cold", "latency", "parity", "speedup", "noise")
    data["rows"] = [{k: r[k] for k in old} for r in data["rows"]]
    data["rows"][0]["cold"] = {"load_seconds": 0.1, "first_run_seconds": 0.2}
    read = ProfileRecord.from_dict(data)
    assert read.rows[0].latency == record.rows[0].latency
    assert (read.rows[0].precision, read.rows[0].accuracy, read.rows[0].cold.build_seconds) == ("fp32", None, None)


def test_rows_are_found_by_what_was_asked(record):
    assert record.row("ort-cuda", 8, precision="fp16", size=(32, 48)) is record.rows[0]
    with pytest.raises(
        InvalidRequestError, match=r"no row 'ort-cuda' at precision int8; it has ort-cuda fp16 b8 32x48"
    ):
        record.row("ort-cuda", precision="int8")


def test_a_run_that_was_stopped_has_not_passed(record):
    assert record.passed
    assert not replace(record, unfinished=2).passed
