"""Training: the recipe, augmentation, stopping and going on, and every refusal. Tiny networks on the embedded digits."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.data import load_dataset
from attn_deploy.errors import (
    CheckpointError,
    InvalidRequestError,
    MissingDependencyError,
    NoDeviceError,
    TrainingError,
)
from attn_deploy.resolve.checkpoints import read_weights
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.trained import load_trained
from attn_deploy.training.batches import ResidentImages
from attn_deploy.training.checkpoint import TrainingFolder
from attn_deploy.training.recipe import RECIPES, Recipe, recipe_for
from attn_deploy.training.run import require_compiler, train
from attn_deploy.training.trainer import Trainer

NETWORK = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 4, stride=4, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                                  nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def eleven():
    return Tiny()

class Scores(Tiny):
    def forward(self, x):
        return super().forward(x)[:, :9]

class Unstable(Tiny):
    def forward(self, x):
        return super().forward(x) * 1e38
"""
EPOCHS = 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("networks") / "net.py"
    path.write_text(NETWORK)
    return f"{path}:Tiny"


def run(model, output, epochs=EPOCHS, **changed):
    settings = {"dataset": "digits", "recipe": recipe_for("digits", epochs=epochs), "output": output, **changed}
    return train(model, **settings)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("run")
    return run(tiny, folder), folder


# recipe and batches


def test_the_rate_rises_to_its_peak_and_falls_to_zero():
    recipe = Recipe(epochs=1, batch=256, peak_rate=0.1, warmup=0.2)
    rates = [recipe.rate(s, 100) for s in range(100)]
    assert rates.index(max(rates)) == 19
    assert max(rates) == pytest.approx(0.2)
    assert all(a < b for a, b in itertools.pairwise(rates[:20]))
    assert all(a > b for a, b in itertools.pairwise(rates[19:]))
    assert 0 < rates[0] <= 0.0101
    assert 0 < rates[-1] < 0.005
    assert all(Recipe(warmup=0.0).rate(s, 1) > 0 for s in range(1))


@pytest.mark.parametrize(
    "changed", [{"epochs": 0}, {"batch": 0}, {"peak_rate": -1.0}, {"peak_rate": float("nan")}, {"momentum": 1.0}]
)
def test_recipes_that_cannot_be(changed):
    with pytest.raises(InvalidRequestError, match=next(iter(changed))):
        replace(RECIPES["cifar10"], **changed)


def test_recipes_go_through_json():
    for recipe in RECIPES.values():
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(InvalidRequestError, match="no data set 'cifar'"):
        recipe_for("cifar")


def resident(**changed):
    digits = load_dataset("digits", "train").head(64)
    recipe = Recipe(**{"batch": 16, "crop": 0, "flip": False, **changed})
    return digits, ResidentImages(digits, recipe, torch.device("cpu"))


def test_without_augmentation_batches_are_the_normalised_images():
    digits, images = resident()
    draw = images.draw(0, 0)
    given = torch.cat([x for x, _ in images.epoch(draw)])
    np.testing.assert_allclose(given.numpy(), digits.normalised()[draw.order.numpy()], rtol=1e-5, atol=1e-5)
    assert sorted(draw.order.tolist()) == list(range(64))
    assert torch.equal(torch.cat([y for _, y in images.epoch(draw)]), torch.from_numpy(digits.labels)[draw.order])
    assert next(images.epoch(draw))[0].is_contiguous(memory_format=torch.channels_last)


def test_crops_are_windows_of_the_reflected_image_and_flips_mirror_them():
    digits, images = resident(crop=3, flip=True)
    draw = images.draw(0, 0)
    given = torch.cat([x for x, _ in images.epoch(draw)]).numpy()
    padded = np.pad(digits.images, ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")
    moved = 0
    for k, index in enumerate(draw.order.tolist()):
        top, left = int(draw.top[k]), int(draw.left[k])
        window = padded[index, :, top : top + 32, left : left + 32]
        window = window[:, :, ::-1] if draw.flip[k] else window
        expected = (window / 255.0 - digits.mean[0]) / digits.std[0]
        np.testing.assert_allclose(given[k], expected, rtol=1e-4, atol=1e-5)
        moved += (top, left) != (3, 3)
    assert moved > 40
    assert 15 < int(draw.flip.sum()) < 50


def test_cutout_blanks_a_square_at_the_mean():
    _, images = resident(cutout=8)
    draw = images.draw(0, 0)
    _, plain = resident()
    for (cut, _), (full, _) in zip(images.epoch(draw), plain.epoch(draw), strict=True):
        changed = (cut != full).any(1)
        blank = (cut == 0).all(1)
        assert bool((~changed | blank).all())
        assert 16 <= int(blank.sum((1, 2)).min()) <= int(blank.sum((1, 2)).max()) <= 64


def test_chance_is_a_function_of_seed_and_epoch():
    _, images = resident(crop=2)
    assert torch.equal(images.draw(1, 2).order, images.draw(1, 2).order)
    assert not torch.equal(images.draw(1, 2).order, images.draw(2, 1).order)
    assert not torch.equal(images.draw(1, 2).order, images.draw(1, 3).order)


def test_the_average_follows_the_weights(tiny):
    torch.manual_seed(0)
    _, images = resident()
    module = attn_deploy.create(tiny)
    trainer = Trainer(module, images, Recipe(epochs=1, batch=16, ema_share=0.0), seed=0)
    trainer.run_epoch(0)
    for a, b in zip(trainer.average.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a, b)  # with no reach, the average is the last weights
    before = {k: v.clone() for k, v in trainer.average.state_dict().items()}
    slow = Trainer(module, images, Recipe(epochs=1000, batch=16, ema_share=0.5), seed=0)
    slow.run_epoch(900)
    moved = [float((before[k] - v).abs().max()) for k, v in slow.average.state_dict().items() if v.is_floating_point()]
    assert 0 < max(moved) < 0.05


# runs


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


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def assert_same_weights(folder: Path, other: Path) -> None:
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


class Stopped(BaseException):
    """What stops a run in a test; no code catches it."""


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


def test_a_checkpoint_of_another_model(whole, tmp_path):
    tensors, header = read_weights(whole[1])
    save_file(
        tensors,
        tmp_path / "a.safetensors",
        metadata={"attn_deploy": json.dumps({**asdict(header), "model": "resnet8"})},
    )
    with pytest.raises(CheckpointError, match="belongs to another model: missing tensors: bn1"):
        attn_deploy.create(str(tmp_path / "a.safetensors"))
    wider = {**tensors, "head.weight": torch.zeros(10, 3)}
    save_file(wider, tmp_path / "b.safetensors", metadata={"attn_deploy": json.dumps(asdict(header))})
    with pytest.raises(CheckpointError, match=r"head.weight has the shape \(10, 3\), expected \(10, 16\)"):
        load_trained(parse_name(str(tmp_path / "b.safetensors")), header.model)
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="does not say of what model it is"):
        attn_deploy.create(str(tmp_path / "c.safetensors"))
    (tmp_path / "d.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        attn_deploy.create(str(tmp_path / "d.safetensors"))


def test_what_a_file_says_does_not_choose_code_to_run(whole, tmp_path):
    """The header of weights from elsewhere may name a Python file, or a factory of a package."""
    tensors, header = read_weights(whole[1])
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w').close()\n")
    for name in (f"{tmp_path}/evil.py:Net", "timm:resnet18", str(whole[1])):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        text = json.dumps({**asdict(header), "model": name})
        save_file(tensors, folder / "model.safetensors", metadata={"attn_deploy": text})
        for path in (folder, folder / "model.safetensors"):
            with pytest.raises(InvalidRequestError, match="must not choose code to run"):
                attn_deploy.evaluate(path, dataset="digits")
            with pytest.raises(InvalidRequestError, match="must not choose code to run"):
                attn_deploy.export(str(path), tmp_path / "x.onnx")
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize(
    "change", [{"model": 3}, {"arguments": [1]}, {"classes": "ten"}, {"mean": [0.5]}, {"std": None}]
)
def test_a_damaged_header_is_refused_with_its_field(change, whole, tmp_path):
    tensors, header = read_weights(whole[1])
    text = json.dumps({**asdict(header), **change})
    save_file(tensors, tmp_path / "a.safetensors", metadata={"attn_deploy": text})
    with pytest.raises(CheckpointError, match=next(iter(change))):
        attn_deploy.create(str(tmp_path / "a.safetensors"))


def test_the_users_own_model_is_named_by_the_user(tiny, whole):
    (result,) = attn_deploy.evaluate(whole[1], trained_as=tiny, images=20)
    assert result.count == 20
    with pytest.raises(InvalidRequestError, match=f"was trained as {re.escape(tiny)}"):
        attn_deploy.evaluate(whole[1], trained_as="resnet8")


@pytest.mark.parametrize("weights", [None, {"file": "../x", "sha256": "0"}])
def test_a_record_that_names_other_weights_proves_none(whole, tmp_path, weights):
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "weights": weights}))
    with pytest.raises(CheckpointError, match="nothing says that these are what was trained"):
        attn_deploy.create(str(folder))


def test_weights_that_are_not_those_of_the_record_are_refused(tiny, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-400:-40] = bytes(360)
    file.write_bytes(content)
    uses = (
        lambda: attn_deploy.evaluate(folder, trained_as=tiny),
        lambda: attn_deploy.create(str(folder)),
        lambda: run(tiny, folder, resume=True, threads=whole[0].threads),
    )
    for use in uses:
        with pytest.raises(CheckpointError, match="is not the file that was trained: its sha256 is"):
            use()
    file.unlink()
    for use in uses:
        with pytest.raises(CheckpointError, match=r"there is no .*model\.safetensors, which .* names"):
            use()


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
