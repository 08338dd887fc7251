"""What all backbones share: their arguments, their slots, and the last steps of construction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from attn_deploy.backbones.blocks import STEMS, init_convs
from attn_deploy.backbones.slots import Filler, Slots
from attn_deploy.ops import require_choice, require_positive


class Backbone(nn.Module):
    """A classifier of images with places that a module can fill. A subclass says its stages and builds its layers.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: width of the classifier.
        stem: ``cifar``, a stem of stride 1 for small images, or ``imagenet``, that of the published network.
        slot: fills the places of its kind; the subclass says which it has.
        slot_stage: fill the places of this stage alone.

    Raises:
        ValueError: if the stem or the stage is unknown, num_classes < 1, or the slot cannot be filled.
    """

    title: ClassVar[str]  # in messages
    dense: ClassVar[bool] = True  # whether it has 3x3 convolutions that are not depthwise

    def __init__(
        self,
        *,
        num_classes: int = 10,
        stem: str = "cifar",
        slot: Filler | None = None,
        slot_stage: str | None = None,
    ) -> None:
        super().__init__()
        require_choice("stem", stem, STEMS)
        require_positive(num_classes=num_classes)
        cifar = stem == "cifar"
        slots = Slots(self.title, slot, slot_stage, self.strides(cifar))
        self.build(slots, num_classes, cifar)
        slots.require_filled(has_convolutions=self.dense)
        self.slot_stride = slots.stride
        init_convs(self, slots.modules)

    def strides(self, cifar: bool) -> Mapping[str, int]:
        """For each stage, by how much its map is smaller than the image."""
        raise NotImplementedError(f"{type(self).__name__} must define strides")

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        """Add the layers."""
        raise NotImplementedError(f"{type(self).__name__} must define build")


def halving(stages: str, first: int, count: int, start: int = 1) -> dict[str, int]:
    """Strides of stages named ``stages`` and a number from ``start`` on, each half as large as the one before."""
    return {f"{stages}{i + start}": first * 2**i for i in range(count)}
