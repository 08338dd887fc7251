"""Whether a model can be run on the smaller images that a recipe begins with."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy.data import ImageSet
from attn_deploy.errors import TrainingError
from attn_deploy.training.recipe import Recipe


def check_sizes(model: str, module: nn.Module, images: ImageSet, recipe: Recipe) -> None:
    """Try a model, which stays as it is, on two images of each size that it will see below the full one.

    Raises:
        TrainingError: at the first size that it does not take, before anything is trained.
    """
    full = min(images.size)
    sides = sorted({recipe.side(epoch, full) for epoch in range(recipe.epochs)} - {full})
    if not sides:
        return
    example = torch.from_numpy(images.normalised(slice(0, 2)))
    trial = copy.deepcopy(module).eval()
    for side in sides:
        size = [round(n * side / full) for n in images.size]
        try:
            with torch.no_grad():
                trial(F.interpolate(example, size, mode="bilinear", antialias=True))
        except Exception as error:  # whatever the user's own code raises
            said = " ".join(str(error).split())
            raise TrainingError(
                f"{model} does not take images of {size[0]}x{size[1]}, to which its first epochs would scale them (start_side "
                f"{recipe.start_side}): {said}. Train it with --start-side 0."
            ) from error
