"""Rows in processes of their own: what they measure, and what they die of."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import attn_deploy
from attn_deploy.bench.isolated import ChildMaker
from attn_deploy.bench.plan import ProfilePlan, Variant
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.machine import conditions
from attn_deploy.processes import available_memory
from export_tests.bench.isolated_runs import INPUT, QUICK, profile, write_model
from export_tests.bench.isolated_runs import model as model
from export_tests.bench.isolated_runs import run as run


def endless_loop():
    """A graph that counts to 2**40 times its input's size, which shows in a run only, before it gives its input back."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Neg", ["held"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    many, yes = np.array(2**40, np.int64), np.array(True)
    weights = [numpy_helper.from_array(many, "many"), numpy_helper.from_array(yes, "yes")]
    count = [helper.make_node("Size", ["x"], ["size"]), helper.make_node("Mul", ["size", "many"], ["count"])]
    return [*count, helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)], weights


def test_rows_of_their_own_processes_have_memory_and_imports(run):
    folder, record = run
    assert record.passed, [r.reason for r in record.rows]
    assert [r.key for r in record.rows] == ["ort-cpu fp32 b1 8x8", "ort-cpu fp32 b2 8x8"]
    for row in record.rows:
        assert row.memory.host > row.memory.host_before > 10 << 20
        assert row.memory.device is None
        assert row.cold.import_seconds > 0
        assert row.placement.share == 1.0
        assert row.end_to_end.p50_ms > row.latency.p50_ms
        assert row.conditions.before.load_average is not None
        assert len(row.graph.sha256) == 64
    assert ProfileRecord.read(folder / "record.json") == record
    assert str(folder) not in json.dumps([{**r, "reason": ""} for r in record.to_dict()["rows"]])


def test_a_hang_is_a_row(tmp_path):
    nodes, weights = endless_loop()
    path = write_model(tmp_path / "endless.onnx", nodes, weights=weights, channels=3)
    record = profile(path, tmp_path / "run", timeout=4)
    assert (record.rows[0].status, record.rows[0].latency) == ("failed", None)
    assert "starting ort-cpu fp32 took longer than 4 s and was stopped" in record.rows[0].reason


def test_what_is_not_finite_gets_no_number(tmp_path):
    path = write_model(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])], channels=3)
    record = attn_deploy.profile(path, inputs=INPUT, options=QUICK)
    assert record.rows[0].status == "invalid"
    assert "NaN or infinite" in record.rows[0].reason


@pytest.mark.parametrize("answer", ["text", None, [], {}])
def test_a_model_that_gives_no_tensor_gets_no_number(answer):
    class Mute(torch.nn.Module):
        def forward(self, x):
            return answer

    record = attn_deploy.profile(Mute(), inputs=INPUT, runtimes=("eager",), options=QUICK)
    assert (record.rows[0].status, record.rows[0].latency) == ("invalid", None)
    assert "it gives no tensor" in record.rows[0].reason


def test_the_trail_names_the_row_that_a_process_died_of(model, tmp_path):
    plan = ProfilePlan(model=str(model), runtimes=("eager", "ort-cpu"), options=QUICK, inputs=INPUT)
    maker = ChildMaker(plan, tmp_path, memory=False, progress=lambda _: None)
    left = list(plan.variants)
    rows = {v.key: None for v in left}
    from attn_deploy.bench.group import blank_row
    from attn_deploy.errors import WorkerError
    from attn_deploy.processes import death_of

    rows = {v.key: blank_row(v, INPUT) for v in left}
    error = WorkerError(f"timing {death_of(-9)}")
    assert maker._blame(error, left, rows, "eager fp32") == [Variant("ort-cpu")]
    assert "SIGKILL" in rows["eager fp32"].reason
    assert "killed it: out of memory" in rows["eager fp32"].reason
    assert rows["ort-cpu fp32"].reason == ""
    assert maker._blame(error, left, rows, "") == []


CRASHING = """
import os, torch
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        if x.dtype == torch.bfloat16:
            os.abort()
        return torch.relu(x)
"""


@pytest.mark.slow
@pytest.mark.parametrize("memory", [True, False])
def test_a_crash_is_a_row_and_the_others_go_on(tmp_path, memory):
    (tmp_path / "net.py").write_text(CRASHING)
    record = attn_deploy.profile(
        f"{tmp_path / 'net.py'}:Net",
        runtimes=["eager"],
        precisions=["fp32", "bf16", "fp16"],
        inputs=INPUT,
        options=QUICK,
        save=tmp_path / "run",
        memory=memory,
    )
    assert [r.status for r in record.rows] == ["ok", "failed", "ok"], [r.reason for r in record.rows]
    assert "SIGABRT" in record.row("eager", precision="bf16").reason


def test_peak_memory_is_of_what_was_held():
    """In a process of its own: of a large one the system may take idle pages back meanwhile, as much as is held."""
    program = (
        "import numpy as np\nfrom attn_deploy.machine import conditions\nconditions.forget_peak()\n"
        "before = conditions.peak_host_memory()\nheld = np.ones(10_000_000)\n"
        "print((conditions.peak_host_memory() - before) / held.nbytes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.5
    assert available_memory() > 1 << 20


def test_the_machine_now():
    state = conditions.machine_state()
    assert state.load_average >= 0
    assert state.cpu_mhz is None or state.cpu_mhz > 100
