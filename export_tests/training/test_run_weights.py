"""A run's weights: whose they are, what their header may say, and which record proves them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

import attn_deploy
from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.resolve.checkpoints import read_weights
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.trained import load_trained
from export_tests.training.tiny_runs import run
from export_tests.training.tiny_runs import tiny as tiny
from export_tests.training.tiny_runs import whole as whole


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
