"""Runs with a folder: rows in processes of their own, what they die of, and going on after a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import attn_deploy
from attn_deploy.bench.fit import Need, need_of
from attn_deploy.bench.isolated import ChildMaker
from attn_deploy.bench.layer_views import layer_views
from attn_deploy.bench.make import InlineMaker
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import AccuracyPlan, ProfilePlan, Variant
from attn_deploy.bench.profiler import run_plan
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.request import plan_profile
from attn_deploy.bench.store import ProfileStore
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs import samples as inputs_module
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import ramped
from attn_deploy.machine import conditions
from attn_deploy.processes import available_memory

QUICK = BenchOptions(
    min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)
INPUT = parse_inputs(["1x3x8x8"])


def write_model(path, nodes, *, weights=(), channels=4):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, "height", "width"])],
        list(weights),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def convolution(channels=4):
    weight = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    return helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), numpy_helper.from_array(weight, "w")


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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    node, weight = convolution()
    return write_model(tmp_path_factory.mktemp("model") / "net.onnx", [node], weights=[weight])


def profile(model, folder, **changes):
    return attn_deploy.profile(model, inputs=INPUT, options=QUICK, save=folder, **changes)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "net"
    return folder, profile(model, folder, batch=(1, 2))


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


def test_what_is_finished_is_not_made_again(run, model, monkeypatch):
    folder, record = run

    def must_not(self, inputs):
        raise AssertionError(f"{inputs} was made again")

    monkeypatch.setattr(ChildMaker, "rows", must_not)
    assert profile(model, folder, batch=(1, 2), resume=True).rows == record.rows


def test_a_folder_in_use_or_of_another_plan_is_refused(run, model):
    folder, _ = run
    with pytest.raises(InvalidRequestError, match="--resume"):
        profile(model, folder, batch=(1, 2))
    with pytest.raises(InvalidRequestError, match=r"another plan: precisions \[''\] became \['fp16'"):
        profile(model, folder, batch=(1, 2), precisions=["fp16"], resume=True)
    with pytest.raises(InvalidRequestError, match="give its folder"):
        attn_deploy.profile(model, inputs=INPUT, options=QUICK, resume=True)


def test_an_output_that_cannot_be_written_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="cannot be created"):
        profile(model, tmp_path / "file" / "run")


def plan_for(model, **changes):
    return ProfilePlan(model=str(model), runtimes=("ort-cpu",), options=QUICK, inputs=INPUT, **changes)


class Stopped(InlineMaker):
    """A maker that somebody stops at the second shape."""

    made = 0

    def rows(self, inputs):
        if self.made == 1:
            raise KeyboardInterrupt
        self.made += 1
        return super().rows(inputs)


def test_a_stop_keeps_what_is_done_and_broken_rows_are_made_again(model, tmp_path):
    plan = plan_for(model, batches=(1, 2, 3))
    texts = []
    store = ProfileStore(tmp_path / "run", plan, resume=False, progress=texts.append)
    stopped = run_plan(plan, Stopped(plan, store.files, progress=texts.append), store)
    assert (len(stopped.rows), stopped.unfinished, stopped.passed) == (1, 2, False)
    assert ProfileRecord.read(store.record).unfinished == 2

    (tmp_path / "run" / "rows" / "b1-default.json").write_text('{"made_in": {')
    steps = []
    store = ProfileStore(tmp_path / "run", plan, resume=True, progress=texts.append)
    whole = run_plan(
        plan, InlineMaker(plan, store.files, progress=texts.append), store, on_step=lambda *given: steps.append(given)
    )
    assert whole.passed
    assert [r.batch for r in whole.rows] == [1, 2, 3]
    assert any("b1-default.json is not JSON" in line for line in texts)
    assert [s[:2] for s in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_without_a_folder_a_stop_is_a_stop(model, tmp_path):
    plan = plan_for(model, batches=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, Stopped(plan, tmp_path, progress=lambda _: None), None)


def test_rows_of_other_versions_are_made_again(model, tmp_path):
    plan = plan_for(model)
    texts = []
    store = ProfileStore(tmp_path / "run", plan, resume=False, progress=texts.append)
    record = run_plan(plan, InlineMaker(plan, store.files, progress=texts.append), store)
    shape = plan.shapes[0]
    assert store.read(shape, record.environment) == list(record.rows)
    newer = replace(record.environment, packages={**record.environment.packages, "onnxruntime": "9.9"})
    assert store.read(shape, newer) is None
    assert "other versions" in texts[-1]


def test_a_batch_that_does_not_fit_in_memory_is_a_row(tmp_path):
    node, weight = convolution(256)
    path = write_model(tmp_path / "wide.onnx", [node], weights=[weight], channels=256)
    record = profile(path, tmp_path / "run", batch=(1, 40_000, 4_000_000), memory_limit=1 << 30)
    small, middle, large = record.rows
    assert small.status == "ok", small.reason
    assert (middle.status, large.status) == ("failed", "failed")
    assert "llocate" in middle.reason  # the input fits, the output of 2.6 GB does not
    assert "llocate" in large.reason  # the input alone is 3 GB
    assert "ONNX Runtime failed" in middle.reason


BIG = """
from torch import nn
class Big(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, padding=1)
    def forward(self, x):
        return self.conv(x).mean((2, 3))
"""


def test_what_cannot_fit_is_refused_before_its_inputs_are_made(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(BIG)
    name, inputs, limit = f"{tmp_path / 'net.py'}:Big", parse_inputs(["1x3x64x64"]), 32 << 30

    def must_not(self, inputs):
        raise AssertionError(f"{inputs} was tried")

    monkeypatch.setattr(ChildMaker, "rows", must_not)
    monkeypatch.setattr(InlineMaker, "rows", must_not)
    for save in (None, tmp_path / "run"):
        started = time.monotonic()
        record = attn_deploy.profile(
            name, inputs=inputs, batch=(100_000,), options=QUICK, memory_limit=limit, save=save
        )
        assert time.monotonic() - started < 60, "to tell it takes seconds"
        assert [r.status for r in record.rows] == ["failed", "failed"]
        for row in record.rows:
            assert "does not fit in memory: the inputs need" in row.reason
            assert "the output of its largest layer 104.9 GB, and 34.4 GB can be allocated" in row.reason


def test_layers_of_what_cannot_fit_are_not_looked_at():
    plan = plan_profile("resnet8", runtimes=["eager"], batch=[2_000_000], memory_limit=1 << 30)
    found = layer_views(plan)
    assert not found.reports
    assert "does not fit in memory" in found.missing["eager fp32"]


def test_the_least_memory_of_a_shape_is_no_more_than_what_is_surely_held():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten())
    inputs = parse_inputs(["100000x3x16x16"])
    own = 100_000 * 3 * 256 * 4
    eager, both = (Variant("eager"),), (Variant("eager"), Variant("ort-cpu"))
    layer = 100_000 * 8 * 256 * 4
    assert need_of(net, inputs, eager, "cpu", together=False) == Need(2 * own, layer)
    assert need_of(net, inputs, both, "cpu", together=False) == Need(own, layer)
    assert need_of(net, inputs, both, "cpu", together=True) == Need(3 * own, layer)
    assert need_of(net, inputs, (Variant("eager", "bf16"),), "cpu", together=False) == Need(2 * own, layer // 2)
    assert need_of(net, inputs, both, "cuda", together=True) == Need(own)
    assert need_of(None, inputs, both[1:], "cpu", together=True) == Need(own)
    looks = torch.nn.Sequential(net[0], Looks())
    assert need_of(looks, inputs, eager, "cpu", together=False) == Need(2 * own, layer)
    assert Need(10, 5).refusal(15) == Need(10, 5).refusal(None) == ""


class Looks(torch.nn.Module):
    """Cannot be run without values."""

    def forward(self, x):
        return x if x.sum().item() > 0 else -x


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_a_large_test_tensor_is_the_same_drawn_in_parts(dtype, monkeypatch):
    whole = ramped((7, 3, 5, 4), dtype, seed=3)
    monkeypatch.setattr(inputs_module, "_AT_A_TIME", 130)
    assert np.array_equal(ramped((7, 3, 5, 4), dtype, seed=3), whole)


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


def test_a_plan_survives_json_and_tells_what_differs(model):
    plan = plan_for(model, batches=(None, 8), sizes=((8, 8), None), dynamic=("N",))
    again = ProfilePlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.differences(plan) == []
    assert again.differences(replace(plan, batches=(1,))) == []
    assert again.differences(replace(plan, tf32=True)) == ["tf32 True became False"]
    other = replace(plan, options=replace(plan.options, seed=3), accuracy=AccuracyPlan(dataset="digits", images=10))
    assert other.differences(plan)[0] == "seed 0 became 3"
    assert "accuracy.dataset None became digits" in other.differences(plan)
    fewer = replace(other, accuracy=AccuracyPlan(dataset="digits", images=5))
    assert fewer.differences(other) == ["accuracy.images 10 became 5"]
    wide = replace(plan, inputs=parse_inputs(["1x3x9x9"]))
    assert wide.differences(plan) == ["inputs.x [1, 3, 8, 8] became [1, 3, 9, 9]"]
    long = [replace(plan, weights="w" * 90 + end) for end in "ab"]
    assert long[0].differences(long[1]) == [f"weights {'w' * 90}b became {'w' * 90}a"]
    assert [s.key for s in plan.shapes] == ["bdefault-8x8", "b8-8x8", "bdefault-default", "b8-default"]


def test_the_plan_is_the_product_without_what_nobody_has():
    plan = ProfilePlan(
        model="se", runtimes=("eager", "ort-cpu"), precisions=("fp32", "int8"), cuda_graphs=(False, True)
    )
    assert [v.key for v in plan.variants] == ["eager fp32", "eager fp32 cuda-graph", "ort-cpu fp32", "ort-cpu int8"]
    assert Variant("eager", "int8") in replace(plan, runtimes=("eager",), precisions=("int8",)).variants


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


def test_ctrl_c_at_the_command_line(model, tmp_path):
    folder = tmp_path / "run"
    code = "from attn_deploy.cli import main; main()"
    batches = ",".join(str(n) for n in range(1, 4))
    options = ["--input", "1x3x8x8", "--batch", batches, "--seconds", "0.05", "--threads", "1", "--no-memory"]
    command = [sys.executable, "-c", code, "profile", str(model), *options, "--save", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(attn_deploy.__file__).parent.parent)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (folder / "rows" / "b1-default.json").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "--resume" in said
    record = ProfileRecord.read(folder / "record.json")
    assert 1 <= len(record.rows) < 3
    assert record.unfinished == 3 - len(record.rows)
    done = subprocess.run(
        [*command, "--resume", "--json"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 3


def test_peak_memory_is_of_what_was_held():
    conditions.forget_peak()
    before = conditions.peak_host_memory()
    held = np.ones(10_000_000)
    assert conditions.peak_host_memory() - before > 0.9 * held.nbytes
    assert available_memory() > 1 << 20


def test_the_machine_now():
    state = conditions.machine_state()
    assert state.load_average >= 0
    assert state.cpu_mhz is None or state.cpu_mhz > 100
