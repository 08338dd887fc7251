"""The recipe: one place says how every model is trained, so that a table compares models and nothing else.

SGD with Nesterov momentum under a one-cycle learning rate (linear up, linear down to zero), label smoothing, weight decay
on the weights of convolutions and linear layers alone, random crops after reflection padding, flips, smaller images in the
first epochs, and an exponential average of the weights over the last part of the run, which is what is tested, once, on the
images as they are: no test-time augmentation. Nothing is added to the model, so that what was trained is what is exported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from attn_deploy.data import require_dataset
from attn_deploy.errors import InvalidRequestError
from attn_deploy.reading import typed

_AT_LEAST_ZERO = ("peak_rate", "weight_decay", "crop", "cutout", "start_side")
_SHARES = ("warmup", "momentum", "label_smoothing", "ema_share", "growth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of a training run.

    Attributes:
        epochs: passes over the training images.
        batch: images of one step; what is left over at the end of an epoch waits for the next shuffle.
        peak_rate: learning rate at the top of the cycle, for a batch of 128; it grows with the batch.
        warmup: share of the steps on the way up.
        momentum: of SGD, with Nesterov's correction.
        weight_decay: on weights of two or more axes.
        label_smoothing: probability that is spread over all classes.
        ema_share: the average of the weights reaches back over about this share of the steps.
        crop: pixels of reflection padding around the image before a window of its size is cut out.
        flip: mirror half of the images.
        alternate_flip: draw once which half, and mirror the other half in every second epoch, so that two epochs show each
            image both ways.
        start_side: side in pixels to which the images of the first epoch are scaled, where it is below their own; 0 for
            their own from the start.
        growth: share of the epochs over which the side grows to the full one.
        cutout: side in pixels of a square that is blanked; 0 for none.
    """

    epochs: int = 10
    batch: int = 128
    peak_rate: float = 0.1
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema_share: float = 0.05
    crop: int = 4
    flip: bool = True
    cutout: int = 0
    alternate_flip: bool = False
    start_side: int = 0
    growth: float = 0.5

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in (*_AT_LEAST_ZERO, *_SHARES):
            if not 0 <= getattr(self, name) < math.inf:  # refuses NaN too
                raise InvalidRequestError(
                    f"{name} is {getattr(self, name)}; it must be a finite number, and cannot be negative."
                )
        for name in _SHARES:
            if getattr(self, name) >= 1:
                raise InvalidRequestError(f"{name} is {getattr(self, name)}; it must be below 1.")
        if self.alternate_flip and not self.flip:
            raise InvalidRequestError("alternate_flip is set and flip is not: there is nothing to alternate.")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of a run of so many steps."""
        top = max(1.0, self.warmup * steps)
        share = (step + 1) / top if step + 1 <= top else (steps - step) / (steps - top + 1)
        return self.peak_rate * self.batch / 128 * share

    def side(self, epoch: int, full: int) -> int:
        """Pixels to which the shorter side of the images is scaled in an epoch: a multiple of 4, until it is ``full``."""
        growing = round(self.growth * self.epochs)
        if not 0 < self.start_side < full or epoch >= growing:
            return full
        return min(full, 4 * round((self.start_side + (full - self.start_side) * epoch / growing) / 4))

    def ema_decay(self, step: int, steps: int) -> float:
        """Weight of the old average at a step: the first steps count for little."""
        return min(1 - 1 / max(1.0, self.ema_share * steps), (1 + step) / (10 + step))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        return typed(data, cls)


RECIPES = {
    "cifar10": Recipe(epochs=30),
    "digits": Recipe(epochs=20, batch=64, crop=2, flip=False),  # a mirrored digit is another digit, or none
    "folder": Recipe(epochs=30),
}


def recipe_for(dataset: str, **changes: Any) -> Recipe:
    """The recipe of a data set with those settings changed that are not None.

    Raises:
        InvalidRequestError: if there is no such data set, or a value cannot be used.
    """
    require_dataset(dataset)
    return replace(RECIPES[dataset], **{k: v for k, v in changes.items() if v is not None})
