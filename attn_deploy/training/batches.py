"""Training images that live on the device, and are augmented there a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attn_deploy.data import ImageSet
from attn_deploy.errors import InvalidRequestError
from attn_deploy.training.recipe import Recipe

_NO_EPOCH = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Draw:
    """What chance decides in one epoch, drawn at once on the CPU, so that every device sees the same.

    Attributes:
        order: which image comes when.
        top, left: corner of the window in the padded image, for each image in that order.
        flip: whether it is mirrored.
        cut_top, cut_left: centre of the blanked square.
        side: pixels to which the shorter side is scaled after all that; chance has no part in it.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor
    cut_top: Tensor
    cut_left: Tensor
    side: int


class ResidentImages:
    """A data set on a device, as padded uint8 images.

    Args:
        images: the training split.
        recipe: says how they are augmented.
        device: where they live.

    Raises:
        InvalidRequestError: if there are fewer images than one batch, or the padding is not smaller than the image.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, device: torch.device) -> None:
        self.count = len(images)
        self.size = images.size
        if self.count < recipe.batch:
            raise InvalidRequestError(
                f"{images.name}: {self.count} training images are less than one batch of {recipe.batch}; use --batch."
            )
        if recipe.crop >= min(self.size):
            raise InvalidRequestError(f"crop is {recipe.crop}; it must be below the image's side {min(self.size)}.")
        border = (recipe.crop, recipe.crop)
        padded = np.pad(images.images, ((0, 0), (0, 0), border, border), mode="reflect")
        self._padded = torch.from_numpy(padded).to(device)
        self._labels = torch.from_numpy(images.labels).to(device)
        self._recipe = recipe
        # (pixel / 255 - mean) / std as one multiplication and one addition
        mean, std = (torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (images.mean, images.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self._device = device

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return self.count // self._recipe.batch

    def draw(self, seed: int, epoch: int) -> Draw:
        """What chance decides in an epoch: a function of the seed and the epoch, and of nothing that came before."""
        generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
        used = self.steps * self._recipe.batch
        height, width = self.size

        def integers(limit: int) -> Tensor:
            return torch.randint(0, limit, (used,), generator=generator)

        order = torch.randperm(self.count, generator=generator)[:used]
        top, left = integers(2 * self._recipe.crop + 1), integers(2 * self._recipe.crop + 1)
        flip = integers(2).bool()
        if self._recipe.alternate_flip:
            flip = self._halves(seed)[order] ^ bool(epoch % 2)
        return Draw(
            order=order.to(self._device),
            top=top.to(self._device),
            left=left.to(self._device),
            flip=flip.to(self._device),
            cut_top=integers(height).to(self._device),
            cut_left=integers(width).to(self._device),
            side=self._recipe.side(epoch, min(self.size)),
        )

    def _halves(self, seed: int) -> Tensor:
        """Which images are mirrored in even epochs; drawn from a stream that no epoch has."""
        generator = torch.Generator().manual_seed(mixed_seed(seed, _NO_EPOCH))
        return torch.randint(0, 2, (self.count,), generator=generator).bool()

    def epoch(self, draw: Draw) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised images (B, 3, H, W) in channels_last, and their labels; smaller in the first epochs."""
        height, width = self.size
        scaled = [round(n * draw.side / min(self.size)) for n in self.size]
        windows = self._padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: nothing is copied but what is taken
        for step in range(self.steps):
            part = slice(step * self._recipe.batch, (step + 1) * self._recipe.batch)
            chosen = draw.order[part]
            images = windows[chosen, :, draw.top[part], draw.left[part]]
            if self._recipe.flip:
                images = torch.where(draw.flip[part].reshape(-1, 1, 1, 1), images.flip(3), images)
            pixels = images.to(torch.float32, memory_format=torch.channels_last)
            pixels = pixels.mul_(self._scale).add_(self._shift)
            if self._recipe.cutout:
                pixels = pixels * self._kept(draw, part)
            if scaled != [height, width]:
                pixels = F.interpolate(pixels, scaled, mode="bilinear", antialias=True)
            yield pixels, self._labels[chosen]

    def _kept(self, draw: Draw, part: slice) -> Tensor:
        """1 outside the blanked square and 0, the mean, in it."""
        half = self._recipe.cutout / 2
        centres = (draw.cut_top[part], draw.cut_left[part])
        rows, columns = (
            ((torch.arange(n, device=self._device) - c[:, None]) + 0.5).abs() < half
            for n, c in zip(self.size, centres, strict=True)
        )
        return (~(rows[:, None, :, None] & columns[:, None, None, :])).float()


def mixed_seed(seed: int, epoch: int) -> int:
    """One seed from two numbers: neighbouring epochs and neighbouring seeds share no stream."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
