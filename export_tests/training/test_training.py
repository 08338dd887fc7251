"""Training: what a run learns and records, and every refusal. Tiny networks on the embedded digits."""

from __future__ import annotations

import json
import time

import pytest
import torch
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, NoDeviceError, TrainingError
from attn_deploy.resolve.checkpoints import read_weights
from attn_deploy.training.checkpoint import TrainingFolder
from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.run import require_compiler, train
from export_tests.training.tiny_runs import EPOCHS, run
from export_tests.training.tiny_runs import tiny as tiny
from export_tests.training.tiny_runs import whole as whole


def test_a_run_learns_and_says_what_it_did(whole):
    record, folder = whole
    assert record.finished
    assert len(record.history) == EPOCHS
    assert record.history[-1].loss < record.history[0].loss
    assert record.test["top1"] > 0.3, "ten classes: chance is 0.1"
    assert record.test["images"] == 360
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "record.json"]
    tensors, header = read_weights(folder)
    assert header.dataset == "digits"
    assert header.classes == tuple("0123456789")
    assert tensors.keys() == attn_deploy.create(record.model).state_dict().keys()
    assert attn_deploy.TrainingRecord.from_dict(TrainingFolder(folder).read_record()) == record


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(tiny, tmp_path):
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step \d+ of 88 \(epoch 1, learning rate .*--rate"
    ):
        run(tiny.replace("Tiny", "Unstable"), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_what_cannot_be_trained(tiny, tmp_path):
    with pytest.raises(
        InvalidRequestError, match=r"'se' is not a classifier; put it into a backbone, as in resnet8\+se"
    ):
        run("se", tmp_path)
    with pytest.raises(InvalidRequestError, match=r"give \(2, 9\); a classifier of its 10 classes gives \(2, 10\)"):
        run(tiny.replace("Tiny", "Scores"), tmp_path)
    with pytest.raises(InvalidRequestError, match="1437 training images are less than one batch of 2000"):
        run(tiny, tmp_path, recipe=recipe_for("digits", batch=2000))
    with pytest.raises(InvalidRequestError, match="no device 'tpu9'"):
        run(tiny, tmp_path, device="tpu9")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(tiny, tmp_path):
    with pytest.raises(NoDeviceError, match="torch finds no CUDA device"):
        run(tiny, tmp_path, device="cuda")


def test_compiling_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependencyError, match=r"needs a C\+\+ compiler"):
        require_compiler(torch.device("cpu"))


def test_the_command_line(tiny, tmp_path):
    folder = tmp_path / "run"
    words = ["train", tiny, "--dataset", "digits", "--epochs", "1", "-o", str(folder)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["test"]["images"] == 360
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    shown = CliRunner().invoke(app, [*words, "--resume"])
    assert f"({record['test']['correct']} of 360)" in shown.stdout
    bad = CliRunner().invoke(app, ["train", "resnet8", "--dataset", "cifar10", "--data-dir", str(tmp_path)])
    assert bad.exit_code == 1
    assert "cifar-10-batches-bin" in bad.stderr


@pytest.mark.slow
def test_resnet8_with_se_learns_the_digits(tmp_path):
    """97 % at least, within 90 s of processor time, and the same answers in ONNX Runtime."""
    begun = time.process_time()
    record = train("resnet8+se", dataset="digits", output=tmp_path / "run", threads=1)
    assert time.process_time() - begun < 90
    assert record.recipe.epochs == 20
    assert record.test["top1"] >= 0.97
    eager, exported = attn_deploy.evaluate(tmp_path / "run", runtimes=("eager", "ort-cpu"))
    assert eager.correct == record.test["correct"] == exported.correct
    assert exported.agreement.same == 360
