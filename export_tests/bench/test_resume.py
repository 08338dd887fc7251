"""A profile with a folder: what is finished is kept, and a stop loses nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import attn_deploy
from attn_deploy.bench.isolated import ChildMaker
from attn_deploy.bench.make import InlineMaker
from attn_deploy.bench.plan import AccuracyPlan, ProfilePlan, Variant
from attn_deploy.bench.profiler import run_plan
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.store import ProfileStore
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.bench.isolated_runs import INPUT, QUICK, plan_for, profile
from export_tests.bench.isolated_runs import model as model
from export_tests.bench.isolated_runs import run as run


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


def test_a_stop_after_rows_were_kept_tells_of_them(model, tmp_path, monkeypatch):
    plan = plan_for(model, batches=(1, 2))
    store = ProfileStore(tmp_path / "run", plan, resume=False, progress=lambda _: None)
    write = store.write

    def stopped(*given):
        write(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write", stopped)
    record = run_plan(plan, InlineMaker(plan, store.files, progress=lambda _: None), store)
    assert ([r.batch for r in record.rows], record.unfinished) == ([1], 1)
    assert ProfileRecord.read(store.record).rows == record.rows


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


@pytest.mark.slow
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
