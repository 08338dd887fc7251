"""Whole pickled models: named, refused with their reason, and loaded only where the user says so."""

from __future__ import annotations

import os
import pickle

import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.pickle_names import names_in
from attn_deploy.resolve.resolve import resolve
from attn_deploy.resolve.trust import trusted
from attn_deploy.resolve.wanted import check_name


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2, 1)

    def forward(self, image):
        return self.head(self.stem(image).relu())


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def best(tmp_path):
    averaged = Net().half()
    torch.save({"epoch": 3, "model": Net(), "ema": averaged}, tmp_path / "best.pt")
    return tmp_path / "best.pt"


def test_the_name_of_a_pickled_model():
    name = parse_name("runs/train/best.pt+eca:kernel_size=3@stem")
    assert (name.pickled, name.slot, name.stage, name.slot_arguments) == (
        "runs/train/best.pt",
        "eca",
        "stem",
        {"kernel_size": 3},
    )
    assert name.short == "best.pt+eca:kernel_size=3@stem"
    assert name.stem == "best-eca-stem"
    assert parse_name("best.pt").stem == "best"


def test_what_a_pickle_names_is_read_without_running_it(tmp_path):
    marker = tmp_path / "was-run"
    for protocol in (2, 4):
        torch.save({"a": Evil(marker), "w": torch.ones(2)}, tmp_path / "x.pt", pickle_protocol=protocol)
        assert any(n.endswith("mkdir") for n in names_in(tmp_path / "x.pt"))
    torch.save({"a": Evil(marker)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert any(n.endswith("mkdir") for n in names_in(tmp_path / "old.pt"))
    (tmp_path / "no.pt").write_bytes(b"\x00\x01nothing")
    with pytest.raises(InvalidRequestError, match="cannot be read as a file that torch"):
        names_in(tmp_path / "no.pt")
    assert not marker.exists()


@pytest.mark.parametrize("ask", [check_name, resolve, attn_deploy.lint])
def test_it_is_refused_with_the_reason_and_the_remedy(best, ask):
    with pytest.raises(
        InvalidRequestError, match=r"whole pickled model \(.*test_pickles\.Net.*run the code.*--trust.*--weights"
    ):
        ask(str(best))


def test_code_beside_weights_is_never_run_without_trust(tmp_path):
    marker = tmp_path / "was-run"
    torch.save({"state_dict": Net().state_dict(), "hook": Evil(marker)}, tmp_path / "net.pt")
    for command in (["export", str(tmp_path / "net.pt")], ["export", "resnet8", "--weights", str(tmp_path / "net.pt")]):
        result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "net.onnx")])
        assert result.exit_code != 0
    with (tmp_path / "raw.pt").open("wb") as file:
        pickle.dump(Evil(marker), file)
    with pytest.raises(InvalidRequestError, match="trust"):
        check_name(str(tmp_path / "raw.pt"))
    assert not marker.exists()


def test_with_trust_the_averaged_model_is_taken(best):
    with attn_deploy.trusting():
        model = resolve(str(best))
        with_module = resolve(f"{best}+eca@stem")
    assert not trusted()
    assert model.weights[::2] == ("best.pt", "its 'ema', not 'model'")
    assert with_module.weights == (*model.weights, "what is put behind stem is new, and random")
    right = torch.load(best, weights_only=False)["ema"].float()
    assert torch.equal(model.module.stem.weight, right.stem.weight)
    assert model.module.stem.weight.dtype == torch.float32
    assert not model.module.training
    assert any("inserted" in n for n, _ in with_module.module.named_modules())


def test_the_option_of_the_command_line(best, tmp_path):
    arguments = ["export", str(best), "--input", "1x3x16x16", "-o", str(tmp_path / "net.onnx")]
    assert CliRunner().invoke(app, arguments).exit_code != 0
    result = CliRunner().invoke(app, [*arguments, "--trust"])
    assert result.exit_code == 0, result.output
    assert "its 'ema', not 'model'" in result.output
    assert "random" not in result.output, "a whole model brings its own weights"
    assert not trusted()
    dims = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 3, "H", "W"]


def test_a_state_dict_is_a_checkpoint_and_no_model(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    for ask in (check_name, resolve):
        with pytest.raises(InvalidRequestError, match=r"is a checkpoint.*--weights"):
            ask(str(tmp_path / "net.pt"))
    with attn_deploy.trusting(), pytest.raises(InvalidRequestError, match="is a checkpoint"):
        resolve(str(tmp_path / "net.pt"))


def test_classes_that_are_not_installed_are_named(tmp_path, monkeypatch):
    (tmp_path / "their_net.py").write_text("from torch import nn\nclass Theirs(nn.Module):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import their_net

    torch.save(their_net.Theirs(), tmp_path / "theirs.pt")
    monkeypatch.delitem(__import__("sys").modules, "their_net")
    (tmp_path / "their_net.py").unlink()
    with attn_deploy.trusting(), pytest.raises(MissingDependencyError, match="'their_net'"):
        resolve(str(tmp_path / "theirs.pt"))
