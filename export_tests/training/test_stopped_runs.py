"""Runs that are stopped, killed or repeated: they go on where they were, or say why they cannot."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.training.checkpoint import TrainingFolder
from export_tests.training.tiny_runs import EPOCHS, Stopped, assert_same_weights, run, weights
from export_tests.training.tiny_runs import tiny as tiny
from export_tests.training.tiny_runs import whole as whole


def test_a_run_stopped_anywhere_ends_at_the_same_weights(tiny, whole, tmp_path):
    steps = 22 * EPOCHS
    generator = random.Random(0)
    done = 0
    for _ in range(10):
        stop = generator.randrange(done * 22 + 1, min(steps, done * 22 + 40))

        def seen(at, stop=stop):
            if at.step == stop:
                raise Stopped

        try:
            run(tiny, tmp_path, resume=True, on_step=seen)
        except Stopped:
            record = TrainingFolder(tmp_path).read_record() if TrainingFolder(tmp_path).begun else {"history": []}
            assert len(record["history"]) in (stop // 22, (stop - 1) // 22), "more than one epoch was lost"
            done = len(record["history"])
        else:
            break
    record = run(tiny, tmp_path, resume=True)
    assert record.finished
    assert_same_weights(tmp_path, whole[1])
    assert record.test["correct"] == whole[0].test["correct"]


@pytest.mark.parametrize("moment", ["before the state", "before the record", "after the record", "at the end"])
def test_a_run_stopped_while_it_saves(tiny, whole, tmp_path, monkeypatch, moment):
    def stop(*args, **settings):
        raise Stopped

    name, patched = {
        "before the state": ("attn_deploy.training.checkpoint.save_file", None),
        "before the record": ("attn_deploy.training.checkpoint.TrainingFolder.write_record", None),
        "after the record": ("pathlib.Path.unlink", "state-0001.safetensors"),
        "at the end": ("attn_deploy.training.checkpoint.TrainingFolder.drop_state", None),
    }[moment]
    real = Path.unlink
    if patched:
        monkeypatch.setattr(name, lambda self, **k: stop() if self.name == patched else real(self, **k))
    else:
        monkeypatch.setattr(name, stop)
    with pytest.raises(Stopped):
        run(tiny, tmp_path)
    monkeypatch.undo()
    run(tiny, tmp_path, resume=True)
    assert_same_weights(tmp_path, whole[1])


def test_another_seed_gives_other_weights(tiny, whole, tmp_path):
    run(tiny, tmp_path, seed=1)
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(tmp_path).values(), weights(whole[1]).values(), strict=True)
    )


def test_a_finished_run_is_returned_as_it_is(tiny, whole):
    def never(_):
        raise AssertionError("a finished run was trained again")

    assert run(tiny, whole[1], resume=True, on_step=never) == whole[0]


def test_two_processes_keep_out_of_one_folder(tiny, tmp_path):
    with TrainingFolder(tmp_path).alone(), pytest.raises(InvalidRequestError, match="another process is training in"):
        run(tiny, tmp_path, epochs=1)
    assert run(tiny, tmp_path, epochs=1).finished


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"resume": False}, "already holds a training run; continue it with --resume"),
        ({"epochs": 5}, "holds a run with recipe .*epochs=4.* and .*epochs=5"),
        ({"seed": 3}, "holds a run with seed 0, and 3 was asked for"),
        ({"model": "resnet8"}, "holds a run with model .*Tiny, and resnet8 was asked for"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_a_folder_of_another_run(tiny, whole, changed, told):
    settings = {"resume": True, "model": tiny, **changed}
    with pytest.raises(InvalidRequestError, match=told):
        run(output=whole[1], **settings)


def stopped_run(tiny, folder):
    def seen(at):
        if at.step == 30:
            raise Stopped

    with pytest.raises(Stopped):
        run(tiny, folder, on_step=seen)
    return folder / "state-0001.safetensors"


def test_a_damaged_state_is_told_from_a_whole_one(tiny, tmp_path):
    state = stopped_run(tiny, tmp_path)
    content = bytearray(state.read_bytes())
    content[-5] ^= 1
    state.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: its sha256 is"):
        run(tiny, tmp_path, resume=True)
    state.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        run(tiny, tmp_path, resume=True)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"record\.json is not JSON"):
        run(tiny, tmp_path, resume=True)
    (tmp_path / "record.json").write_text('{"schema_version": 99}')
    with pytest.raises(CheckpointError, match="schema version 99"):
        run(tiny, tmp_path, resume=True)


# the slow tier

KILLED = """
import sys
from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.run import train

train(
    sys.argv[1], dataset="digits", recipe=recipe_for("digits", epochs=40), output=sys.argv[2], resume=True, threads=1,
    on_step=lambda at: print(at.epoch, flush=True),
)
"""


@pytest.mark.slow
def test_a_killed_run_ends_at_the_same_weights(tiny, tmp_path):
    """SIGKILL at ten random moments; the run goes on each time, from the epoch that it was in."""

    def started(folder, log):
        """The process, and when its first step was done."""
        with log.open("w") as out:
            child = subprocess.Popen(
                [sys.executable, "-c", KILLED, tiny, str(folder)], stdout=out, stderr=subprocess.DEVNULL
            )
        while not log.read_text() and child.poll() is None:
            time.sleep(0.01)
        return child, time.monotonic()

    def epochs(log):
        return [int(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    reference, begun = started(tmp_path / "whole", tmp_path / "whole.log")
    assert reference.wait() == 0
    span = time.monotonic() - begun
    generator, reached = random.Random(1), 0
    for kill in range(10):  # ten shares of less than a tenth, so that the run cannot be over before
        log = tmp_path / f"{kill}.log"
        child, _ = started(tmp_path / "killed", log)
        time.sleep(generator.uniform(0.03, 0.09) * span)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the run was over before it could be killed"
        seen = epochs(log)
        assert seen[0] >= reached, f"kill {kill}: more than the epoch in progress was lost"
        reached = max([reached, *seen])
    assert reached > 1, "the run never got anywhere"
    child, _ = started(tmp_path / "killed", tmp_path / "last.log")
    assert child.wait() == 0
    assert epochs(tmp_path / "last.log")[0] >= reached
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
    left = sorted(p.name for p in (tmp_path / "killed").iterdir())
    assert left == ["model.safetensors", "record.json"]
