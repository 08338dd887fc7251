"""The parts of the recipe that change from epoch to epoch: sizes that grow, halves that are mirrored in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_deploy.data import load_dataset
from attn_deploy.errors import InvalidRequestError, TrainingError
from attn_deploy.training.batches import ResidentImages
from attn_deploy.training.recipe import Recipe, recipe_for
from attn_deploy.training.run import train

CPU = torch.device("cpu")


def test_sides_grow_in_steps_of_four_to_the_full_one():
    recipe = Recipe(epochs=12, start_side=16, growth=0.5)
    sides = [recipe.side(e, 32) for e in range(12)]
    assert sides[0] == 16
    assert sides == sorted(sides)
    assert all(s % 4 == 0 for s in sides)
    assert sides[6:] == [32] * 6
    assert max(sides[:6]) < 32
    assert [Recipe(epochs=4).side(e, 30) for e in range(4)] == [30] * 4
    assert Recipe(epochs=4, start_side=40).side(0, 32) == 32, "images are not made larger"
    assert Recipe(epochs=1, start_side=16).side(0, 32) in (16, 32)


@pytest.mark.parametrize("changed", [{"start_side": -1}, {"growth": 1.0}, {"flip": False, "alternate_flip": True}])
def test_settings_that_cannot_be(changed):
    with pytest.raises(InvalidRequestError, match=list(changed)[-1]):
        Recipe(**changed)


def test_small_images_are_the_full_ones_scaled():
    digits = load_dataset("digits", "train").head(32)
    full = ResidentImages(digits, Recipe(batch=16, crop=0, flip=False, epochs=4), CPU)
    small = ResidentImages(digits, Recipe(batch=16, crop=0, flip=False, epochs=4, start_side=16), CPU)
    draws = full.draw(0, 0), small.draw(0, 0)
    assert torch.equal(draws[0].order, draws[1].order)
    for (large, labels), (scaled, same) in zip(full.epoch(draws[0]), small.epoch(draws[1]), strict=True):
        assert scaled.shape == (16, 3, 16, 16)
        assert torch.equal(labels, same)
        assert scaled.is_contiguous(memory_format=torch.channels_last)
        assert abs(float(scaled.mean() - large.mean())) < 0.05
        coarse = torch.nn.functional.avg_pool2d(large, 2)
        assert float(torch.corrcoef(torch.stack([coarse.flatten(), scaled.flatten()]))[0, 1]) > 0.97
    assert next(small.epoch(small.draw(0, 3)))[0].shape == (16, 3, 32, 32)


FIXED = """
from torch import nn

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))
"""


def test_a_model_of_one_size_is_refused_before_its_first_step(tmp_path):
    (tmp_path / "net.py").write_text(FIXED)
    model = f"{tmp_path}/net.py:Fixed"
    settings = {"dataset": "digits", "device": "cpu", "output": tmp_path / "run"}
    recipe = recipe_for("digits", epochs=2, start_side=16)
    with pytest.raises(TrainingError, match=r"does not take images of 16x16.*start_side 16.*--start-side 0"):
        train(model, recipe=recipe, on_step=lambda _: pytest.fail("a step was made"), **settings)
    assert train(model, recipe=recipe_for("digits", epochs=2, start_side=0), **settings).finished


def test_two_epochs_show_each_image_both_ways():
    images = ResidentImages(load_dataset("digits", "train").head(64), Recipe(batch=16, alternate_flip=True), CPU)
    flips = np.zeros((4, 64), bool)
    for epoch in range(4):
        draw = images.draw(5, epoch)
        flips[epoch, draw.order.numpy()] = draw.flip.numpy()
    assert (flips[0] != flips[1]).all()
    assert (flips[0] == flips[2]).all()
    assert (flips[1] == flips[3]).all()
    assert 15 < flips[0].sum() < 50
    other = images.draw(6, 0)
    assert (flips[0, other.order.numpy()] != other.flip.numpy()).any(), "the halves depend on the seed"
