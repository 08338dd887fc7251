"""The recipe: its rates, its batches and their augmentation, and the average that follows the weights."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import attn_deploy
from attn_deploy.data import load_dataset
from attn_deploy.errors import InvalidRequestError
from attn_deploy.training.batches import ResidentImages
from attn_deploy.training.recipe import RECIPES, Recipe, recipe_for
from attn_deploy.training.trainer import Trainer
from export_tests.training.tiny_runs import tiny as tiny


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
