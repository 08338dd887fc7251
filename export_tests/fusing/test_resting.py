"""Weights that leave the memory while only the graph runs, and come back to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn_deploy.errors import ExportError
from attn_deploy.fusing import resting
from attn_deploy.fusing.copying import copy_model
from attn_deploy.fusing.resting import RestingWeights

WIDTH = 256


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.third = nn.Linear(WIDTH, WIDTH).half()
        self.register_buffer("places", torch.arange(WIDTH * WIDTH).reshape(WIDTH, WIDTH))
        self.register_buffer("precise", torch.rand(WIDTH, WIDTH, dtype=torch.float64))
        self.part = self.first.weight.detach()[3:5]

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()) + self.precise[0].float() + self.places[0] + self.part[1]
        return x + self.third(x.half()).float()


def held(*tensors: Tensor) -> list[int]:
    return [t.untyped_storage().nbytes() for t in tensors]


def test_all_that_share_a_storage_are_without_it_and_have_it_again():
    model = Net().eval()
    twin = copy_model(model, share_parameters=True)
    x = torch.rand(2, WIDTH)
    right, state = model(x), {n: t.clone() for n, t in model.state_dict().items()}
    weights = RestingWeights(model)
    for _ in range(2):
        weights.rest()
        weights.rest()
        assert held(model.first.weight, twin.first.weight, model.part, model.third.weight) == [0, 0, 0, 0]
        weights.wake()
        weights.wake()
        assert torch.equal(model(x), right)
        assert torch.equal(twin(x), right)
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_a_weight_that_was_changed_in_between_is_written_again():
    model = nn.Linear(WIDTH, WIDTH)
    weights = RestingWeights(model)
    weights.rest()
    weights.wake()
    with torch.no_grad():
        model.weight.fill_(3.0)
    weights.rest()
    weights.wake()
    assert (model.weight == 3.0).all()


def test_what_a_copy_in_float64_would_share_stays():
    model = Net().eval()
    weights = RestingWeights(model)
    weights.rest()
    assert held(model.places, model.precise, model.first.bias) == [WIDTH * WIDTH * 8, WIDTH * WIDTH * 8, WIDTH * 4]
    weights.wake()


def test_memory_that_torch_did_not_allocate_stays():
    model = nn.Linear(WIDTH, WIDTH)
    array = model.weight.detach().numpy()  # from here on torch does not let go of the storage
    weights = RestingWeights(model)
    weights.rest()
    assert held(model.weight) == [WIDTH * WIDTH * 4]
    assert array.any()


class Full:
    """A file on a full disk."""

    def write(self, _: bytes) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        """Nothing is open."""


def test_without_room_for_a_file_the_weights_stay(monkeypatch):
    model = nn.Linear(WIDTH, WIDTH)
    monkeypatch.setattr(resting.tempfile, "TemporaryFile", lambda **_: Full())
    weights = RestingWeights(model)
    weights.rest()
    assert held(model.weight) == [WIDTH * WIDTH * 4]
    weights.wake()


def test_without_a_folder_for_the_file_the_weights_stay(tmp_path):
    model = nn.Linear(WIDTH, WIDTH)
    weights = RestingWeights(model, tmp_path / "none")
    weights.rest()
    assert held(model.weight) == [WIDTH * WIDTH * 4]


def test_weights_made_for_inference_stay():
    with torch.inference_mode():
        model = nn.Linear(WIDTH, WIDTH)
    weights = RestingWeights(model)
    weights.rest()
    assert held(model.weight) == [WIDTH * WIDTH * 4]
    weights.wake()


def test_a_file_that_was_cut_is_an_error_and_no_weights():
    model = nn.Linear(WIDTH, WIDTH)
    weights = RestingWeights(model)
    weights.rest()
    weights._file.truncate(100)
    with pytest.raises(ExportError, match="read back from their temporary file: it is shorter than it was"):
        weights.wake()
