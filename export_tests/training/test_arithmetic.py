"""bfloat16 training: when it is chosen, what stays in float32, what a model without a bfloat16 form gets."""

from __future__ import annotations

import pytest
import torch

from attn_deploy.data import load_dataset
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.environment import cpu_isa
from attn_deploy.report.accuracy import training_text
from attn_deploy.training.arithmetic import choose_arithmetic
from attn_deploy.training.batches import ResidentImages
from attn_deploy.training.recipe import Recipe, recipe_for
from attn_deploy.training.run import train
from attn_deploy.training.trainer import Trainer

CPU = torch.device("cpu")
NETWORK = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 16, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

class Float32Only(Tiny):
    def forward(self, x):
        x = self.body(x)
        return self.head(torch.linalg.qr(x.mean(2))[1].mean(2) if x.dtype is torch.bfloat16 else x.mean((2, 3)))
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "net.py"
    path.write_text(NETWORK)
    return path


def run(model, output, **changed):
    return train(model, **{"dataset": "digits", "recipe": recipe_for("digits", epochs=2), "output": output, **changed})


@pytest.mark.parametrize(
    ("place", "asked", "isa", "bfloat16", "reason"),
    [
        (CPU, None, ("avx2",), False, "the processor has none of amx_bf16, avx512_bf16"),
        (CPU, None, ("avx2", "avx512_bf16"), True, "the processor has avx512_bf16"),
        (CPU, None, ("avx512_bf16", "amx_bf16"), True, "the processor has amx_bf16 and avx512_bf16"),
        (CPU, None, ("bf16",), False, "none of"),  # Arm's: nobody has measured it
        (CPU, True, (), True, "as asked for"),
        (CPU, False, ("amx_bf16",), False, "as asked for"),
        (torch.device("cuda"), None, (), True, "a CUDA device"),
        (torch.device("cuda"), False, (), False, "as asked for"),
    ],
)
def test_the_choice(place, asked, isa, bfloat16, reason):
    choice = choose_arithmetic(place, asked, isa)
    assert choice.bfloat16 is bfloat16
    assert reason in choice.reason


def test_without_a_word_it_is_what_this_processor_is_faster_at(networks, tmp_path):
    record = run(f"{networks}:Tiny", tmp_path, device="cpu")
    expected = bool({"amx_bf16", "avx512_bf16"} & set(cpu_isa()))
    assert record.amp is expected
    assert record.arithmetic.startswith(
        "bfloat16 (the processor has" if expected else "float32 (the processor has none"
    )
    assert record.arithmetic in training_text(record)


def test_weights_momentum_average_and_normalisation_stay_in_float32():
    images = ResidentImages(load_dataset("digits", "train").head(64), Recipe(batch=16, crop=0), CPU)
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, stride=4), torch.nn.BatchNorm2d(4))
    network = torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10))
    seen = []
    body[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    trainer = Trainer(network, images, Recipe(batch=16, epochs=1), seed=0, amp=True)
    trainer.run_epoch(0)
    assert set(seen) == {torch.bfloat16}, "nothing was computed in bfloat16"
    state = trainer.state()
    assert {n.partition(".")[0] for n in state} == {"model", "average", "momentum"}
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    assert trainer.average[0][1].running_var.dtype == torch.float32


def test_bfloat16_learns_what_float32_learns(networks, tmp_path):
    recipe = recipe_for("digits", epochs=4)
    shares = {
        amp: run(f"{networks}:Tiny", tmp_path / str(amp), amp=amp, device="cpu", recipe=recipe).test["top1"]
        for amp in (True, False)
    }
    assert shares[False] > 0.3
    assert abs(shares[True] - shares[False]) < 0.08, shares  # 360 images: 0.08 is three standard errors


def test_a_stopped_bfloat16_run_ends_at_the_same_weights(networks, tmp_path):
    class Stopped(BaseException):
        pass

    def stop(at):
        if at.step == 30:
            raise Stopped

    recipe = recipe_for("digits", epochs=4, start_side=16, flip=True, alternate_flip=True)
    settings = {"amp": True, "device": "cpu", "recipe": recipe}
    whole = run(f"{networks}:Tiny", tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        run(f"{networks}:Tiny", tmp_path / "stopped", on_step=stop, **settings)
    resumed = run(f"{networks}:Tiny", tmp_path / "stopped", resume=True, **settings)
    assert resumed.weights["sha256"] == whole.weights["sha256"]


def test_a_model_without_a_bfloat16_form_trains_in_float32_and_says_so(networks, tmp_path, monkeypatch):
    monkeypatch.setattr("attn_deploy.training.arithmetic.cpu_isa", lambda: ("avx512_bf16",))
    record = run(f"{networks}:Float32Only", tmp_path / "default", device="cpu")
    assert not record.amp
    assert "float32 (an operator of the model has no bfloat16 form: " in record.arithmetic
    with pytest.raises(InvalidRequestError, match=r"cannot be trained in bfloat16 on cpu: .*Leave out --amp"):
        run(f"{networks}:Float32Only", tmp_path / "asked", device="cpu", amp=True)
    remedied = run(f"{networks}:Float32Only", tmp_path / "asked", device="cpu")
    assert remedied.finished


def test_a_run_does_not_change_its_arithmetic_on_the_way(networks, tmp_path):
    first = run(f"{networks}:Tiny", tmp_path, device="cpu", amp=True)
    again = run(f"{networks}:Tiny", tmp_path, device="cpu", resume=True)
    assert again == first, "a run goes on as it was begun where nothing is asked for"
    with pytest.raises(InvalidRequestError, match="holds a run with amp True, and False was asked for"):
        run(f"{networks}:Tiny", tmp_path, device="cpu", amp=False, resume=True)


def test_a_run_begun_in_float32_goes_on_in_it_on_a_processor_that_is_faster_in_bfloat16(
    networks, tmp_path, monkeypatch
):
    class Stopped(BaseException):
        pass

    def stop(at):
        if at.step == 30:
            raise Stopped

    monkeypatch.setattr("attn_deploy.training.arithmetic.cpu_isa", lambda: ())
    with pytest.raises(Stopped):
        run(f"{networks}:Tiny", tmp_path, device="cpu", on_step=stop)
    monkeypatch.setattr("attn_deploy.training.arithmetic.cpu_isa", lambda: ("amx_bf16",))
    record = run(f"{networks}:Tiny", tmp_path, device="cpu", resume=True)
    assert record.finished
    assert not record.amp
    assert record.arithmetic == "float32 (the processor has none of amx_bf16, avx512_bf16)", "as it was begun"
